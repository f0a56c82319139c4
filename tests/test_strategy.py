"""Runs in which processes couldn't hold parts of one base are refused; see test_distributed for those that can."""

from __future__ import annotations

import pytest
from torch import nn

from hotfix.editors import FT
from hotfix.errors import ConfigError
from hotfix.losses import NLL, Objective
from hotfix.models.loading import load_causal_lm
from hotfix.modules import Edit, FineTune
from hotfix.strategy import check_shardable


def _module() -> FineTune:
    module = FineTune(Objective(learn=NLL(side="fixed")), model_name="tiny")
    module.model = load_causal_lm("tiny")
    return module


def test_an_adapter_on_a_model_that_takes_masks() -> None:
    assert isinstance(check_shardable(_module(), 512), nn.Module)


def test_an_editor_writes_into_weights_that_nobody_would_have() -> None:
    with pytest.raises(ConfigError, match=r"is for hotfix.modules.FineTune.*model.class_path is Edit"):
        check_shardable(Edit(FT(), model_name="tiny"), 512)


def test_rows_longer_than_a_window_would_need_two_passes() -> None:
    module = _module()
    module.policy.config.sliding_window = 100  # type: ignore[union-attr]
    assert isinstance(check_shardable(module, 50), nn.Module)
    with pytest.raises(ConfigError, match=r"lower data.init_args.max_length \(51\)"):
        check_shardable(module, 51)
