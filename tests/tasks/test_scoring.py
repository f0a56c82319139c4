"""Exact probabilities and divergences equal those of one full forward pass a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from hotfix.adapters import LoRA
from hotfix.data.encode import Branch, EncodedPair
from hotfix.models.tiny import tiny_model
from hotfix.tasks import scoring
from hotfix.tasks.scoring import pair_log_probs, prompt_drift, text_drift, text_log_probs, unedited_drift

TEXTS = [[5, 6, 7, 8, 9], [1, 2], [200, 100, 3, 3, 3, 3, 3, 3, 3, 42], [11, 12, 13]]


@torch.no_grad()
def log_softmax(model: LlamaForCausalLM, ids: Sequence[int]) -> Tensor:
    found: Tensor = model(torch.tensor([list(ids)])).logits[0].double().log_softmax(-1)
    return found


def sharp(seed: int = 0) -> LlamaForCausalLM:
    """A tiny model that is sure of something; a fresh one says 1/257 of everything."""
    model = tiny_model(seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
    return model


def by_hand(model: LlamaForCausalLM, pair: EncodedPair, branch: Branch) -> tuple[float, float]:
    table = log_softmax(model, pair.shared + branch.ids)
    ids = pair.shared + branch.ids
    end = len(pair.shared) + branch.statement
    each = {t: table[t - 1, ids[t]].item() for t in range(1, end)}
    whole = sum(each[t] for t in range(pair.prompt, end))
    return whole, sum(each[t] for t in range(len(pair.shared), end))


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_pair_log_probs_equal_a_forward_pass_of_each_side(encoded: list[EncodedPair], batch_size: int) -> None:
    model = sharp()
    found = pair_log_probs(model, encoded, batch_size)
    assert len(found) == len(encoded)
    for score, pair in zip(found, encoded, strict=True):
        assert (score.fixed, score.fixed_at_edit) == pytest.approx(by_hand(model, pair, pair.fixed), abs=1e-4)
        assert (score.buggy, score.buggy_at_edit) == pytest.approx(by_hand(model, pair, pair.buggy), abs=1e-4)
        assert score.fixed <= score.fixed_at_edit <= 0


def test_the_edit_point_is_later_than_the_prompt_where_the_sides_begin_alike() -> None:
    pair = EncodedPair("p", [1, 2, 3, 4], 2, "", Branch([5, 6, 7], [True, False, False], 2), Branch([8], [True], 1))
    model = sharp()
    [score] = pair_log_probs(model, [pair])
    table = log_softmax(model, [1, 2, 3, 4, 5, 6, 7])
    assert score.fixed_at_edit == pytest.approx((table[3, 5] + table[4, 6]).item(), abs=1e-4)
    each = [table[1, 3].item(), table[2, 4].item(), table[3, 5].item(), table[4, 6].item()]
    assert score.fixed_tokens == pytest.approx(each, abs=1e-4)
    assert score.fixed == pytest.approx(sum(each), abs=1e-4)
    assert score.buggy_at_edit == pytest.approx(log_softmax(model, [1, 2, 3, 4])[3, 8].item(), abs=1e-4)


def test_probabilities_of_all_one_token_statements_sum_to_one() -> None:
    model = sharp()
    pairs = [
        EncodedPair(f"{i}", [7, 8, 9], 3, "", Branch([i], [True], 1), Branch([i + 1], [True], 1)) for i in range(256)
    ]
    scores = pair_log_probs(model, pairs)
    total = sum(torch.tensor(score.fixed).exp().item() for score in scores)
    assert total + torch.tensor(scores[-1].buggy).exp().item() == pytest.approx(1.0, abs=1e-4)


def test_small_chunks_change_nothing(encoded: list[EncodedPair], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, drift = pair_log_probs(sharp(), encoded), text_drift(sharp(), nullcontext, TEXTS)
    monkeypatch.setattr(scoring, "_CHUNK", 3)
    for one, other in zip(whole, pair_log_probs(sharp(), encoded), strict=True):
        assert one[:4] == pytest.approx(other[:4], abs=1e-5)
        assert one.fixed_tokens == pytest.approx(other.fixed_tokens, abs=1e-5)
    for first, second in zip(drift, text_drift(sharp(), nullcontext, TEXTS), strict=True):
        assert tuple(first) == pytest.approx(tuple(second), abs=1e-5)
        assert first.kl / first.tokens == pytest.approx(second.kl / second.tokens, abs=1e-6)


def test_progress_adds_up(encoded: list[EncodedPair]) -> None:
    done: list[int] = []
    pair_log_probs(tiny_model(), encoded, 5, done.append)
    assert (sum(done), max(done)) == (len(encoded), 5)


def test_nothing_to_score() -> None:
    assert pair_log_probs(tiny_model(), []) == []
    assert text_drift(tiny_model(), nullcontext, []) == []
    assert prompt_drift(tiny_model(), nullcontext, [], []) == []


def turned_into(policy: LlamaForCausalLM, base: LlamaForCausalLM) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the policy is the base."""
    kept = {name: p.detach().clone() for name, p in policy.named_parameters()}

    @contextmanager
    def as_base() -> Iterator[None]:
        policy.load_state_dict(base.state_dict())
        try:
            yield
        finally:
            policy.load_state_dict(kept)

    return as_base


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_kl_equals_the_sum_over_the_vocabulary_by_hand(batch_size: int) -> None:
    policy, base = sharp(0), sharp(1)
    behind = [[1, 2], [3], []]
    found = prompt_drift(policy, turned_into(policy, base), TEXTS, (behind * len(TEXTS))[: len(TEXTS)], batch_size)
    for text, (kl, _) in zip(TEXTS, found, strict=True):
        p, q = log_softmax(base, text)[:-1], log_softmax(policy, text)[:-1]
        expected = (p.exp() * (p - q)).sum(-1).mean().item()
        assert expected > 0.1
        assert kl == pytest.approx(expected, rel=1e-4)


