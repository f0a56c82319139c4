"""On, off and on again: the base stays bit for bit what it was, and no other base is taken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from hotfix.adapters import LoRA
from hotfix.errors import PatchError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.tiny import tiny_model
from hotfix.patches import AdapterPatch, Provenance

IDS = torch.arange(1, 41).reshape(2, 20)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def trained(base: LlamaForCausalLM) -> PeftModel:
    model = LoRA(rank=2).attach(base)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.normal_()
    model.eval()
    return model


@pytest.fixture
def saved(tmp_path: Path) -> AdapterPatch:
    model = trained(tiny_model())
    provenance = Provenance("hotfix.adapters.LoRA", "tiny", fingerprint(model))
    AdapterPatch(provenance, model=model).save(tmp_path)
    return AdapterPatch(provenance, folder=tmp_path)


def test_applied_and_reverted_leaves_the_base_bit_for_bit(saved: AdapterPatch, tiny: LlamaForCausalLM) -> None:
    before = {name: p.detach().clone() for name, p in tiny.named_parameters()}
    expected, patched = logits(tiny), logits(trained(tiny_model()))
    for _ in range(2):
        model = saved.apply(tiny)
        assert torch.equal(logits(model), patched)
        assert not any(p.requires_grad for n, p in model.named_parameters() if "lora" in n)
        reverted = saved.revert(model)
        assert reverted is tiny
        assert torch.equal(logits(reverted), expected)
        after = dict(reverted.named_parameters())
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_another_base_is_refused(saved: AdapterPatch) -> None:
    other = tiny_model(seed=1)
    message = (
        f"the patch was made for tiny (weights {fingerprint(tiny_model())[:12]}), but this model's weights are "
        f"{fingerprint(other)[:12]}; load that base model, or fit the patch again on this one"
    )
    with pytest.raises(PatchError, match=f"^{re.escape(message)}$"):
        saved.apply(other)


def test_a_refused_base_is_left_alone(saved: AdapterPatch) -> None:
    other, expected = tiny_model(seed=1), logits(tiny_model(seed=1))
    with pytest.raises(PatchError):
        saved.apply(other)
    assert torch.equal(logits(other), expected)
    assert not any("lora" in name for name, _ in other.named_parameters())


@pytest.mark.parametrize("damage", ["missing weights", "cut weights", "missing config", "config without json"])
def test_a_damaged_adapter(saved: AdapterPatch, tmp_path: Path, tiny: LlamaForCausalLM, damage: str) -> None:
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    if damage == "missing weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-40])
    elif damage == "missing config":
        config.unlink()
    else:
        config.write_text("{", encoding="utf-8")
    with pytest.raises(PatchError, match=rf"^{re.escape(str(tmp_path))}: the adapter can't be loaded \(."):
        saved.apply(tiny)
    assert not any("lora" in name for name, _ in tiny.named_parameters())


def test_saved_are_the_adapters_weights_and_nothing_else(saved: AdapterPatch, tmp_path: Path) -> None:
    del saved
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert len(names) == 2 * 7 * 2
    assert all("lora_" in name for name in names)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


def test_the_card_names_the_model_without_the_folders_of_this_machine(tmp_path: Path) -> None:
    base, place = tiny_model(), "/home/somebody/secret/model-1b"
    base.config._name_or_path = place
    model = trained(base)
    AdapterPatch(Provenance("m", place, fingerprint(model)), model=model).save(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "model-1b" in card
    assert "somebody" not in card


def test_what_was_not_saved_cannot_be_applied_and_what_was_loaded_cannot_be_saved(
    tmp_path: Path, tiny: LlamaForCausalLM
) -> None:
    provenance = Provenance("m", "tiny", fingerprint(tiny))
    with pytest.raises(PatchError, match=r"^this patch was not saved yet; save it, then apply it$"):
        AdapterPatch(provenance).apply(tiny)
    with pytest.raises(PatchError, match=r"^this patch has no model to save the adapter of$"):
        AdapterPatch(provenance, folder=tmp_path).save(tmp_path / "new")
    with pytest.raises(PatchError, match=r"^LlamaForCausalLM has no adapter on$"):
        AdapterPatch(provenance, folder=tmp_path).revert(tiny)
