"""What the hotfixing paper's published code gets wrong, each shown not to be so here."""

from __future__ import annotations

from pathlib import Path

import torch
from loss_bench import Bench, assert_same, gradients, mean_nll

from hotfix.data.diff import edited_tokens
from hotfix.data.encode import PairEncoder, encode_text
from hotfix.data.packing import pack
from hotfix.data.schema import parse_row
from hotfix.functional import token_kl
from hotfix.losses import DPO, NLL, BoundedPenalty, GradientAscent, KLToReference, Objective
from hotfix.models.tiny import tiny_tokenizer


def test_defect_1_the_retain_divergence_has_a_gradient_takes_logarithms_and_sums_over_the_vocabulary(
    bench: Bench,
) -> None:
    term = KLToReference({"fixed": 1.0}, "all")
    value = term(bench.passes())
    assert max(float(g.abs().max()) for g in gradients(value, bench.trained()).values()) > 1e-3
    # By the definition, over the vocabulary, with probabilities.
    tokens = bench.tokens("fixed", "all")
    rows = [(t.reference.softmax(-1), t.logits.softmax(-1)) for t in tokens]
    expected = torch.stack([(p * (p / q).log()).sum() for p, q in rows]).mean()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    # As published: probabilities where logarithms are expected, a sum over the sequence's axis, no gradient.
    with torch.no_grad():
        reference, policy = (torch.stack(side) for side in zip(*rows, strict=True))
        published = torch.nn.functional.kl_div(policy, reference, reduction="none", log_target=True).sum(0).mean()
    assert not published.requires_grad
    assert abs(published - value) > 1e-3
    assert (token_kl(torch.zeros(3, 5), torch.randn(3, 5)) >= 0).all()


def test_defect_2_learning_and_unlearning_together_hold_both_parts(bench: Bench) -> None:
    expected = mean_nll(bench.tokens("fixed", "edited")) - mean_nll(bench.tokens("buggy", "edited"))
    both = Objective(learn=NLL(), unlearn=GradientAscent())
    assert_same(both, expected, bench)
    alone = gradients(Objective(unlearn=GradientAscent())(bench.passes())["loss"], bench.trained())
    together = gradients(both(bench.passes())["loss"], bench.trained())
    assert max(float((together[name] - alone[name]).abs().max()) for name in alone) > 1e-3


def test_defect_3_the_penalty_divides_by_both_losses_unless_asked_for_the_published_one(bench: Bench) -> None:
    for denominator, shift in (("added_and_deleted", 0.0), ("twice_deleted", 1e-6)):
        added, deleted = (mean_nll(bench.tokens(side, "edited")) for side in ("fixed", "buggy"))  # type: ignore[arg-type]
        divisor = (added if denominator == "added_and_deleted" else deleted) + deleted + shift
        term = BoundedPenalty(denominator, per="micro_batch")  # type: ignore[arg-type]
        assert_same(term, 0.7 * added + 0.3 * added / divisor, bench)
    assert BoundedPenalty().denominator == "added_and_deleted"
    pushes = [
        gradients(BoundedPenalty(denominator)(bench.passes()), bench.trained())
        for denominator in ("added_and_deleted", "twice_deleted")  # type: ignore[arg-type]
    ]
    assert max(float((pushes[0][name] - pushes[1][name]).abs().max()) for name in pushes[0]) > 1e-4


def test_defect_6_no_token_that_the_sides_share_is_pushed_up_and_down(bench: Bench) -> None:
    # A whole-line mask, as published, pushes the changed line's common beginning both ways.
    tokenizer = tiny_tokenizer()
    row = {"prefix": "import yaml\n", "buggy": "cfg = yaml.load(f)", "fixed": "cfg = yaml.safe_load(f)", "suffix": "\n"}
    pair = parse_row(row, Path("pairs.jsonl"), 1)
    lines = {}
    for side in (pair.buggy, pair.fixed):
        spans = [(len(pair.prefix), len(pair.prefix) + len(side))]
        lines[side] = edited_tokens(spans, encode_text(tokenizer, pair.prefix + side).offsets, shared=0)
    assert all(any(marks[len(pair.prefix) : len(pair.prefix) + len("cfg = yaml.")]) for marks in lines.values())
    encoded = PairEncoder(tokenizer)(pair)
    assert encoded.shared == tokenizer("import yaml\ncfg = yaml.")["input_ids"]
    targets = pack([encoded, *bench.pairs]).targets
    for example, p in enumerate([encoded, *bench.pairs]):
        for side in ("fixed", "buggy"):
            edited = targets[side].edited[targets[side].example == example]  # type: ignore[index]
            assert not edited[: len(p.shared) - 1].any()
            assert edited[len(p.shared) - 1]
    # `load(f)` is in both lines; of it only the token where they part is marked.
    marked = [bool(m) for m in encoded.fixed.edited]
    assert marked[: len("safe_")] == [True] * len("safe_")
    assert not all(marked)


def test_defect_6_in_all_tokens_what_is_before_the_edit_cancels(bench: Bench) -> None:
    def push_on_shared(loss: torch.Tensor, weights: dict[str, torch.nn.Parameter]) -> float:
        return max(float(g.abs().max()) for g in gradients(loss, weights).values())

    first = len(bench.pairs[0].shared) - 1
    passes = bench.passes()
    shared, same = (passes.log_probs(side, "all")[:first].sum() for side in ("fixed", "buggy"))  # type: ignore[arg-type]
    assert push_on_shared(shared - same, bench.trained()) < 1e-5
    assert push_on_shared(bench.passes().log_probs("fixed", "all")[:first].sum(), bench.trained()) > 1e-2
    # So a preference over all tokens and one over those behind the edit point are the same.
    behind = Objective(learn=DPO("all", 0.1))(bench.passes())["loss"]
    edges = [(len(p.shared) - 1, p) for p in bench.pairs]
    margins = []
    for (start, _), fixed, buggy in zip(
        edges, bench.sequences("fixed", "all"), bench.sequences("buggy", "all"), strict=True
    ):
        won, lost = (sum((t.log_p - t.base_log_p for t in s[start:]), torch.zeros(())) for s in (fixed, buggy))
        margins.append(torch.nn.functional.softplus(-0.1 * (won - lost)))
    torch.testing.assert_close(behind, torch.stack(margins).mean(), rtol=1e-4, atol=1e-6)


def test_defect_7_padding_is_never_learnt(bench: Bench) -> None:
    end = tiny_tokenizer().eos_token_id
    term = NLL("fixed", "all")
    values = [
        term(bench.passes(bench.batch(layout=layout, pad_id=pad)))
        for layout in ("packed", "padded")
        for pad in (0, end)
    ]
    expected = mean_nll(bench.tokens("fixed", "all"))
    for value in values:
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    targets = bench.batch(layout="padded", pad_id=end).targets["fixed"]
    assert len(targets.token) == sum(len(p.shared) + len(p.fixed.ids) - 1 for p in bench.pairs)
    assert end not in targets.token.tolist()
