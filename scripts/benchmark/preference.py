"""Epochs of TRL's DPOTrainer and of ours in turn, over the same pairs: the same loss, and ours of three terms.

preference.py DTYPE BATCH REPEATS
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from apart import apart
from side_by_side import Finding, seconds, timed
from sides import MODEL, Ours, agreed, three_terms
from torch import nn
from transformers import PreTrainedTokenizerBase
from work import code_pairs, encoded

from hotfix.data.encode import Branch, EncodedPair, PairEncoder
from hotfix.data.schema import CodePair
from hotfix.losses import DPO, Objective
from hotfix.models.loading import Dtype, load_causal_lm, load_tokenizer

__all__ = ["against_trl"]

_TARGET = 6.0
_STEPS = 3
_BETA = 0.1
_BLOCKS: dict[str, list[int] | None] = {"all": None, "the upper third": list(range(20, 30))}
_NOTES = {
    "DPO": "both on the same weights, the base as reference, its log-probs precomputed",
    "learn + unlearn + retain": "TRL's loss has no third term; ours is of 128 tokens a step, as in the recipes",
}


def against_trl(dtype: Dtype, batch: int, repeats: int) -> Iterator[Finding]:
    """Time both, with LoRA on all linear layers of all blocks and of the upper third, each in a process of its own."""
    for blocks in _BLOCKS:
        told = json.loads(apart(__file__, dtype, str(batch), str(repeats), blocks))
        for loss, times in told["times"].items():
            same = loss == "DPO"
            note = f"batch {batch}, {_NOTES[loss]}{told['check'] if same else ''}"
            name = f"{loss} against TRL's DPOTrainer, {blocks} blocks, {dtype}"
            yield timed(name, times, target=_TARGET if same else None, amount=batch * _STEPS, unit="pairs/s", note=note)


def _timed(dtype: Dtype, batch: int, repeats: int, layers: list[int] | None) -> dict[str, Any]:
    """Return the seconds of epochs of both by our loss, ours first; in float32 DPO's loss has to be the same."""
    from transformers import TrainerCallback
    from trl import DPOTrainer

    tokenizer = load_tokenizer(MODEL)
    texts = code_pairs(tokenizer, batch * _STEPS)
    preferred = Objective(DPO(scope="edited", beta=_BETA))
    ours = {
        "DPO": Ours(dtype, _completions(tokenizer, texts), batch, preferred, layers),
        "learn + unlearn + retain": Ours(dtype, encoded(tokenizer, texts), batch, three_terms(max_tokens=128), layers),
    }
    times: dict[str, list[tuple[float, float]]] = {loss: [] for loss in ours}

    class Between(TrainerCallback):
        """Lets ours train an epoch behind each of theirs, and times both."""

        started = 0.0

        def on_epoch_begin(self, *_: object, **__: object) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, *_: object, **__: object) -> None:
            theirs = time.perf_counter() - self.started
            for loss, side in ours.items():
                times[loss].append((seconds(side.epoch), theirs))

    with tempfile.TemporaryDirectory() as folder:
        # Given a model with an adapter, TRL takes both together for the reference; given a base, the base.
        base = load_causal_lm(MODEL, dtype)
        trainer = DPOTrainer(
            model=base,
            peft_config=ours["DPO"].adapter.config(base),
            args=_settings(folder, dtype, batch, 1 + repeats),
            train_dataset=_rows(texts),
            processing_class=tokenizer,
            callbacks=[Between()],
        )
        _copy_adapter(ours["DPO"].model, trainer.model)
        check = _check(ours["DPO"], trainer) if dtype == "float32" else ""
        trainer.train()
    return {"times": {loss: found[1:] for loss, found in times.items()}, "check": check}


def _completions(tokenizer: PreTrainedTokenizerBase, texts: Sequence[CodePair]) -> list[EncodedPair]:
    """Return pairs as TRL sees them: an end of the text behind both sides, all behind what they share scored."""
    encoder = PairEncoder(tokenizer, suffix_tokens=1)

    def scored(branch: Branch) -> Branch:
        return branch._replace(edited=[True] * len(branch.ids))

    pairs = [encoder(replace(text, suffix=cast("str", tokenizer.eos_token))) for text in texts]
    return [pair._replace(fixed=scored(pair.fixed), buggy=scored(pair.buggy)) for pair in pairs]


def _rows(texts: Sequence[CodePair]) -> Any:  # noqa: ANN401  datasets come with the extra `bench` only
    from datasets import Dataset

    return Dataset.from_list([{"prompt": t.prefix, "chosen": t.fixed, "rejected": t.buggy} for t in texts])


def _settings(folder: str, dtype: Dtype, batch: int, epochs: int) -> Any:  # noqa: ANN401  so does TRL
    from trl import DPOConfig

    return DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=batch,
        num_train_epochs=epochs,
        max_length=512,
        beta=_BETA,
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


def _copy_adapter(own: nn.Module, other: nn.Module) -> None:
    weights = {name: weight for name, weight in own.named_parameters() if weight.requires_grad}
    found = {name: weight for name, weight in other.named_parameters() if weight.requires_grad}
    if weights.keys() != found.keys():
        raise SystemExit(f"preference: TRL trains {len(found)} weights, ours {len(weights)}")
    with torch.no_grad():
        for name, weight in found.items():
            weight.copy_(weights[name])


def _check(ours: Ours, trainer: Any) -> str:  # noqa: ANN401
    """Both compute the same loss of the same pairs before the first step."""
    batch = next(ours.batches)
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in batch.places["pairs"]])
    with torch.no_grad():
        return agreed(ours.loss(batch), trainer.compute_loss(trainer.model, inputs), "TRL's")


def _main(dtype: Dtype, batch: str, repeats: str, blocks: str) -> None:
    sys.stdout.write(f"{json.dumps(_timed(dtype, int(batch), int(repeats), _BLOCKS[blocks]))}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])  # type: ignore[arg-type]
