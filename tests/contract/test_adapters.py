"""What every adapter keeps: it starts at the base where promised, and the base is there at any time, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from contract_seams import assert_complete
from torch import Tensor, nn

from hotfix.adapters import Adapter, LoRA
from hotfix.models.fingerprint import fingerprint
from hotfix.models.tiny import tiny_model
from hotfix.patches import AdapterPatch, Provenance, load_patch, save_patch


class Case(NamedTuple):
    """How to make it, and words that every trained weight's name has one of."""

    make: Callable[[], Adapter]
    trained: tuple[str, ...]
    starts_at_base: bool = True


CASES: Mapping[str, tuple[type[Adapter], Case]] = {
    "lora": (LoRA, Case(lambda: LoRA(rank=4, alpha=8), ("lora_A", "lora_B"))),
    "lora, one layer, dropout": (
        LoRA,
        Case(lambda: LoRA(rank=2, dropout=0.2, target_modules=["q_proj", "down_proj"], layers=[1]), ("lora_",)),
    ),
}
adapters = pytest.mark.parametrize("case", [case for _, case in CASES.values()], ids=CASES)
IDS = torch.arange(1, 41).reshape(2, 20)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return cast("Tensor", model(input_ids=IDS).logits)


def step(model: nn.Module) -> None:
    """Three real optimizer steps, the last of them leaving every trained weight moved."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    for _ in range(3):
        loss = cast("Any", model)(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight in trained:
        weight.grad = None


def test_every_adapter_has_a_case() -> None:
    assert_complete(Adapter, [cls for cls, _ in CASES.values()])
    assert all(isinstance(case.make(), cls) for cls, case in CASES.values())


@adapters
def test_starts_at_the_base_where_promised(case: Case) -> None:
    model = case.make().attach(tiny_model())
    model.eval()
    assert torch.equal(logits(model), logits(tiny_model())) == case.starts_at_base


@adapters
def test_the_reference_is_the_base_bit_for_bit_after_steps(case: Case) -> None:
    adapter, base = case.make(), logits(tiny_model())
    model = adapter.attach(tiny_model())
    step(model)
    model.eval()
    moved = logits(model)
    assert not torch.allclose(moved, base, atol=1e-3)
    with adapter.reference(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), moved)


@adapters
def test_only_declared_weights_change(case: Case) -> None:
    adapter, base = case.make(), tiny_model()
    model = adapter.attach(tiny_model())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained
    assert trained
    assert all(any(word in name for word in case.trained) for name in trained)
    assert fingerprint(model) == fingerprint(base)
    with adapter.reference(model):
        pass
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


@adapters
def test_what_is_saved_and_loaded_writes_the_same_logits(case: Case, tmp_path: Path) -> None:
    model = case.make().attach(tiny_model())
    step(model)
    model.eval()
    expected = logits(model)
    patch = AdapterPatch(Provenance("test", "tiny", fingerprint(model)), model=cast("Any", model))
    save_patch(patch, tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    patched = loaded.apply(tiny_model())
    assert torch.equal(logits(patched), expected)
    assert torch.equal(logits(loaded.revert(patched)), logits(tiny_model()))


@adapters
def test_first_weights_follow_the_seed_alone(case: Case) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append({n: p for n, p in case.make().attach(tiny_model()).named_parameters() if p.requires_grad})
    for name, weight in found[0].items():
        assert torch.equal(weight, found[1][name])
