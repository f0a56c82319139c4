"""The search for classes of a seam: one without a case fails by name."""

from __future__ import annotations

import pytest
from contract_seams import assert_complete, concrete_subclasses
from torch import Tensor

from hotfix.adapters import Adapter, LoRA
from hotfix.losses import NLL, KLToReference, LossTerm, Passes


def test_abstract_classes_are_not_cases() -> None:
    found = {c.__name__ for c in concrete_subclasses(Adapter)}
    assert "LoRA" in found
    assert not found & {"Adapter", "PeftAdapter"}


def test_a_class_without_a_case_is_named() -> None:
    with pytest.raises(AssertionError, match=r"no contract case for .*hotfix\.losses\.unlikelihood\.Unlikelihood"):
        assert_complete(LossTerm, [NLL, KLToReference])
    with pytest.raises(AssertionError, match=r"no contract case for .*hotfix\.adapters\.lora\.LoRA"):
        assert_complete(Adapter, [])


def test_a_new_class_is_found_however_deep() -> None:
    class Deeper(LoRA):
        __module__ = "hotfix.adapters.new"

    class Outside(NLL):
        def forward(self, passes: Passes) -> Tensor:
            raise NotImplementedError

    assert Deeper in concrete_subclasses(Adapter)
    assert Outside not in concrete_subclasses(LossTerm)
    # Classes live until collected; this one must not reach the other tests.
    Deeper.__module__ = __name__
