"""LoRA on a quantised base: what the base becomes, that it trains, that its patch knows it, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hotfix.adapters import LoRA, QLoRA
from hotfix.errors import ConfigError, ModelError, PatchError
from hotfix.losses import NLL, Objective
from hotfix.models.fingerprint import fingerprint
from hotfix.models.loading import load_causal_lm
from hotfix.models.quantised import Bits, reload_quantised
from hotfix.modules import FineTune
from hotfix.patches import AdapterPatch, load_patch, save_patch

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
both = pytest.mark.parametrize("bits", [4, 8])
IDS = torch.arange(1, 41).reshape(2, 20)
# The 16 values of NormalFloat, from the paper's appendix E.
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip


def plain_base() -> LlamaForCausalLM:
    """Wide enough for 4 bits on a CPU."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=257, tie_word_embeddings=False, **sizes)).eval()


def quantised(bits: Bits, dtype: torch.dtype = torch.float32) -> Any:
    return reload_quantised(plain_base().to(dtype), bits, torch.device("cpu"))  # type: ignore[arg-type]


@pytest.fixture
def base(tmp_path: Path) -> str:
    plain_base().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def module(bits: Bits, base: str) -> FineTune:
    made = FineTune(Objective(NLL()), QLoRA(bits=bits, rank=4), base, "float32")
    made.configure_model()
    return made


def rounded(weight: Tensor) -> Tensor:
    """Nearest NF4 value in blocks of 64, without the rounding of the scales."""
    blocks = weight.reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    values = torch.tensor(NF4)
    nearest = (blocks[..., None] / scale[..., None] - values).abs().argmin(-1)
    return (values[nearest] * scale).reshape(weight.shape)


@needs_library
def test_four_bits_are_normal_float_with_doubly_quantised_scales() -> None:
    model = quantised(4)
    layer, plain = model.model.layers[0].mlp.up_proj, plain_base().model.layers[0].mlp.up_proj.weight.detach()
    assert type(layer).__name__ == "Linear4bit"
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == plain.numel() // 2
    assert layer.weight.quant_state.nested
    with torch.no_grad():
        found = layer(torch.eye(64)).T
    # The scales are themselves rounded to 8 bits.
    torch.testing.assert_close(found, rounded(plain), atol=float(plain.abs().max()) * 0.02, rtol=0)
    assert type(model.lm_head) is nn.Linear


@needs_library
def test_eight_bits_round_each_row_to_255_steps() -> None:
    model = quantised(8)
    layer, plain = model.model.layers[0].mlp.up_proj, plain_base().model.layers[0].mlp.up_proj.weight.detach()
    assert layer.weight.dtype == torch.int8
    step = plain.abs().amax(1, keepdim=True) / 127
    # It takes the weights as float16 first, which moves some to the step beside.
    assert ((layer.weight.detach().float() * step - plain).abs() <= 0.6 * step).all()


@needs_library
@both
def test_passes_of_inference_leave_the_base_as_it_is_and_the_gradient_whole(bits: Bits) -> None:
    """On a CPU bitsandbytes repacks 4-bit weights then: they change, and no gradient goes through them any more."""
    model = quantised(bits, torch.bfloat16)
    before, own = logits(model), fingerprint(model)
    adapted = LoRA(rank=4, layers=[0]).attach(model)
    adapted.eval()
    for _ in range(2):
        assert torch.equal(logits(adapted), before)
    assert fingerprint(adapted) == own
    loss: Tensor = adapted(input_ids=IDS, labels=IDS).loss
    loss.backward()
    grads = {name: p.grad for name, p in adapted.named_parameters() if "lora_B" in name}
    assert len(grads) == 7
    assert all(grad is not None and bool(grad.any()) for grad in grads.values())


@needs_library
@both
def test_a_row_does_not_depend_on_its_neighbours(bits: Bits) -> None:
    """LLM.int8 takes columns with a large input in any row of the batch out of the rounding, in all rows."""
    plain = plain_base()
    with torch.no_grad():
        for block in plain.model.layers:
            block.input_layernorm.weight.mul_(5)
    model = reload_quantised(plain, bits, torch.device("cpu"))
    whole = logits(model)
    with torch.no_grad():
        alone = torch.cat([model(input_ids=row[None]).logits for row in IDS])  # type: ignore[operator]
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)


