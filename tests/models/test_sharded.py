"""What can't be cut up is refused before anything is; the cutting itself is tested by real processes."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

from hotfix.errors import ConfigError
from hotfix.models.loading import load_causal_lm
from hotfix.models.sharded import is_sharded, shard_frozen, whole

_NO_MESH = cast("DeviceMesh", None)


def test_a_base_that_trains_has_nothing_to_cut() -> None:
    with pytest.raises(ConfigError, match="every weight of the base trains"):
        shard_frozen(load_causal_lm("tiny"), _NO_MESH)


def test_quantised_weights_are_refused_by_name() -> None:
    model = load_causal_lm("tiny").requires_grad_(False)
    weight = model.get_parameter("model.layers.0.mlp.down_proj.weight")
    weight.data = torch.zeros(weight.shape, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=r"0\.mlp\.down_proj\.weight.*LoRA in place of QLoRA"):
        shard_frozen(model, _NO_MESH)


def test_a_whole_model_stays_as_it_is() -> None:
    model = load_causal_lm("tiny")
    before = list(model.parameters())
    with whole(model):
        assert not is_sharded(model)
    assert all(a is b for a, b in zip(model.parameters(), before, strict=True))
