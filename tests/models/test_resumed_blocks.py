"""A model run from a kept block on gives what the whole one gives, or is run whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Starcoder2Config,
)

from hotfix.data.edits import EncodedRequest
from hotfix.editors.rows import target_rows
from hotfix.models import resume
from hotfix.models.layout import find_blocks
from hotfix.models.resume import Entering, entering, entering_each, resumed
from hotfix.models.rows import TokenRows
from hotfix.models.states import hidden_states
from hotfix.models.tiny import tiny_model

WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 257,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**WIDE),
    "qwen2": Qwen2Config(**WIDE),
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=257, n_positions=64),
    "starcoder2": Starcoder2Config(**WIDE, residual_dropout=0.1, embedding_dropout=0.1),
}
ROWS = target_rows([EncodedRequest("1", [5, 80, 7], [9]), EncodedRequest("2", [6], [8])], "cpu").rows


def build(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.eval().requires_grad_(requires_grad=False).to(dtype)  # type: ignore[no-any-return]


def runs(model: PreTrainedModel, place: Entering, rows: TokenRows) -> tuple[torch.Tensor, int]:
    """The last states, and how often the lowest block ran."""
    count: list[int] = []
    handle = find_blocks(model.get_decoder()).blocks[0].register_forward_hook(lambda *_: count.append(1))
    with resumed(model, place):
        found = hidden_states(model, rows)
    handle.remove()
    return found, len(count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_upper_blocks_alone_give_the_whole_model_s_states(kind: str, dtype: torch.dtype) -> None:
    model = build(FAMILIES[kind], dtype)
    expected = hidden_states(model, ROWS)
    place = entering(model, ROWS, 2)
    assert place.states is not None
    found, lowest = runs(model, place, ROWS)
    assert torch.equal(found, expected)
    assert lowest == 0
    assert torch.equal(hidden_states(model, ROWS), expected)


def test_blocks_of_several_kinds_keep_their_kinds() -> None:
    # Every second block of Gemma 2 looks back only so far: the third one, run as the first, would see another mask.
    model = build(Gemma2Config(**WIDE, head_dim=8, sliding_window=2), torch.float32)
    kinds = list(model.config.layer_types)
    rows = target_rows([EncodedRequest("1", [5, 80, 7, 11, 12, 13], [9])], "cpu").rows
    place = entering(model, rows, 1)
    assert place.states is not None
    found, lowest = runs(model, place, rows)
    assert torch.equal(found, hidden_states(model, rows))
    assert lowest == 0
    assert model.config.layer_types == kinds


def test_what_would_differ_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = tiny_model(), resume.from_block
    monkeypatch.setattr(resume, "from_block", lambda decoder, first, states: plain(decoder, first, states + 1))
    place = entering(model, ROWS, 1)
    assert place == Entering(1, None)
    found, lowest = runs(model, place, ROWS)
    assert torch.equal(found, hidden_states(model, ROWS))
    assert lowest == 1


def test_batches_beyond_the_limit_are_run_whole() -> None:
    model = tiny_model()
    size = 4 * model.config.hidden_size * ROWS.input_ids.numel()
    wide = TokenRows(*(part.repeat(1 + 2**20 // size, 1) for part in (ROWS.input_ids, ROWS.position_ids, ROWS.branch)))
    first, second = entering_each(model, [ROWS, wide], 1, limit_mib=1)
    assert first.states is not None
    assert second == Entering(1, None)


def test_the_lowest_block_needs_no_door() -> None:
    assert entering(tiny_model(), ROWS, 0) == Entering(0, None)