def test_kl_of_an_adapter_that_is_still_the_base_is_zero() -> None:
    adapter = LoRA(rank=2)
    model = adapter.attach(sharp())
    model.eval()
    found = prompt_drift(model, lambda: adapter.reference(model), TEXTS, [[]] * len(TEXTS))
    assert [drift.kl for drift in found] == [0.0] * len(TEXTS)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_model_follows_what_it_would_write_itself(batch_size: int) -> None:
    model = sharp()
    written = [list(text) for text in TEXTS]
    for ids in written:
        for _ in range(4):
            ids.append(int(log_softmax(model, ids)[-1].argmax()))
    own = [ids[len(text) :] for ids, text in zip(written, TEXTS, strict=True)]
    # One other token anywhere in it is one too many.
    wrong = [[*ids[:spot], (ids[spot] + 1) % 256, *ids[spot + 1 :]] for ids in own for spot in range(4)]
    prompts = [*TEXTS, *(text for text in TEXTS for _ in range(4))]
    found = prompt_drift(model, nullcontext, prompts, [*own, *wrong], batch_size)
    assert [drift.follows for drift in found] == [True] * len(own) + [False] * len(wrong)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_drift_of_texts_by_hand(batch_size: int) -> None:
    policy, base = sharp(0), sharp(1)
    found = text_drift(policy, turned_into(policy, base), TEXTS, batch_size)
    for text, drift in zip(TEXTS, found, strict=True):
        p, q = log_softmax(base, text)[:-1], log_softmax(policy, text)[:-1]
        each = (p.exp() * (p - q)).sum(-1)
        assert drift.tokens == len(text) - 1
        assert drift.nll == pytest.approx(-sum(q[t, text[t + 1]].item() for t in range(len(text) - 1)), rel=1e-5)
        assert (drift.kl, drift.kl_worst) == pytest.approx((each.sum().item(), each.max().item()), rel=1e-4)


@torch.no_grad()
def test_negative_log_likelihood_is_the_loss_of_transformers() -> None:
    # Texts of several lengths in one batch: the published code's perplexity counts the padding (its defect 7).
    model = sharp()
    for text, drift in zip(TEXTS, text_drift(model, None, TEXTS), strict=True):
        ids = torch.tensor([text])
        assert drift.nll / drift.tokens == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)
        assert (drift.kl, drift.kl_worst) == (0.0, 0.0)


def test_unedited_tokens_of_a_pair_by_hand() -> None:
    shared = [1, 2, 3]
    fixed = Branch([5, 6, 7, 8], [True, True, False, False], 3)
    buggy = Branch([9, 7, 8], [True, False, False], 2)
    policy, base = sharp(0), sharp(1)
    wide = EncodedPair("w", [4] * 9, 4, "", Branch([1], [True], 1), Branch([2], [True], 1))
    pairs = [EncodedPair("p", shared, 2, "", fixed, buggy), wide]
    found = unedited_drift(policy, turned_into(policy, base), pairs)
    nll, kl = 0.0, []
    # What both begin with once; 7 and 8 behind each side's own edit.
    for ids, places in ((shared + fixed.ids, (1, 2, 5, 6)), (shared + buggy.ids, (4, 5))):
        p, q = log_softmax(base, ids), log_softmax(policy, ids)
        nll -= sum(q[t - 1, ids[t]].item() for t in places)
        kl += [(p[t - 1].exp() * (p[t - 1] - q[t - 1])).sum().item() for t in places]
    assert found[0] == pytest.approx((6, nll, sum(kl), max(kl)), rel=1e-4)
    assert found[1].tokens == 8


@pytest.mark.parametrize("batch_size", [1, 64])
def test_log_probs_of_texts_from_a_place_on_by_hand(batch_size: int) -> None:
    model, starts = sharp(), [1, 1, 9, 2]
    found = text_log_probs(model, TEXTS, starts, batch_size)
    for text, start, value in zip(TEXTS, starts, found, strict=True):
        table = log_softmax(model, text)
        assert value == pytest.approx(sum(table[t - 1, text[t]].item() for t in range(start, len(text))), abs=1e-4)
