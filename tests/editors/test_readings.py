"""Texts that are read block after block, and share rows, are read as whole passes over each alone read them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from hotfix.editors import readings
from hotfix.editors.readings import Readings, shared_rows
from hotfix.models.layout import feed_forward_output, find_blocks

SMALL = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
TEXTS = [[1, 2, 3], [1, 2], [7], [1, 2, 3, 4, 5], list(range(9, 30)), [1, 2], [1, 6], [9]]


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=5, n_head=4, n_positions=64))


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SMALL, **HEADS, sliding_window=5))


def gemma() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, **HEADS, head_dim=8, sliding_window=5, layer_types=kinds))


@torch.no_grad()
def by_whole_passes(model: PreTrainedModel, into: nn.Module, out_of: nn.Module) -> list[Tensor]:
    """What enters one module and leaves another, text by text."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for text in TEXTS:
        seen = {}
        with (
            into.register_forward_hook(lambda _, args, out, kept=seen: kept.update(came=args[0])),
            out_of.register_forward_hook(lambda _, args, out, kept=seen: kept.update(went=out)),
        ):
            model(torch.tensor([text]))
        for kept, name in zip(found, ("came", "went"), strict=True):
            kept.append((seen[name][0] if isinstance(seen[name], tuple) else seen[name])[0, -1])
    return [torch.stack(kept) for kept in found]


@pytest.mark.parametrize("make", [gpt2, mistral, gemma])
@pytest.mark.parametrize("rows", [2, 32])
def test_edited_blocks_are_read_as_whole_passes_read_them(
    make: type[PreTrainedModel], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "_ROWS", rows)
    torch.manual_seed(0)
    model = make().eval()
    read, top = Readings(model, 1, TEXTS), find_blocks(model.get_decoder()).blocks[4]
    for _ in range(2):  # a second round begins with what the first has left
        for block in (1, 2, 4):
            module = feed_forward_output(model, block).module
            found = read.read(block, module, top, 4)
            torch.testing.assert_close(list(found), by_whole_passes(model, module, top), rtol=1e-4, atol=1e-5)
            before = by_whole_passes(model, top, top)[1]
            with torch.no_grad():
                module.weight.add_(torch.randn_like(module.weight))
            assert (by_whole_passes(model, top, top)[1] - before).abs().max() > 0.1


def test_no_block_runs_more_often_than_it_has_to() -> None:
    torch.manual_seed(0)
    model = mistral().eval()
    ran: list[int] = []
    for i, block in enumerate(find_blocks(model.get_decoder()).blocks):
        block.register_forward_hook(lambda *_, own=i: ran.append(own))
    read = Readings(model, 2, TEXTS)
    assert ran == [0, 1, 2]
    for block in (2, 3, 4, 2):
        ran.clear()
        read.read(block, feed_forward_output(model, block).module)
        assert ran == {2: [2], 3: [2, 3], 4: [3, 4]}[block]


def test_only_texts_that_no_other_begins_with_have_rows() -> None:
    rows, of = shared_rows(TEXTS)
    assert len(rows) == 4
    assert all(rows[row][: len(text)] == text for text, row in zip(TEXTS, of, strict=True))
    assert not any(a != b and a == b[: len(a)] for a in rows for b in rows)
