"""One packed row says what two padded rows say, and the mask is what loops over all pairs of positions say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from hotfix.data.encode import EncodedPair
from hotfix.data.packing import Batch, Layout, count_tokens, pack
from hotfix.functional import token_log_probs
from hotfix.models.rows import PADDING, TokenRows
from hotfix.models.states import head_logits, hidden_states
from hotfix.types import SCOPES, SIDES, Side, TokenScope

LAYOUTS: Sequence[Layout] = get_args(Layout)
TEXTS = [[5, 6, 7], [8], [1, 2, 3, 4, 5, 6]]


def log_probs(model: LlamaForCausalLM, batch: Batch, side: Side, scope: TokenScope) -> Tensor:
    rows = batch.retain if side == "retain" else batch.pairs
    assert rows is not None
    found = batch.targets[side].in_scope(scope)
    with torch.no_grad():
        states = hidden_states(model, rows)[found.row, found.column]
        return token_log_probs(head_logits(model, states), found.token)


def alone(model: LlamaForCausalLM, ids: Sequence[int]) -> Tensor:
    """Log p of each token but the first by the model's own forward pass, without any mask."""
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)])).logits[0].log_softmax(-1)
    picked: Tensor = logits[:-1].gather(1, torch.tensor(ids[1:])[:, None])
    return picked[:, 0]


def expected(model: LlamaForCausalLM, pairs: Sequence[EncodedPair], side: Side, scope: TokenScope) -> Tensor:
    parts = []
    for pair in pairs:
        branch = pair.fixed if side == "fixed" else pair.buggy
        marks = torch.tensor([False] * (len(pair.shared) - 1) + branch.edited)
        every = alone(model, pair.shared + branch.ids)
        parts.append(every if scope == "all" else every[marks if scope == "edited" else ~marks])
    return torch.cat(parts)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", ["fixed", "buggy"])
@pytest.mark.parametrize("scope", SCOPES)
def test_log_probs_equal_each_side_alone(
    tiny: LlamaForCausalLM, encoded: list[EncodedPair], layout: Layout, side: Side, scope: TokenScope
) -> None:
    got = log_probs(tiny, pack(encoded, layout=layout, pad_id=9), side, scope)
    assert len(got) > 12 or scope == "edited"
    torch.testing.assert_close(got, expected(tiny, encoded, side, scope), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["fixed", "buggy"])
def test_hidden_states_of_both_layouts_agree(tiny: LlamaForCausalLM, encoded: list[EncodedPair], side: Side) -> None:
    found = []
    for layout in LAYOUTS:
        batch = pack(encoded, layout=layout)
        assert batch.pairs is not None
        targets = batch.targets[side]
        with torch.no_grad():
            found.append(hidden_states(tiny, batch.pairs)[targets.row, targets.column])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_and_batch_order_change_nothing(
    tiny: LlamaForCausalLM, encoded: list[EncodedPair], layout: Layout
) -> None:
    order = list(range(len(encoded)))
    random.Random(1).shuffle(order)
    shuffled = pack([encoded[i] for i in order], layout=layout, pad_id=33)
    for side in ("fixed", "buggy"):
        every = log_probs(tiny, shuffled, side, "all")
        for place, i in enumerate(order):
            own = log_probs(tiny, pack([encoded[i]], layout=layout), side, "all")
            torch.testing.assert_close(every[shuffled.targets[side].example == place], own, atol=1e-5, rtol=0)


def test_retain_texts_are_scored_as_they_are_alone(tiny: LlamaForCausalLM) -> None:
    got = log_probs(tiny, pack([], TEXTS, pad_id=3), "retain", "all")
    torch.testing.assert_close(got, torch.cat([alone(tiny, ids) for ids in TEXTS if len(ids) > 1]), atol=1e-5, rtol=0)


def test_no_probability_depends_on_the_other_side(tiny: LlamaForCausalLM, encoded: list[EncodedPair]) -> None:
    pair = encoded[0]
    other = pair._replace(fixed=pair.fixed._replace(ids=[(i + 1) % 256 for i in pair.fixed.ids]))
    torch.testing.assert_close(
        log_probs(tiny, pack([pair]), "buggy", "all"), log_probs(tiny, pack([other]), "buggy", "all"), atol=0, rtol=0
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_mask_by_loops(encoded: list[EncodedPair], layout: Layout) -> None:
    rows = pack(encoded[:4], layout=layout).pairs
    assert rows is not None
    mask = rows.attention_mask()
    size, length = rows.branch.shape
    assert mask.shape == (size, 1, length, length)
    for b in range(size):
        kinds = rows.branch[b].tolist()
        for q in range(length):
            for k in range(length):
                seen = k <= q and kinds[k] != PADDING and kinds[k] in (0, kinds[q])
                # What padding sees is nobody's business, as long as it sees something.
                if kinds[q] != PADDING:
                    assert mask[b, 0, q, k].item() == seen
            assert mask[b, 0, q].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_positions_go_on_from_the_shared_beginning_on_both_branches(encoded: list[EncodedPair], layout: Layout) -> None:
    rows = pack(encoded, layout=layout).pairs
    assert rows is not None
    assert len(rows.branch) == len(encoded) * (1 if layout == "packed" else 2)
    for kinds, places in zip(rows.branch, rows.position_ids, strict=True):
        for branch in {1, 2} & set(kinds.tolist()):
            seen = places[(kinds == 0) | (kinds == branch)]
            assert seen.tolist() == list(range(len(seen)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_are_those_of_the_targets(encoded: list[EncodedPair], layout: Layout) -> None:
    batch = pack(encoded, TEXTS, layout=layout)
    for side in SIDES:
        for scope in SCOPES:
            assert batch.counts[side, scope] == len(batch.targets[side].in_scope(scope).token)
            if side != "retain":
                assert batch.counts[side, scope] == sum(count_tokens(pair)[side, scope] for pair in encoded)
    assert batch.counts["retain", "all"] == sum(len(ids) - 1 for ids in TEXTS)
    assert batch.counts["retain", "edited"] == 0
    assert batch.num_examples == len(encoded)
    assert batch.keys == tuple(pair.id for pair in encoded)


def test_scopes_part_the_targets(encoded: list[EncodedPair]) -> None:
    for side in ("fixed", "buggy"):
        targets = pack(encoded).targets[side]
        edited, rest = targets.in_scope("edited"), targets.in_scope("unedited")
        assert edited.edited.all()
        assert not rest.edited.any()
        assert sorted(torch.cat([edited.token, rest.token]).tolist()) == sorted(targets.token.tolist())


def test_nothing_to_pack_gives_no_rows() -> None:
    batch = pack([])
    assert (batch.pairs, batch.retain, batch.num_examples) == (None, None, 0)
    assert set(batch.counts.values()) == {0.0}


def test_moving_moves_every_tensor(encoded: list[EncodedPair]) -> None:
    moved = pack(encoded, TEXTS).to("meta")
    assert moved.pairs is not None
    assert moved.retain is not None
    tensors = [moved.pairs.input_ids, moved.retain.branch, moved.targets["buggy"].token, moved.targets["retain"].row]
    assert {str(tensor.device) for tensor in tensors} == {"meta"}


def test_a_row_of_padding_only_gives_finite_states(tiny: LlamaForCausalLM) -> None:
    rows = TokenRows(torch.zeros(1, 3).long(), torch.zeros(1, 3).long(), torch.full((1, 3), PADDING))
    assert hidden_states(tiny, rows).isfinite().all()
