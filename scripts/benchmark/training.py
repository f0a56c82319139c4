"""Optimizer steps: ours against three padded passes of 512 tokens (the same loss), and against TRL's DPOTrainer."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle

import torch
from apart import apart
from peft import PeftModel
from side_by_side import Finding, alternate, seconds, timed
from torch import Tensor
from work import code_pairs, encoded

from hotfix.adapters import LoRA
from hotfix.adapters.first_pass import first_pass
from hotfix.data.encode import EncodedPair
from hotfix.data.loader import PairLoader
from hotfix.data.packing import Batch
from hotfix.losses import NLL, KLToReference, ModelPasses, Objective, Unlikelihood
from hotfix.losses.base_states import BaseStates
from hotfix.models.loading import Dtype, load_causal_lm, load_tokenizer
from hotfix.models.peak_memory import peak_resident

__all__ = ["run"]

_MODEL = "smollm2-135m"
_PAIRS = 256
# Pairs of a step; the padded passes of eight in float32 take more than 20 GB.
_BATCHES: dict[Dtype, int] = {"bfloat16": 8, "float32": 4}
_LENGTH = 512
_WEIGHTS = {"unlearn": 0.5, "retain": 30.0}


def run(repeats: int) -> Iterator[Finding]:
    """Time both in bfloat16 and float32, each in a process of its own, and compare the memory that each takes."""
    yield from (_timed(peer, dtype, repeats) for dtype in _BATCHES for peer in ("plain", "trl"))
    own, other = (float(apart(__file__, "memory", side)) for side in ("ours", "plain"))
    note = "resident set of a process that makes a step, the model included, bfloat16"
    ratio = other / own
    yield Finding("peak memory of a step", "GB", own, other, ratio, ratio, ratio, 2.0, 1, note)


def _timed(peer: str, dtype: Dtype, repeats: int) -> Finding:
    name, target, work = {
        "plain": ("steps against three padded passes", 8.0, "learn + unlearn + retain, LoRA on all linear layers"),
        "trl": (
            "steps against TRL's DPOTrainer",
            6.0,
            "adapter as reference, reference log-probs precomputed; ours holds the KL to the base as well",
        ),
    }[peer]
    told = json.loads(apart(__file__, "time", peer, dtype, str(repeats)))
    batch = _BATCHES[dtype]
    note = f"batch {batch}, {work}{told['check']}"
    return timed(f"{name}, {dtype}", told["times"], target=target, amount=batch, unit="pairs/s", note=note)


def _against_plain(dtype: Dtype, repeats: int) -> tuple[list[tuple[float, float]], str]:
    """Time three padded passes and ours in turn; in float32 the losses have to be the same."""
    ours, plain = _Ours(dtype), _Plain(dtype)
    check = _check(ours, plain) if dtype == "float32" else ""
    return alternate(ours.step, plain.step, repeats), check


def _against_trl(dtype: Dtype, repeats: int) -> tuple[list[tuple[float, float]], str]:
    """Time TRL's DPOTrainer, and our steps between its own."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    ours, side, batch = _Ours(dtype), _Side(dtype), _BATCHES[dtype]
    times: list[tuple[float, float]] = []

    class Between(TrainerCallback):
        """Makes as many steps of ours behind each of theirs, and times both."""

        started = 0.0

        def on_step_begin(self, *_: object, **__: object) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            theirs = time.perf_counter() - self.started
            times.append((seconds(ours.step), theirs))

    tokenizer = load_tokenizer(_MODEL)
    rows = [{"prompt": p.prefix, "chosen": p.fixed, "rejected": p.buggy} for p in code_pairs(tokenizer, _PAIRS)]
    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=batch,
            max_steps=1 + repeats,
            max_length=_LENGTH,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=batch,
            gradient_checkpointing=False,
            bf16=dtype == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        data = Dataset.from_list(rows[: batch * (1 + repeats)])
        trainer = DPOTrainer(
            model=side.model, args=settings, train_dataset=data, processing_class=tokenizer, callbacks=[Between()]
        )
        trainer.train()
    return times[1:], ""


class _Side:
    """A model with a LoRA, and an optimizer."""

    def __init__(self, dtype: Dtype) -> None:
        self.base = load_causal_lm(_MODEL, dtype)
        self.adapter = LoRA(rank=8)
        torch.manual_seed(0)
        self.model = self.adapter.attach(self.base)
        assert isinstance(self.model, PeftModel)
        self.model.eval()
        tokenizer = load_tokenizer(_MODEL)
        self.pairs = encoded(tokenizer, code_pairs(tokenizer, _PAIRS))
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            # As after some steps: at the start there is no divergence that could be compared.
            for name, weight in self.model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 0.01, generator=draw)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.batches: Iterator[Batch] = cycle(list(PairLoader(self.pairs, [], _BATCHES[dtype])))

    def loss(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def step(self) -> None:
        """Make an optimizer step."""
        self.loss(next(self.batches)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class _Ours(_Side):
    def __init__(self, dtype: Dtype) -> None:
        super().__init__(dtype)
        self.objective = Objective(
            NLL(side="fixed", scope="edited"),
            Unlikelihood(side="buggy", scope="edited", first_only=True, weight=_WEIGHTS["unlearn"]),
            KLToReference({"fixed": 1.0}, scope="unedited", weight=_WEIGHTS["retain"]),
        )
        states = BaseStates.planned(self.model, self.pairs, [])
        assert states is not None
        first_pass(self.model, self.adapter.reference, self.pairs, [], [states])
        self.states = states

    def loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self.objective(ModelPasses(self.model, batch, self.adapter.reference, self.states))["loss"]
        return loss


class _Plain(_Side):
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
        total: Tensor = learn + _WEIGHTS["unlearn"] * unlearn + _WEIGHTS["retain"] * kl
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


def _check(ours: _Ours, plain: _Plain) -> str:
    """Both compute the same loss before the first step."""
    batch = next(ours.batches)
    # A small divergence is the difference of large numbers: in float32 the padded one has four digits, ours six.
    with torch.no_grad():
        own, other = ours.loss(batch).item(), plain.loss(batch, torch.float64).item()
    if abs(own - other) > 1e-5 * max(1.0, abs(other)):
        raise SystemExit(f"training: the losses differ: ours {own:.7g}, padded {other:.7g}")
    return f"; losses equal ({own:.6f} and {other:.6f})"


def _peak(side: type[_Side]) -> float:
    """Return the peak resident set of this process, in GB, behind a step."""
    side("bfloat16").step()
    return peak_resident() / 1024**3


def _main(what: str, which: str, dtype: Dtype = "bfloat16", repeats: str = "1") -> str:
    """Measure one thing, and tell it in a line."""
    if what == "memory":
        return str(_peak({"ours": _Ours, "plain": _Plain}[which]))
    times, check = {"plain": _against_plain, "trl": _against_trl}[which](dtype, int(repeats))
    return json.dumps({"times": times, "check": check})


if __name__ == "__main__":
    sys.stdout.write(f"{_main(*sys.argv[1:])}\n")  # type: ignore[arg-type]
