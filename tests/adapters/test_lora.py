"""Which layers LoRA trains, that plain peft reads what it saves, and that a wrong setting names the right one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from hotfix.adapters import LoRA
from hotfix.errors import ConfigError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.tiny import tiny_model
from hotfix.patches import AdapterPatch, Provenance, save_patch

IDS = torch.arange(1, 41).reshape(2, 20)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def step(model: PeftModel) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()


def trained_layers(model: PeftModel) -> set[str]:
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    return {name.split(".lora_")[0].removeprefix("base_model.model.model.") for name in names}


def test_base_logits_at_the_start_and_as_the_reference_after_a_step() -> None:
    adapter, base, expected = LoRA(), tiny_model(), logits(tiny_model())
    model = adapter.attach(base)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert torch.equal(logits(model), expected)
    step(model)
    assert not torch.equal(logits(model), expected)
    with adapter.reference(model):
        assert torch.equal(logits(model), expected)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    # A's gradient is B's value, and that is still zero at the first step.
    assert changed == {name for name in before if ".lora_B." in name}


@pytest.mark.parametrize("dora", [False, True])
def test_a_frozen_a_stays_as_it_started(dora: bool) -> None:
    torch.manual_seed(0)
    adapter = LoRA(freeze_a=True, dora=dora)
    model = adapter.attach(tiny_model())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model)
    step(model)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if ".lora_B." in name or "lora_magnitude_vector" in name}
    assert set(adapter.kept_weights(model)) == {name for name in before if "lora_" in name} > changed


def find(model: nn.Module) -> Any:
    return next(module for name, module in model.named_modules() if name.endswith("layers.0.self_attn.q_proj"))


def test_the_update_is_alpha_over_rank_times_b_times_a() -> None:
    base = tiny_model()
    model = LoRA(rank=4, alpha=12, target_modules=["q_proj"], layers=[0]).attach(tiny_model())
    first, same = (find(m) for m in (model, base))
    with torch.no_grad():
        first.lora_B["default"].weight.normal_()
        same.weight += 3.0 * first.lora_B["default"].weight @ first.lora_A["default"].weight
    torch.testing.assert_close(logits(model), logits(base), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({}, {f"layers.{i}.{part}" for i in (0, 1) for part in
              [*(f"self_attn.{n}" for n in ATTENTION), *(f"mlp.{n}" for n in FEED_FORWARD)]}),
        ({"layers": [1]}, {f"layers.1.{part}" for part in
                           [*(f"self_attn.{n}" for n in ATTENTION), *(f"mlp.{n}" for n in FEED_FORWARD)]}),
        ({"target_modules": "q_proj"}, {"layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"}),
        ({"target_modules": ["up_proj"], "layers": [0]}, {"layers.0.mlp.up_proj"}),
        ({"target_modules": ["1.self_attn.k_proj"]}, {"layers.1.self_attn.k_proj"}),
    ],
)  # fmt: skip
def test_chosen_layers_train_and_no_others(settings: dict[str, Any], layers: set[str]) -> None:
    assert trained_layers(LoRA(**settings).attach(tiny_model())) == layers


@pytest.mark.parametrize("layers", [None, [1]])
def test_gpt2s_own_kind_of_linear_layer_is_linear(layers: list[int] | None) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    found = trained_layers(LoRA(layers=layers).attach(model))
    kinds = {name.rpartition("h.")[2] for name in found}
    assert kinds == {
        f"{i}.{part}" for i in layers or (0, 1) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_adapter_weights_are_float32_on_a_half_precision_base(tiny: LlamaForCausalLM) -> None:
    tiny.bfloat16()
    model = LoRA().attach(tiny)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


LOAD = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
assert not any(name.split(".")[0] == "hotfix" for name in sys.modules)
with torch.no_grad():
    torch.save(model(input_ids=torch.arange(1, 41).reshape(2, 20)).logits, sys.argv[3])
"""


def test_plain_peft_loads_a_saved_patch(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    model = LoRA(rank=2, target_modules=["q_proj", "down_proj"]).attach(tiny_model())
    step(model)
    model.eval()
    patch = AdapterPatch(Provenance("test", str(tmp_path / "base"), fingerprint(model)), model=model)
    save_patch(patch, tmp_path / "patch")
    arguments = [str(tmp_path / name) for name in ("base", "patch", "logits.pt")]
    done = subprocess.run([sys.executable, "-c", LOAD, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ["q_porj"]},
            "adapter.init_args.target_modules: 'q_porj' is not in LlamaForCausalLM; did you mean 'q_proj'? It has "
            "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj, or say all-linear",
        ),
        ({"target_modules": "zzz"}, "adapter.init_args.target_modules: 'zzz' is not in LlamaForCausalLM; It has"),
        ({"target_modules": ["q_proj", "c_attn"]}, "adapter.init_args.target_modules: 'c_attn' is not in"),
        ({"target_modules": ["norm"]}, "adapter.init_args don't fit LlamaForCausalLM: Target module LlamaRMSNorm"),
        (
            {"layers": [0, 2]},
            "adapter.init_args.layers is [0, 2], but LlamaForCausalLM has 2 layers; expected indices from 0 to 1, "
            "or null for all",
        ),
        ({"layers": [-1]}, "adapter.init_args.layers is [-1], but"),
        ({"layers": []}, "adapter.init_args.layers is [], but"),
        ({"dropout": 1.5}, "adapter.init_args don't fit LlamaForCausalLM: dropout probability"),
    ],
)
def test_a_setting_that_does_not_fit_the_model(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        LoRA(**settings).attach(tiny_model())


@pytest.mark.parametrize("rank", [0, -3])
def test_a_rank_below_one(rank: int) -> None:
    with pytest.raises(ConfigError, match=rf"^adapter.init_args.rank is {rank}, expected at least 1$"):
        LoRA(rank=rank)
