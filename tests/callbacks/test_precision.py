"""Widening for measuring is exact, there and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hotfix.callbacks.precision import widened
from hotfix.models.tiny import tiny_model


def model_in(dtype: torch.dtype) -> nn.Module:
    model: nn.Module = tiny_model()
    model.to(dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_is_exact_there_and_back(dtype: torch.dtype) -> None:
    model = model_in(dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    identities = {name: id(p) for name, p in model.named_parameters()}
    with widened(model, torch.float32):
        for name, weight in model.named_parameters():
            assert weight.dtype == torch.float32
            assert torch.equal(weight, before[name].to(torch.float32))
    for name, weight in model.named_parameters():
        assert weight.dtype == dtype
        assert torch.equal(weight, before[name])
        assert id(weight) == identities[name]


def test_what_is_wide_enough_stays() -> None:
    model = model_in(torch.bfloat16)
    model.register_parameter("adapter", nn.Parameter(torch.full((3,), 1 / 3)))
    model.register_buffer("count", torch.arange(3))
    with widened(model, torch.float32):
        pass
    assert model.get_parameter("adapter").dtype == torch.float32
    assert torch.equal(model.get_parameter("adapter"), torch.full((3,), 1 / 3))
    assert model.get_buffer("count").dtype == torch.int64


def test_none_changes_nothing() -> None:
    model = model_in(torch.bfloat16)
    with widened(model, None):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_comes_back_after_a_failure() -> None:
    model = model_in(torch.bfloat16)
    with pytest.raises(KeyError), widened(model, torch.float32):
        raise KeyError("measuring failed")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
