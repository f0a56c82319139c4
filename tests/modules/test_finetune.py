"""The training module: its schedule, what its checkpoint holds, what it refuses, which modules train."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hotfix.adapters import IA3, Adapter, FullFineTuning, LoRA, PrefixTuning
from hotfix.data import PairFiles
from hotfix.data.packing import Batch, pack
from hotfix.errors import ConfigError, PatchError
from hotfix.losses import NLL, KLToReference, L2Anchor, Objective
from hotfix.models.tiny import tiny_model
from hotfix.modules import FineTune
from hotfix.modules.finetune import linear_schedule
from hotfix.patches import AdapterPatch, WeightDelta, load_patch, save_patch
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


ADAPTERS: dict[str, tuple[Adapter, float, type]] = {
    "lora": (LoRA(rank=2, dropout=0.3), 1e-3, AdapterPatch),
    "dora": (LoRA(rank=2, dora=True), 1e-3, AdapterPatch),
    "ia3": (IA3(), 1e-2, AdapterPatch),
    "prefix": (PrefixTuning(3), 3e-2, AdapterPatch),
    "full": (FullFineTuning(), 2e-5, WeightDelta),
    "upper full": (FullFineTuning(layers=[1]), 2e-5, WeightDelta),
}
every_adapter = pytest.mark.parametrize("name", ADAPTERS)


def module_of(name: str, rate: float | None = None) -> FineTune:
    torch.manual_seed(11)
    made = FineTune(Objective(NLL(), retain=KLToReference({"fixed": 1.0})), ADAPTERS[name][0], "tiny", "auto", rate)
    made.configure_model()
    return made


class SaveAt(Callback):
    """Saves a checkpoint behind an optimizer step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def train(tmp_path: Path, pairs: Path, made: FineTune, *callbacks: Callback, **options: Any) -> None:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    root = str(tmp_path)
    trainer = HotfixTrainer(default_root_dir=root, accelerator="cpu", max_steps=4, logger=False, **quiet)  # type: ignore[arg-type]
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    data = PairFiles(str(pairs), tokenizer_name="tiny", batch_size=4, retain=None, max_length=200)
    trainer.fit(made, data, **options)


@every_adapter
def test_every_adapter_has_a_learning_rate_of_its_own_which_the_configuration_may_change(name: str) -> None:
    adapter, rate, _ = ADAPTERS[name]
    assert FineTune(Objective(NLL()), adapter).learning_rate == rate
    assert FineTune(Objective(NLL()), adapter, learning_rate=0.5).learning_rate == 0.5


@every_adapter
def test_a_resumed_run_ends_where_an_unbroken_one_ends(name: str, tmp_path: Path, pairs: Path) -> None:
    whole = module_of(name, 1e-2)
    train(tmp_path, pairs, whole, SaveAt(2, tmp_path / "half.ckpt"))
    resumed = module_of(name, 1e-2)
    train(tmp_path, pairs, resumed, ckpt_path=str(tmp_path / "half.ckpt"))
    one, other = (dict(made.policy.named_parameters()) for made in (whole, resumed))
    moved = dict(module_of(name).policy.named_parameters())
    for parameter in trained(whole.policy):
        assert torch.equal(one[parameter], other[parameter]), parameter
        assert not torch.equal(one[parameter], moved[parameter]), parameter


@every_adapter
def test_what_was_trained_comes_out_as_a_patch_that_can_be_measured(name: str, tmp_path: Path, pairs: Path) -> None:
    made = module_of(name, 1e-2)
    train(tmp_path, pairs, made)
    ids = torch.arange(1, 41).reshape(2, 20)
    made.policy.eval()
    with torch.no_grad():
        expected: Any = made.policy(input_ids=ids)
    save_patch(made.make_patch(), tmp_path / "patch")
    assert type(load_patch(tmp_path / "patch")) is ADAPTERS[name][2]
    # The configuration beside a patch may name any adapter.
    again = FineTune(Objective(NLL()), LoRA(), "tiny", made.dtype_name, patch=str(tmp_path / "patch"))
    again.configure_model()
    with torch.no_grad():
        assert torch.equal(again.policy(input_ids=ids).logits, expected.logits)
        with again.reference():
            got = again.policy(input_ids=ids).logits
        base = tiny_model().to(got.dtype)  # type: ignore[arg-type]
        assert torch.equal(got, base(input_ids=ids).logits)


def test_the_anchor_holds_full_fine_tuning_to_the_base(tmp_path: Path, pairs: Path) -> None:
    drifts = []
    for weight in (0.0, 1e3):
        torch.manual_seed(11)
        adapter = FullFineTuning()
        made = FineTune(Objective(NLL(), retain=L2Anchor(weight)), adapter, "tiny", "auto", 1e-2)
        made.configure_model()
        train(tmp_path, pairs, made)
        drifts.append(adapter.squared_drift(made.policy).item())
    assert drifts[1] < 0.5 * drifts[0]


def test_dropout_of_the_base_stays_off() -> None:
    config = GPT2Config(vocab_size=257, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    base = GPT2LMHeadModel(config)
    assert config.resid_pdrop > 0
    made = FineTune(Objective(NLL()), LoRA(rank=2, dropout=0.5), "tiny", "float32")
    made.model = made.adapter.attach(base)
    made._train_mode()
    on = {name for name, part in made.policy.named_modules() if part.training and isinstance(part, nn.Dropout)}
    assert on
    assert all("lora_dropout" in name for name in on)


@pytest.mark.parametrize("adapter", [LoRA(rank=2), LoRA(rank=2, layers=[1]), IA3(), FullFineTuning()])
def test_gradient_checkpointing_computes_blocks_twice_and_changes_no_gradient(
    adapter: Adapter, tmp_path: Path, pairs: Path
) -> None:
    found, passes = [], []
    for checkpointing in (False, True):
        torch.manual_seed(11)
        made = FineTune(
            Objective(NLL()), adapter, "tiny", "float32", 1e-2, gradient_checkpointing=checkpointing, cache_base=0
        )
        made.configure_model()
        count = [0]
        block: Any = next(m for m in made.policy.modules() if type(m).__name__ == "LlamaDecoderLayer")
        # What comes before a pass: the second one stops where it has all that the gradient needs.
        block.mlp.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        train(tmp_path, pairs, made)
        found.append({n: p.detach() for n, p in made.policy.named_parameters() if p.requires_grad})
        passes.append(count[0])
    # A hundredth of a step: Adam divides even the smallest gradient by its own size.
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)
    assert passes[1] > passes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"adapter": PrefixTuning(), "gradient_checkpointing": True},
            r"gradient_checkpointing is on, but it drops the keys and values that PrefixTuning puts before the rows",
        ),
        (
            {"adapter": FullFineTuning(), "dtype": "bfloat16"},
            r"model\.init_args\.dtype is bfloat16, but FullFineTuning trains the base's own weights, whose steps",
        ),
    ],
)
def test_what_can_not_work_together_is_refused_before_anything_is_loaded(options: dict[str, Any], message: str) -> None:
    with (
        mock.patch("hotfix.modules.finetune.load_causal_lm", side_effect=AssertionError),
        pytest.raises(ConfigError, match=message),
    ):
        FineTune(Objective(NLL()), model_name="tiny", **options)
