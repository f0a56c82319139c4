"""Optimizer steps: ours against three padded passes of 512 tokens (the same loss), and against TRL's DPOTrainer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import torch
from apart import apart
from preference import against_trl
from side_by_side import Finding, alternate, timed
from sides import MODEL, WEIGHTS, Ours, Side, agreed, three_terms
from torch import Tensor
from work import code_pairs, encoded

from hotfix.data.encode import EncodedPair
from hotfix.data.packing import Batch
from hotfix.models.loading import Dtype, load_tokenizer
from hotfix.models.peak_memory import peak_resident

__all__ = ["run"]

_PAIRS = 256
# Pairs of a step; the padded passes of eight in float32 take more than 20 GB.
_BATCHES: dict[Dtype, int] = {"bfloat16": 8, "float32": 4}
_LENGTH = 512


def run(repeats: int) -> Iterator[Finding]:
    """Time both in bfloat16 and float32, each in a process of its own, and compare the memory that each takes."""
    for dtype, batch in _BATCHES.items():
        yield _against_plain(dtype, batch, repeats)
        yield from against_trl(dtype, batch, repeats)
    own, other = (float(apart(__file__, "memory", side)) for side in ("ours", "plain"))
    note = "resident set of a process that makes a step, the model included, bfloat16"
    ratio = other / own
    yield Finding("peak memory of a step", "GB", own, other, ratio, ratio, ratio, 2.0, 1, note)


def _against_plain(dtype: Dtype, batch: int, repeats: int) -> Finding:
    told = json.loads(apart(__file__, "time", dtype, str(repeats)))
    note = f"batch {batch}, learn + unlearn + retain, LoRA on all linear layers{told['check']}"
    name = f"steps against three padded passes, {dtype}"
    return timed(name, told["times"], target=8.0, amount=batch, unit="pairs/s", note=note)


def _timed(dtype: Dtype, repeats: int) -> str:
    """Time three padded passes and ours in turn; in float32 the losses have to be the same."""
    ours, plain = _ours(dtype), _plain(dtype)
    check = _check(ours, plain) if dtype == "float32" else ""
    return json.dumps({"times": alternate(ours.step, plain.step, repeats), "check": check})


def _ours(dtype: Dtype) -> Ours:
    return Ours(dtype, _pairs(), _BATCHES[dtype], three_terms())


def _plain(dtype: Dtype) -> _Plain:
    return _Plain(dtype, _pairs(), _BATCHES[dtype])


def _pairs() -> list[EncodedPair]:
    tokenizer = load_tokenizer(MODEL)
    return encoded(tokenizer, code_pairs(tokenizer, _PAIRS))


class _Plain(Side):
    """What a notebook does: both sides padded to one length, all logits, the reference by a third pass."""

    def loss(self, batch: Batch, precision: torch.dtype = torch.float32) -> Tensor:
        """Return the loss, with log-probs of some precision."""

        def log_probs(rows: dict[str, Tensor]) -> Tensor:
            found: Tensor = self.model(**rows).logits.to(precision).log_softmax(-1)
            return found

        pairs = [self.pairs[i] for i in batch.places["pairs"]]
        fixed, fixed_edited = _padded(pairs, "fixed")
        buggy, buggy_edited = _padded(pairs, "buggy")
        with torch.autocast("cpu", torch.bfloat16, enabled=self.base.dtype == torch.bfloat16):
            with torch.no_grad(), self.adapter.reference(self.model):
                reference = log_probs(fixed)
            policy, other = log_probs(fixed), log_probs(buggy)
        learn = -_picked(policy, fixed["input_ids"])[fixed_edited[:, 1:]].mean()
        first = buggy_edited & (buggy_edited.cumsum(1) == 1)
        unlearn = -torch.log1p(-_picked(other, buggy["input_ids"])[first[:, 1:]].exp()).mean()
        kept = (fixed["attention_mask"].bool() & ~fixed_edited)[:, 1:]
        kl = (reference.exp() * (reference - policy)).sum(-1)[:, :-1][kept].mean()
        total: Tensor = learn + WEIGHTS["unlearn"] * unlearn + WEIGHTS["retain"] * kl
        return total


def _padded(pairs: list[EncodedPair], side: str) -> tuple[dict[str, Tensor], Tensor]:
    ids = torch.zeros(len(pairs), _LENGTH, dtype=torch.long)
    mask, edited = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, pair in enumerate(pairs):
        branch = getattr(pair, side)
        own = [*pair.shared, *branch.ids][:_LENGTH]
        ids[row, : len(own)], mask[row, : len(own)] = torch.tensor(own), 1
        edited[row, len(pair.shared) : len(own)] = torch.tensor(branch.edited)[: len(own) - len(pair.shared)]
    return {"input_ids": ids, "attention_mask": mask}, edited


def _picked(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Log p of each token but the first, [B, T - 1]."""
    return log_probs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]


def _check(ours: Ours, plain: _Plain) -> str:
    """Both compute the same loss before the first step."""
    batch = next(ours.batches)
    # A small divergence is the difference of large numbers: in float32 the padded one has four digits, ours six.
    with torch.no_grad():
        return agreed(ours.loss(batch), plain.loss(batch, torch.float64), "padded")


def _main(what: str, which: str, repeats: str = "1") -> str:
    """Measure one thing, and tell it in a line."""
    if what == "memory":
        {"ours": _ours, "plain": _plain}[which]("bfloat16").step()
        return str(peak_resident() / 1024**3)
    return _timed(which, int(repeats))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.stdout.write(f"{_main(*sys.argv[1:])}\n")
