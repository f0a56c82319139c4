"""Relearning and rounding attack the base before and the patched model after, and leave the run's model alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hotfix.adapters import LoRA, PrefixTuning
from hotfix.data import PairFiles
from hotfix.errors import ConfigError, ModelError
from hotfix.metrics import Record
from hotfix.models.folded import folded_copy
from hotfix.models.quantised import reload_quantised
from hotfix.models.tiny import TINY_MODEL, tiny_model, tiny_tokenizer
from hotfix.tasks import Relearning, Rounding, Slice, Subject, Task
from hotfix.tasks.scoring import pair_log_probs

IDS = torch.arange(1, 13)[None]
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture
def data(tmp_path: Path) -> PairFiles:
    path = tmp_path / "pairs.jsonl"
    rows = [
        f'{{"prefix": "v{i} = hash(", "buggy": "md5", "fixed": "sha2", "rule": "{i % 3}", "split": "{split}"}}\n'
        for i, split in enumerate(["train"] * 6 + ["validation"] + ["test"] * 5)
    ]
    path.write_text("".join(rows), encoding="utf-8")
    return PairFiles(str(path), str(path), str(path), tokenizer_name=TINY_MODEL, retain=None)


def patched() -> nn.Module:
    torch.manual_seed(0)
    model = LoRA(rank=4).attach(tiny_model())
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = torch.randn_like(p) / 5
    return model.eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def observe(task: Task, model: nn.Module, part: Slice, base: list[Record] | None) -> list[Record]:
    subject = Subject(model, tiny_tokenizer(), nullcontext, 0, lambda done: None)
    with torch.no_grad():
        return task.observe(subject, part.name, list(enumerate(part.examples)), base)


def test_a_folded_copy_is_the_patched_model_or_the_base() -> None:
    model = patched()
    before = logits(model)
    torch.testing.assert_close(logits(folded_copy(model)), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(folded_copy(model, base=True)), logits(tiny_model()))
    assert torch.equal(logits(model), before)
    assert torch.equal(logits(folded_copy(tiny_model())), logits(tiny_model()))


def test_what_has_no_place_in_the_weights_is_refused() -> None:
    prefix = PrefixTuning(3).attach(tiny_model())
    with pytest.raises(ModelError, match="prefix tuning adds keys and values"):
        folded_copy(prefix)
    assert torch.equal(logits(folded_copy(prefix, base=True)), logits(tiny_model()))


def test_relearning_brings_the_bug_back_by_the_steps(data: PairFiles) -> None:
    task = Relearning(steps=[1, 30], pairs=4, learning_rate=5e-3)
    parts = task.slices(data, "test")
    assert [(part.name, len(part.examples)) for part in parts] == [("steps_1", 5), ("steps_30", 5)]
    once, often = ([record["p_buggy"] for record in observe(task, tiny_model(), part, None)] for part in parts)
    plain = [pair_log_probs(tiny_model(), [e.payload])[0].buggy for e in parts[0].examples]
    assert all(Tensor([p]).exp() < a < b for p, a, b in zip(plain, once, often, strict=True))


@pytest.mark.parametrize(
    "make", [lambda: Relearning([2], pairs=3), pytest.param(lambda: Rounding(8), marks=needs_library)]
)
def test_before_is_the_base_and_after_the_patched_model(data: PairFiles, make: Callable[[], Task]) -> None:
    task, model = make(), patched()
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    [part] = task.slices(data, "test")
    before = observe(task, model, part, None)
    after = observe(task, model, part, before)
    assert before == observe(task, tiny_model(), part, None)
    expected = observe(task, folded_copy(model), part, before)
    for found, own in zip(after, expected, strict=True):
        assert found == pytest.approx(own, rel=1e-4)
    assert before != after
    assert all(torch.equal(p, state[name]) for name, p in model.named_parameters())


@needs_library
def test_rounding_is_that_of_the_quantised_model(data: PairFiles) -> None:
    task = Rounding(8)
    [part] = task.slices(data, "test")
    rounded = reload_quantised(tiny_model(), 8, torch.device("cpu"))
    expected = pair_log_probs(rounded, [example.payload for example in part.examples])
    found = observe(task, tiny_model(), part, None)
    assert [record["p_fixed"] for record in found] == pytest.approx([Tensor([s.fixed]).exp().item() for s in expected])
    exact = pair_log_probs(tiny_model(), [example.payload for example in part.examples])
    assert [s.fixed for s in exact] != [s.fixed for s in expected]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"steps are \[0\] and pairs 16"):
        Relearning(steps=[0])
