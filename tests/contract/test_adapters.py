"""What every adapter keeps: it starts at the base where promised, and the base is there at any time, bit for bit."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from contract_seams import assert_complete
from peft import PeftModel
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hotfix.adapters import IA3, Adapter, FullFineTuning, LoRA, PrefixTuning, QLoRA
from hotfix.errors import ConfigError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.loading import load_causal_lm
from hotfix.models.quantised import reload_quantised
from hotfix.models.states import check_halves, own_precision
from hotfix.patches import AdapterPatch, Patch, Provenance, WeightDelta, load_patch, save_patch


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
    "dora": (LoRA, Case(lambda: LoRA(rank=4, dora=True), ("lora_A", "lora_B", "lora_magnitude_vector"))),
    "rslora": (LoRA, Case(lambda: LoRA(rank=4, rslora=True), ("lora_A", "lora_B"))),
    "qlora, 4 bits": (QLoRA, Case(lambda: QLoRA(bits=4, rank=4), ("lora_A", "lora_B"))),
    "qlora, 8 bits": (QLoRA, Case(lambda: QLoRA(bits=8, rank=4), ("lora_A", "lora_B"))),
    "ia3": (IA3, Case(IA3, ("ia3_l",))),
    "ia3, one layer": (IA3, Case(lambda: IA3(layers=[1]), ("layers.1.",))),
    "prefix tuning": (PrefixTuning, Case(PrefixTuning, ("prompt_encoder",), starts_at_base=False)),
    "prefix tuning, random": (
        PrefixTuning,
        Case(lambda: PrefixTuning(3, start="random"), ("prompt_encoder",), starts_at_base=False),
    ),
    "full": (FullFineTuning, Case(FullFineTuning, ("",))),
    "full, one layer": (FullFineTuning, Case(lambda: FullFineTuning(["mlp"], [1]), ("model.layers.1.mlp.",))),
}
HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
needs_library = pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes is not installed")
adapters = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[needs_library] if cls is QLoRA else [], id=name) for name, (cls, case) in CASES.items()],
)
IDS = torch.arange(1, 41).reshape(2, 20)


def base_for(adapter: Adapter, dtype: Any = "float32") -> PreTrainedModel:
    """The base as the adapter asks for it; a new one each time, and always the same."""
    if adapter.bits is None:
        return load_causal_lm("tiny", dtype)
    # The tiny model's layers are too narrow for 4 bits on a CPU.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=False, **sizes))
    wide.to({"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])
    return reload_quantised(wide, adapter.bits, torch.device("cpu"))


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad(), own_precision(model):
        return cast("Tensor", model(input_ids=IDS).logits)


def step(model: nn.Module) -> None:
    """Three real optimizer steps, the last of them leaving every trained weight moved."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    for _ in range(3):
        with own_precision(model):
            loss = cast("Any", model)(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight in trained:
        weight.grad = None


def patch_of(model: nn.Module, described: Provenance) -> Patch:
    """As the training module makes it."""
    if isinstance(model, PeftModel):
        return AdapterPatch(described, model=model)
    return WeightDelta(described, changes={name: p for name, p in model.named_parameters() if p.requires_grad})


def test_every_adapter_has_a_case() -> None:
    assert_complete(Adapter, [cls for cls, _ in CASES.values()])
    assert all(isinstance(case.make(), cls) for cls, case in CASES.values() if HAS_BITSANDBYTES or cls is not QLoRA)


@adapters
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_starts_at_the_base_where_promised(case: Case, dtype: str) -> None:
    adapter = case.make()
    if adapter.float32 and dtype != "float32":
        with pytest.raises(ConfigError, match="load the model in float32"):
            adapter.attach(base_for(adapter, dtype))
        return
    expected = logits(base_for(adapter, dtype))
    model = adapter.attach(base_for(adapter, dtype))
    model.eval()
    assert torch.equal(logits(model), expected) == case.starts_at_base


@adapters
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_reference_is_the_base_bit_for_bit_after_steps(case: Case, dtype: str) -> None:
    adapter = case.make()
    if adapter.float32 and dtype != "float32":
        with pytest.raises(ConfigError, match="load the model in float32"):
            adapter.attach(base_for(adapter, dtype))
        return
    base = logits(base_for(adapter, dtype))
    model = adapter.attach(base_for(adapter, dtype))
    model.eval()
    started = logits(model)
    step(model)
    moved = logits(model)
    assert not torch.allclose(moved, base, atol=1e-3)
    assert not torch.equal(moved, started)
    with adapter.reference(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), moved)


@adapters
def test_both_halves_and_packed_rows_see_what_the_model_itself_sees(case: Case) -> None:
    adapter = case.make()
    model = adapter.attach(base_for(adapter))
    step(model)
    model.eval()
    check_halves(model)
    with adapter.reference(model):
        check_halves(model)


@adapters
def test_only_declared_weights_change(case: Case) -> None:
    adapter = case.make()
    base, model = base_for(adapter), adapter.attach(base_for(adapter))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained
    assert trained
    assert all(any(word in name for word in case.trained) for name in trained)
    with adapter.reference(model):
        assert fingerprint(model) == fingerprint(base)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


@adapters
def test_what_is_saved_and_loaded_writes_the_same_logits(case: Case, tmp_path: Path) -> None:
    adapter = case.make()
    model = adapter.attach(base_for(adapter))
    step(model)
    model.eval()
    expected, base = logits(model), base_for(adapter)
    save_patch(patch_of(model, Provenance("test", "tiny", fingerprint(base))), tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    patched = loaded.apply(base_for(adapter))
    assert torch.equal(logits(patched), expected)
    with loaded.reference(patched):
        assert torch.equal(logits(patched), logits(base))
    assert torch.equal(logits(patched), expected)
    reverted = loaded.revert(patched)
    assert torch.equal(logits(reverted), logits(base))
    assert fingerprint(reverted) == fingerprint(base)


@adapters
def test_first_weights_follow_the_seed_alone(case: Case) -> None:
    found = []
    for _ in range(2):
        adapter = case.make()
        base = base_for(adapter)
        torch.manual_seed(5)
        found.append({n: p for n, p in adapter.attach(base).named_parameters() if p.requires_grad})
    for name, weight in found[0].items():
        assert torch.equal(weight, found[1][name])