@needs_library
@both
def test_the_gradient_is_the_one_through_the_rounded_weights(bits: Bits) -> None:
    model: Any = LoRA(rank=4, target_modules=["q_proj"], layers=[0]).attach(quantised(bits))
    model.eval()
    [weight] = [p for name, p in model.named_parameters() if "lora_B" in name]
    model(input_ids=IDS, labels=IDS).loss.backward()
    direction, size = weight.grad / weight.grad.norm(), 0.05
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            weight.copy_(sign * size * direction)
            losses.append(model(input_ids=IDS, labels=IDS).loss.item())
    slope = (losses[0] - losses[1]) / (2 * size)
    # 8-bit layers round their inputs as well, so the loss has steps that the gradient doesn't know.
    assert slope == pytest.approx(weight.grad.norm().item(), rel=0.02 if bits == 4 else 0.3)


@needs_library
@both
def test_the_configuration_of_the_adapter_is_enough(bits: Bits, base: str) -> None:
    made = module(bits, base)
    kinds = {type(part).__name__ for part in made.policy.modules()}
    assert f"Linear{bits}bit{'Lt' if bits == 8 else ''}" in kinds
    assert made.base_fingerprint == fingerprint(quantised(bits))
    assert made.base_fingerprint != fingerprint(plain_base())
    with made.reference():
        assert torch.equal(logits(made.policy), logits(quantised(bits)))


@needs_library
@both
def test_a_saved_patch_brings_its_base_with_it(bits: Bits, base: str, tmp_path: Path) -> None:
    made = module(bits, base)
    with torch.no_grad():
        for p in made.policy.parameters():
            if p.requires_grad:
                p.normal_()
    expected = logits(made.policy)
    save_patch(made.make_patch(), tmp_path / "patch")
    assert load_patch(tmp_path / "patch").provenance.base_bits == bits
    # Another adapter in the configuration: the patch knows better.
    again = FineTune(Objective(NLL()), LoRA(rank=2), base, "float32", patch=str(tmp_path / "patch"))
    again.configure_model()
    assert torch.equal(logits(again.policy), expected)
    with again.reference():
        assert torch.equal(logits(again.policy), logits(quantised(bits)))


@needs_library
def test_the_patch_of_a_quantised_base_is_refused_on_the_plain_one(base: str, tmp_path: Path) -> None:
    save_patch(module(4, base).make_patch(), tmp_path / "patch")
    with pytest.raises(PatchError, match=r"the patch was made for .*base in 4 bits \(weights [0-9a-f]{12}\), but this"):
        load_patch(tmp_path / "patch").apply(plain_base())


@needs_library
@both
def test_a_quantised_base_takes_no_adapter_in(bits: Bits, base: str, tmp_path: Path) -> None:
    save_patch(module(bits, base).make_patch(), tmp_path / "patch")
    loaded = load_patch(tmp_path / "patch")
    assert isinstance(loaded, AdapterPatch)
    with pytest.raises(PatchError, match="a quantised base can't take an adapter in; keep the adapter beside it"):
        loaded.merge(quantised(bits))


@both
def test_without_the_library_it_is_refused_when_it_is_configured(bits: Bits) -> None:
    with mock.patch("importlib.util.find_spec", return_value=None):
        expected = rf"a base in {bits} bits needs the library bitsandbytes, which isn't installed; run pip install"
        with pytest.raises(ConfigError, match=expected):
            QLoRA(bits=bits)


@needs_library
def test_layers_that_are_read_back_wrongly_on_a_cpu_are_refused() -> None:
    with pytest.raises(
        ModelError, match="q_proj has 32 inputs, and on a CPU bitsandbytes reads 4-bit weights back wrong"
    ):
        load_causal_lm("tiny", "float32", 4)
    assert load_causal_lm("tiny", "float32", 8) is not None
