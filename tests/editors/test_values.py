"""The search for values: positions from ids, the same in any company, within its bound."""

from __future__ import annotations

from statistics import median

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hotfix.data.edits import EditRequest, EncodedRequest, encode_request
from hotfix.editors import values
from hotfix.editors.base import Background, frozen
from hotfix.editors.contexts import Surroundings, contrasts, in_contexts, surroundings, windows
from hotfix.editors.rows import TargetRows, target_rows
from hotfix.editors.values import Place, Search, search_values
from hotfix.models.layout import feed_forward_output, find_blocks
from hotfix.models.states import head_logits, hidden_states
from hotfix.models.tiny import tiny_model, tiny_tokenizer
from hotfix.models.trace import changed_output

GENERATOR = torch.Generator().manual_seed(0)
TEXTS = [torch.randint(256, (30,), generator=GENERATOR).tolist() for _ in range(8)]
REQUEST = encode_request(tiny_tokenizer(), EditRequest("1", "reverse x:", " x[::-1]"))


def around(tokenizer: PreTrainedTokenizerBase | None = None, prefixes: int = 3, others: int = 2) -> Surroundings:
    return surroundings(tokenizer or tiny_tokenizer(), Background(texts=TEXTS), prefixes, 6, others)


def place(model: PreTrainedModel) -> Place:
    return Place(1, {"feed-forward": feed_forward_output(model, 1).module})


def block(model: PreTrainedModel) -> Place:
    return Place(1, {"block": find_blocks(model.get_decoder()).blocks[1]})


def loss_with(model: PreTrainedModel, shift: torch.Tensor, request: EncodedRequest) -> float:
    rows = target_rows([request], "cpu")

    def at_end(out: torch.Tensor) -> torch.Tensor:
        return out.index_put((torch.arange(1), rows.last), shift[None], accumulate=True)

    with torch.no_grad(), changed_output(block(model).modules["block"], at_end):
        logits = head_logits(model, hidden_states(model, rows.rows)[rows.row, rows.column])
    return float(torch.nn.functional.cross_entropy(logits, rows.token))


def test_the_target_is_likely_with_the_value_that_is_found() -> None:
    """One token: a block's output at the prompt's end says nothing about later ones where no block is above."""
    model = tiny_model()
    request = EncodedRequest("1", REQUEST.prompt, REQUEST.target[:1])
    with frozen(model):
        [found] = search_values(model, block(model), [request], around(prefixes=0), Search(steps=20))
    shift = found.shift["block"]
    before, after = loss_with(model, torch.zeros(32), request), loss_with(model, shift, request)
    assert after < before - 0.5
    assert found.loss == pytest.approx(after, rel=1e-4)


def test_other_rows_and_their_padding_make_no_difference() -> None:
    model = tiny_model()
    short, long = around(prefixes=1), around(prefixes=1)
    # What is drawn for the drift has no weight here, but its rows are as long as they are.
    long = long._replace(others=[EncodedRequest("o", [1] * 60, [2]), *long.others])
    search = Search(steps=6, kl=0.0)
    with frozen(model):
        [one] = search_values(model, place(model), [REQUEST], short, search)
        [two] = search_values(model, place(model), [REQUEST], long, search)
    torch.testing.assert_close(one.shift["feed-forward"], two.shift["feed-forward"], rtol=1e-4, atol=1e-6)


def test_a_value_is_the_same_in_any_batch() -> None:
    """Also where others have longer rows, are done earlier, or are searched in the next batch."""
    model = tiny_model()
    requests = [EncodedRequest(str(i), [7, 3 * i + 2, *range(3, 3 + i)], [9 + i, 4][: 1 + i % 2]) for i in range(18)]
    drawn = around()
    with frozen(model):
        enough = median(value.loss for value in search_values(model, place(model), requests, drawn, Search(steps=12)))
        search = Search(steps=12, enough=enough + 0.01)
        together = search_values(model, place(model), requests, drawn, search)
        for found, request in zip(together, requests, strict=True):
            [alone] = search_values(model, place(model), [request], drawn, search)
            assert found.loss == pytest.approx(alone.loss, rel=1e-3)
            torch.testing.assert_close(found.start, alone.start, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found.shift, alone.shift, rtol=1e-2, atol=1e-4)
    done = [value.loss < search.enough for value in together]
    assert any(done)
    assert not all(done)


def test_the_change_is_held_within_its_bound() -> None:
    model = tiny_model()
    with frozen(model):
        [found] = search_values(model, place(model), [REQUEST], around(), Search(steps=9, clamp=0.25))
    ratio = found.shift["feed-forward"].norm() / found.start["feed-forward"].norm()
    assert ratio == pytest.approx(0.25, rel=1e-4)


def test_drift_at_other_prompts_is_paid_for() -> None:
    model = tiny_model()
    with frozen(model):
        [free] = search_values(model, place(model), [REQUEST], around(), Search(steps=15, kl=0.0))
        [paid] = search_values(model, place(model), [REQUEST], around(), Search(steps=15, kl=100.0))
    assert paid.shift["feed-forward"].norm() < free.shift["feed-forward"].norm()
    assert paid.loss > free.loss


@pytest.mark.parametrize("bos", [False, True])
def test_the_loss_is_of_the_target_s_tokens_where_they_are_predicted(
    bos: bool, any_tok: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without a beginning-of-sequence token, whatever stands before the prompt."""
    seen: list[TargetRows] = []

    def keep(*args: object) -> TargetRows:
        seen.append(target_rows(*args))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(values, "target_rows", keep)
    request = encode_request(any_tok, EditRequest("1", "Intent: go {x}\nCode:", " del x  # é"))
    start = any_tok.bos_token_id
    if bos:
        request = request._replace(prompt=[start, *request.prompt])
    before = around(any_tok)
    ids = [[token % 257 for token in part] for part in request[1:]]
    small = EncodedRequest("1", *ids)
    before = before._replace(bos=start % 257, prefixes=[[t % 257 for t in p] for p in before.prefixes])
    model = tiny_model()
    with frozen(model):
        search_values(model, place(model), [small], before, Search(steps=0))
    [rows] = seen
    for row in range(len(before.prefixes)):
        mine = rows.row == row
        assert rows.token[mine].tolist() == small.target
        assert rows.rows.input_ids[row, rows.column[mine] + 1].tolist() == small.target
        assert rows.column[mine][0] == rows.last[row]
        assert rows.rows.input_ids[row, rows.last[row]] == small.prompt[-1]
        if bos:
            assert (rows.rows.input_ids[row] == start % 257).nonzero()[0] == 0


def test_contexts_are_the_same_for_every_request_and_fit_the_model() -> None:
    assert around() == around()
    drawn = around()._replace(longest=len(REQUEST.ids) + 2)
    assert [len(r.ids) - len(REQUEST.ids) for r in in_contexts(REQUEST, drawn)] == [0, 2, 2, 2]
    assert all(len(r.ids) <= len(REQUEST.ids) + 2 for r in contrasts(REQUEST, drawn, 4))


def test_windows_part_the_target_and_nothing_else() -> None:
    parts = windows(REQUEST, 3)
    assert [t for part in parts for t in part.target] == REQUEST.target
    assert all(part.ids == REQUEST.ids[: len(part.ids)] for part in parts)
    assert windows(REQUEST, None) == [REQUEST]
