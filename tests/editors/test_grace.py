"""GRACE writes its targets whenever it is asked, and nothing of one edit depends on another."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from hotfix.data.edits import EditRequest, encode_request
from hotfix.editors import FT, GRACE, Editor, codebook_values
from hotfix.editors.codebook_values import Firing, _losses, _problem, elsewhere, firing, search_values, seen_row
from hotfix.editors.contexts import Surroundings
from hotfix.editors.memory import block_at
from hotfix.editors.tails import Tails, tail_states
from hotfix.errors import ConfigError, DataError, PatchError
from hotfix.generation import greedy
from hotfix.models.fingerprint import fingerprint
from hotfix.models.layout import feed_forward_output
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.models.trace import captured
from hotfix.patches import Codebook, worn
from hotfix.patches.codebook import KeyRule

TOKENIZER = tiny_tokenizer()
ONE = EditRequest("1", "def digest(data): return ", "s", (), ("def digest(text): return ",))
TWO = EditRequest("2", "x = ", "4")
THREE = EditRequest("3", "reverse a list: ", "r")
ALL = [ONE, TWO, THREE]


def editor(**settings: object) -> GRACE:
    return GRACE(**{"block": 0, "steps": 60, **settings})  # type: ignore[arg-type]


def edited(*requests: EditRequest, **settings: object) -> Codebook:
    return editor(**settings).compute(tiny_model(), TOKENIZER, requests)


def answers(model: PreTrainedModel, requests: Sequence[EditRequest]) -> list[bool]:
    """Whether each target is written, all prompts in one batch."""
    encoded = [encode_request(TOKENIZER, request) for request in requests]
    longest = max(len(request.target) for request in encoded)
    found = greedy(model, TOKENIZER, [request.prompt for request in encoded], max_new_tokens=longest)
    return [c.token_ids[: len(r.target)] == r.target for c, r in zip(found, encoded, strict=True)]


def test_every_target_is_written_again_and_again() -> None:
    model = tiny_model()
    assert not any(answers(model, ALL))
    with worn(edited(*ALL), model):
        for _ in range(3):
            assert answers(model, ALL) == [True, True, True]
            assert answers(model, [TWO]) == [True]
    assert not any(answers(model, ALL))


def test_other_prompts_are_answered_as_before() -> None:
    model = tiny_model()
    prompts = [encode_request(TOKENIZER, EditRequest("n", text, "x")).prompt for text in (*ONE.neighbours, "y =", "z")]
    before = greedy(model, TOKENIZER, prompts, max_new_tokens=12)
    with worn(edited(*ALL), model):
        assert greedy(model, TOKENIZER, prompts, max_new_tokens=12) == before


def test_keys_are_what_enters_the_projection_at_the_prompt_s_end() -> None:
    model = tiny_model()
    book = edited(ONE, TWO)
    for row, request in enumerate((ONE, TWO)):
        with torch.no_grad(), captured({"at": feed_forward_output(model, 0).module}, "input") as seen:
            model(input_ids=torch.tensor([encode_request(TOKENIZER, request).prompt]))
        torch.testing.assert_close(book.entries.keys[row], seen["at"][0, -1])
        assert float(book.entries.reach[row]) == pytest.approx(0.12 * float(seen["at"][0, -1].norm()), rel=1e-4)


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_a_value_does_not_depend_on_the_batch(start: str) -> None:
    in_turn, together = edited(*ALL, start=start, together=1), edited(*ALL, start=start)
    for row, request in enumerate(ALL):
        alone = edited(request, start=start)
        assert torch.equal(in_turn.entries.values[row], alone.entries.values[0])
        torch.testing.assert_close(together.entries.values[row], alone.entries.values[0], rtol=1e-3, atol=1e-5)
        assert torch.equal(together.entries.keys[row], alone.entries.keys[0])


@pytest.mark.parametrize("together", [1, 2, 16])
def test_one_after_the_other_is_all_at_once(together: int) -> None:
    step: Codebook | None = None
    for request in ALL:
        step = editor().compute(tiny_model(), TOKENIZER, [request], previous=step)
    assert step is not None
    at_once = edited(*ALL, together=together)
    assert step.entries.edits == at_once.entries.edits
    for name in ("keys", "radii"):
        assert torch.equal(getattr(step.entries, name), getattr(at_once.entries, name))
    torch.testing.assert_close(step.entries.values, at_once.entries.values, rtol=1e-3, atol=1e-5)
    assert together > 1 or torch.equal(step.entries.values, at_once.entries.values)


def test_a_row_in_which_another_edit_fires_waits_for_its_value() -> None:
    # The later prompts begin with the first one, so its value stands in their rows.
    later = [EditRequest("4", TWO.prompt + "5; y = ", "6"), EditRequest("5", TWO.prompt + "7; z = ", "8")]
    book = edited(TWO, ONE, *later)
    in_turn = edited(TWO, ONE, *later, together=1)
    torch.testing.assert_close(book.entries.values, in_turn.entries.values, rtol=1e-3, atol=1e-5)
    for row, request in enumerate(later, start=2):
        alone = edited(request).entries.values[0]
        assert float((book.entries.values[row] - alone).norm() / alone.norm()) > 0.01
    model = tiny_model()
    with worn(book, model):
        assert answers(model, [TWO, ONE, *later]) == [True] * 4


@pytest.mark.parametrize("bos", [None, encode_request(TOKENIZER, THREE).prompt[0]])
def test_a_value_answers_behind_other_beginnings(bos: int | None) -> None:
    model, rule = tiny_model(), KeyRule(0)
    prefixes = [[], [7, 8, 9], list(range(200, 100, -3)), list(range(10, 90, 2))]
    around = Surroundings(prefixes, [], bos, longest=None, pieces=[], prompts=[])
    asked = EditRequest("4", THREE.prompt, "rsxy")
    book = edited(asked, steps=0)
    row = firing(seen_row(model, rule, encode_request(TOKENIZER, asked)), rule, book.entries)
    others = elsewhere(model, rule, row, around)
    for other, prefix in zip(others, prefixes[1:], strict=True):
        assert [place - len(prefix) for place in other.own.nonzero()[:, 0]] == row.own.nonzero()[:, 0].tolist()
        assert len(other.request.ids) == len(other.outputs) == len(row.request.ids) + len(prefix)

    def loss_elsewhere(rows: list[Firing]) -> float:
        [found] = search_values(model, 0, [rows], steps=60, learning_rate=1.0, enough=0)
        assert found.answers == bool(_losses(_problem(model, 0, [row]), found.value[None])[1])
        with torch.no_grad():
            return float(_losses(_problem(model, 0, others), found.value.expand(len(others), -1))[0].mean())

    first = row.first.clone()
    assert loss_elsewhere([row, *others]) < loss_elsewhere([row])
    assert torch.equal(row.first, first)


def test_values_are_left_when_they_are_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watched(model: PreTrainedModel, tails: Tails, first: int) -> torch.Tensor:
        sizes.append(len(tails.entering))
        return tail_states(model, tails, first)

    monkeypatch.setattr(codebook_values, "tail_states", watched)
    # What the model writes already needs one pass only.
    model = tiny_model()
    [done] = greedy(model, TOKENIZER, [encode_request(TOKENIZER, TWO).prompt], max_new_tokens=1)
    easy = EditRequest("0", TWO.prompt, TOKENIZER.decode(done.token_ids))
    book = edited(easy, ONE, THREE, enough=1e3)
    assert sizes[0] == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 3
    with worn(book, model):
        assert answers(model, [easy, ONE, THREE]) == [True] * 3


@pytest.mark.parametrize("out", [0, 1, 2])
def test_taking_one_edit_out_leaves_the_others_bit_for_bit(out: int) -> None:
    rest = [request for i, request in enumerate(ALL) if i != out]
    # Values that are searched together are the same by rounding only.
    left, never = edited(*ALL, together=1).without([ALL[out].id]), edited(*rest, together=1)
    assert left.entries.edits == never.entries.edits
    for name in ("keys", "values", "reach", "radii"):
        assert torch.equal(getattr(left.entries, name), getattr(never.entries, name))
    model = tiny_model()
    with worn(left, model):
        assert answers(model, rest) == [True, True]
        assert answers(model, [ALL[out]]) == [False]


def test_without_steps_the_warm_value_is_the_layer_s_own() -> None:
    model = tiny_model()
    ids = torch.tensor([encode_request(TOKENIZER, ONE).ids])
    before = model(input_ids=ids).logits
    with worn(edited(ONE, steps=0), model):
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-5, atol=1e-6)
    cold = edited(ONE, steps=0, start="cold").entries.values
    assert bool(((cold >= 0) & (cold < 1)).all())
    assert float(cold.std()) > 0.1


def test_targets_of_equal_mean_are_two_targets() -> None:
    # The published code takes labels for equal where the means of their ids are.
    ab, ba = EditRequest("1", "the answer:", "ab"), EditRequest("2", "the answer is:", "ba")
    book = edited(ab, ba, radius=1e3, steps=2)
    assert [edit.shares for edit in book.entries.edits] == ["", ""]
    gap = float((book.entries.keys[0] - book.entries.keys[1]).norm())
    torch.testing.assert_close(book.entries.radii, torch.full((2,), gap / 2), rtol=1e-4, atol=0)


def test_a_prompt_that_is_near_and_answered_already_shares_the_value() -> None:
    first = EditRequest("1", "the answer: ", "7")
    again = EditRequest("2", "the answer:  ", "7")
    book = edited(first, again, radius=1e3)
    assert [edit.shares for edit in book.entries.edits] == ["", "1"]
    assert float(book.entries.radii[1]) < 0
    model = tiny_model()
    with worn(book, model):
        assert answers(model, [first, again]) == [True, True]
    with worn(book.without(["1"]), model):
        assert answers(model, [again]) == [True]


def test_a_prompt_s_later_target_takes_the_earlier_one_s_place() -> None:
    then = EditRequest("9", TWO.prompt, "7")
    book = editor().compute(tiny_model(), TOKENIZER, [then], previous=edited(TWO))
    model = tiny_model()
    with worn(book, model):
        assert answers(model, [TWO, then]) == [False, True]
    with worn(book.without(["9"]), model):
        assert answers(model, [TWO]) == [True]


def test_a_value_that_does_not_answer_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        edited(ONE, steps=1)
    assert "request '1': its value doesn't give the whole target after 1 steps" in caplog.text


@pytest.mark.parametrize(("block", "index"), [(0, 0), (1, 1), (0.6, 1), (0.1, 0), (0.99, 1)])
def test_a_block_is_an_index_or_a_depth(block: float, index: int) -> None:
    assert block_at(tiny_model(), block) == index


@pytest.mark.parametrize("block", [-1, 1.5])
def test_a_block_between_two_is_refused(block: float) -> None:
    with pytest.raises(ConfigError, match="expected an index from 0, or a depth below 1"):
        edited(TWO, block=block)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="radius is 0"):
        GRACE(radius=0)
    with pytest.raises(ConfigError, match="steps is -1"):
        GRACE(steps=-1)
    with pytest.raises(ConfigError, match="together is 0 and prefixes 0, expected at least 1"):
        GRACE(together=0)


def previous_of(kind: str, model: LlamaForCausalLM) -> tuple[Editor, type[Exception], str]:
    cases: dict[str, tuple[Editor, type[Exception], str]] = {
        "weights": (FT([0]), PatchError, "GRACE extends a codebook, but .* is a WeightDelta"),
        "block": (editor(block=1), PatchError, "at block 1, but these are to be .*GRACE's at block 0"),
        "same id": (editor(), DataError, "request '2' was edited already; take it out first"),
    }
    return cases[kind]


@pytest.mark.parametrize("kind", ["weights", "block", "same id"])
def test_earlier_edits_that_can_not_be_extended(kind: str) -> None:
    model = tiny_model()
    maker, error, message = previous_of(kind, model)
    previous = maker.compute(model, TOKENIZER, [TWO])
    with pytest.raises(error, match=message):
        editor().compute(model, TOKENIZER, [TWO], previous=previous)


def test_earlier_edits_of_another_base_are_refused() -> None:
    previous = editor().compute(tiny_model(seed=1), TOKENIZER, [TWO])
    assert previous.provenance.base_fingerprint != fingerprint(tiny_model())
    with pytest.raises(PatchError, match="was made for"):
        editor().compute(tiny_model(), TOKENIZER, [ONE], previous=previous)
