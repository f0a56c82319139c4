"""What a model makes of given answers, and what it writes itself; a model that an edit broke is measured, too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hotfix.data.packing import Targets, by_length, pack_texts
from hotfix.errors import ModelError
from hotfix.functional import token_kl, token_log_probs
from hotfix.generation import StopAfterLines, greedy
from hotfix.models.states import head_logits, hidden_states
from hotfix.tasks.base import Subject
from hotfix.tasks.scoring import Reference

__all__ = ["AnswerScores", "Continued", "answer_scores", "continued", "first_lines", "line_count"]

# Positions whose logits are in memory at once, of model and base each: 512 x 49,152 words x 4 bytes = 100 MB.
_CHUNK = 512


class AnswerScores(NamedTuple):
    """Of one answer behind its prompt, teacher-forced.

    Attributes:
        hits: whether each token is the likeliest one.
        log_prob: of all tokens, in nats; None where the logits are no numbers.
        kl: KL(base || model) of the positions that predict them, in nats a token; 0 of the base, None as above.
    """

    hits: list[bool]
    log_prob: float | None
    kl: float | None


class Continued(NamedTuple):
    """What a model writes greedily.

    Attributes:
        token_ids: without the end-of-sequence token.
        finished: whether it ended by itself.
    """

    token_ids: list[int]
    finished: bool


@torch.inference_mode()
def answer_scores(
    model: nn.Module,
    reference: Reference | None,
    prompts: Sequence[Sequence[int]],
    given: Sequence[Sequence[int]],
    batch_size: int = 16,
) -> list[AnswerScores]:
    """Return what the model makes of an answer behind each prompt: one forward pass each, two with the base's.

    Args:
        model: that is measured.
        reference: context in which it is the frozen base; None where it is the base that is measured.
        prompts: token ids, at least one each.
        given: the answers' token ids; an empty one has no hits, probability 1 and no divergence.
        batch_size: texts computed together.
    """
    found = {i: AnswerScores([], 0.0, 0.0) for i, answer in enumerate(given) if not answer}
    rest = [i for i, answer in enumerate(given) if answer]
    for places in by_length([len(prompts[i]) + len(given[i]) for i in rest], batch_size):
        chosen = [rest[place] for place in places]
        texts = [[*prompts[i], *given[i]] for i in chosen]
        lengths = [len(prompts[i]) for i in chosen]
        found |= dict(zip(chosen, _scores(model, reference, texts, lengths), strict=True))
    return [found[i] for i in range(len(prompts))]


def continued(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    settings: Sequence[tuple[int, int]],
    batch_size: int,
    begun: Sequence[Sequence[int]] = (),
) -> list[Continued | None]:
    """Continue each prompt greedily; None where the model's logits are no numbers.

    Args:
        subject: the model.
        prompts: token ids.
        settings: of each: the greatest number of tokens, and of lines that aren't blank, 0 for any.
        batch_size: prompts continued together.
        begun: tokens that each continuation is known to begin with; none by default.
    """
    found: dict[int, Continued | None] = {}
    begun = begun or [()] * len(prompts)
    for tokens, lines in sorted(set(settings)):
        places = [i for i, own in enumerate(settings) if own == (tokens, lines)]
        stop = StopAfterLines(lines) if lines else None
        some, starts = [prompts[i] for i in places], [begun[i] for i in places]
        try:
            written = greedy(
                subject.model, subject.tokenizer, some, tokens, stop=stop, batch_size=batch_size, begun=starts
            )
        except ModelError as error:
            if "not finite" not in str(error):
                raise
            found |= dict.fromkeys(places)
            continue
        found |= {i: Continued(c.token_ids, c.finished) for i, c in zip(places, written, strict=True)}
    return [found[i] for i in range(len(prompts))]


def line_count(text: str) -> int:
    r"""Return the number of lines that aren't blank, at least 1.

    >>> line_count("a\n\n  b\n"), line_count("")
    (2, 1)
    """
    return max(1, sum(bool(line.strip()) for line in text.split("\n")))


def first_lines(text: str, count: int) -> str:
    r"""Return a text up to the end of its first lines that aren't blank, without the line break.

    >>> first_lines("\n a\nb\nc", 2)
    '\n a\nb'
    """
    lines = text.split("\n")
    kept = 0
    for place, line in enumerate(lines):
        kept += bool(line.strip())
        if kept == count:
            return "\n".join(lines[: place + 1])
    return text


def _scores(
    model: nn.Module, reference: Reference | None, texts: Sequence[Sequence[int]], lengths: Sequence[int]
) -> list[AnswerScores]:
    rows, targets = pack_texts(texts, pad_id=0)
    assert rows is not None
    device = next(model.parameters()).device
    rows = rows.to(device)
    targets = targets.where(targets.column + 1 >= torch.tensor(lengths)[targets.example]).to(device)
    states = hidden_states(model, rows)[targets.row, targets.column]
    base = None
    if reference is not None:
        with reference():
            base = hidden_states(model, rows)[targets.row, targets.column]
    columns = _by_token(model, reference, states, base, targets)
    each = torch.stack(columns, dim=1).split(torch.bincount(targets.example, minlength=len(texts)).tolist())
    return [_summed(part) for part in each]


def _by_token(
    model: nn.Module, reference: Reference | None, states: Tensor, base: Tensor | None, targets: Targets
) -> tuple[Tensor, Tensor, Tensor]:
    """Hit, log p and divergence of each token, float64 [N] each."""
    hits, log_probs, kl = [], [], []
    for start in range(0, len(states), _CHUNK):
        part = slice(start, start + _CHUNK)
        logits = head_logits(model, states[part])
        # NaN has no likeliest token, but an argmax.
        hits.append((logits.argmax(-1) == targets.token[part]) & logits.isfinite().all(-1))
        log_probs.append(token_log_probs(logits, targets.token[part]))
        if reference is None or base is None:
            kl.append(torch.zeros_like(log_probs[-1]))
            continue
        with reference():
            expected = head_logits(model, base[part])
        # Rounding may take a divergence of nothing below 0.
        kl.append(token_kl(expected, logits).clamp(min=0))
    found = [torch.cat(column).double() for column in (hits, log_probs, kl)]
    return found[0], found[1], found[2]


def _summed(tokens: Tensor) -> AnswerScores:
    hits, log_prob, kl = tokens.unbind(1)
    return AnswerScores([hit > 0 for hit in hits.tolist()], _number(log_prob.sum()), _number(kl.mean()))


def _number(value: Tensor) -> float | None:
    found: Any = value.item()
    return float(found) if math.isfinite(found) else None
