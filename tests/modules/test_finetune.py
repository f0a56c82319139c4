"""The training module: its schedule, what its checkpoint holds, what it refuses, which modules train."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from hotfix.adapters import LoRA
from hotfix.data import PairFiles
from hotfix.data.packing import Batch, pack
from hotfix.errors import ConfigError, PatchError
from hotfix.losses import NLL, KLToReference, Objective
from hotfix.models.tiny import tiny_model
from hotfix.modules import FineTune
from hotfix.modules.finetune import linear_schedule
from hotfix.trainer import HotfixTrainer


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [f'{{"prefix": "x{i} = ", "buggy": "{i}", "fixed": "{i + 1}"}}' for i in range(8)]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def module(**options: Any) -> FineTune:
    made = FineTune(Objective(NLL()), LoRA(rank=4, dropout=0.5), "tiny", "float32", **options)
    made.configure_model()
    return made


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def fit(tmp_path: Path, pairs: Path, made: FineTune, **options: Any) -> HotfixTrainer:
    data = PairFiles(str(pairs), tokenizer_name="tiny", batch_size=4, retain=None, max_length=200)
    trainer = HotfixTrainer(
        default_root_dir=str(tmp_path),
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(made, data, **options)
    return trainer


@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 10), (3, 10), (10, 10), (1, 2)])
def test_schedule_is_two_straight_lines(warmup: int, total: int) -> None:
    factors = [linear_schedule(step, warmup, total) for step in range(total + 1)]
    assert factors[-1] == 0.0
    assert max(factors) == 1.0
    assert factors[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    falling = factors[warmup:]
    steps = [a - b for a, b in pairwise(falling)]
    assert steps == pytest.approx([1 / max(1, total - warmup)] * len(steps))
    assert linear_schedule(total + 5, warmup, total) == 0.0


def test_checkpoint_holds_adapter_and_optimizer_only(tmp_path: Path, pairs: Path) -> None:
    made = module()
    trainer = fit(tmp_path, pairs, made)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert set(checkpoint["state_dict"]) == trained(made)
    assert all("lora_" in name for name in checkpoint["state_dict"])
    [optimizer] = checkpoint["optimizer_states"]
    assert len(optimizer["state"]) == len(trained(made))
    numbers = sum(p.numel() for p in made.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in made.parameters())
    buffer = io.BytesIO()
    torch.save({name: torch.zeros_like(p) for name, p in made.named_parameters()}, buffer)
    size = (tmp_path / "last.ckpt").stat().st_size
    assert everything > 9 * numbers
    # Weights and two moments in float32, and names; the base alone would be larger.
    assert 3 * 4 * numbers < size < 3 * 4 * numbers + 60_000 < buffer.tell() + 60_000


def test_checkpoint_of_another_base_is_refused_by_name(tmp_path: Path, pairs: Path) -> None:
    fit(tmp_path, pairs, module()).save_checkpoint(tmp_path / "last.ckpt")
    with mock.patch("hotfix.models.loading.tiny_model", return_value=tiny_model(seed=1)):
        other = module()
    expected = (
        r"checkpoint was made for tiny \(weights [0-9a-f]{12}\), but .*model_name is tiny \(weights [0-9a-f]{12}\)"
    )
    with pytest.raises(PatchError, match=expected):
        fit(tmp_path, pairs, other, ckpt_path=str(tmp_path / "last.ckpt"))


def test_checkpoint_of_something_else_is_refused() -> None:
    with pytest.raises(PatchError, match="made for an unknown model"):
        module().on_load_checkpoint({"state_dict": {}})


def test_a_length_above_the_context_is_refused(tmp_path: Path, pairs: Path) -> None:
    made = FineTune(Objective(NLL()), LoRA(rank=4), "tiny", "float32")
    data = PairFiles(str(pairs), tokenizer_name="tiny", retain=None, max_length=513)
    trainer = HotfixTrainer(default_root_dir=str(tmp_path), accelerator="cpu", max_steps=1, logger=False)
    with pytest.raises(ConfigError, match="max_length is 513, but tiny has a context of 512 tokens; lower it"):
        trainer.fit(made, data)


@pytest.mark.parametrize("rate", [0.0, -1e-3])
def test_a_learning_rate_that_can_not_learn_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"learning_rate is .*, expected more than 0"):
        FineTune(Objective(NLL()), learning_rate=rate)


def test_only_the_adapter_is_in_training_mode() -> None:
    made = module()
    made._train_mode()
    training = {name for name, part in made.policy.named_modules() if part.training}
    assert training
    assert all("lora_" in name for name in training)
    assert {name.rpartition(".")[0] for name in trained(made.policy)} <= training
    assert any(isinstance(part, nn.Dropout) and part.training for part in made.policy.modules())


def test_first_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    first = module()
    torch.manual_seed(3)
    torch.rand(100)
    second = module()
    torch.manual_seed(4)
    third = module()
    weights = [{n: p for n, p in m.named_parameters() if "lora_A" in n} for m in (first, second, third)]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
    assert not any(torch.equal(weights[0][n], weights[2][n]) for n in weights[0])


def test_training_changes_the_adapter_and_nothing_else(tmp_path: Path, pairs: Path) -> None:
    made = module()
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    fit(tmp_path, pairs, made)
    changed = {name for name, p in made.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained(made)


def test_a_loss_of_nothing_still_goes_backward() -> None:
    made = FineTune(Objective(retain=KLToReference({"retain": 1.0})), LoRA(rank=4), "tiny", "float32")
    made.configure_model()
    with mock.patch.object(FineTune, "trainer", mock.Mock(world_size=1)), mock.patch.object(made, "log_dict"):
        loss = made.training_step(_empty_batch(), 0)
    loss.backward()
    assert loss.item() == 0
    grads = [p.grad for p in made.parameters() if p.requires_grad]
    assert all(grad is not None and bool((grad == 0).all()) for grad in grads)


def test_without_a_model_the_policy_is_refused() -> None:
    with pytest.raises(RuntimeError, match="configure_model was not called yet"):
        _ = FineTune(Objective(NLL())).policy


def _empty_batch() -> Batch:
    return pack([], [])
