"""Does rounding the weights bring the bug back? The patch folded into the base, then quantised as for serving."""

from __future__ import annotations

from collections.abc import Sequence

from hotfix.data.datamodule import HotfixDataModule
from hotfix.metrics import Record
from hotfix.models.folded import folded_copy
from hotfix.models.quantised import Bits, check_library, reload_quantised
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.pair_slices import pair_slices
from hotfix.tasks.probabilities import probabilities
from hotfix.tasks.scoring import pair_log_probs
from hotfix.types import Split

__all__ = ["Rounding"]


class Rounding(Task):
    """Exact probabilities of unseen pairs on the model whose linear layers are held in 4 or 8 bits.

    A patch moves weights by less than 4-bit steps are wide, and quantising an unlearnt model has been seen to restore
    what was unlearnt (Zhang et al. 2024, https://arxiv.org/abs/2410.16454). Before: the base, quantised. After: the
    base with the patch folded in, quantised; an adapter that is kept beside a quantised base is not what this measures.

    Args:
        bits: 4 (NF4, doubly quantised) or 8.
        examples: at most this many unseen pairs, evenly spaced; null for all.
        batch_size: pairs computed together.

    Raises:
        ConfigError: bitsandbytes isn't installed.
    """

    def __init__(self, bits: Bits = 4, examples: int | None = None, batch_size: int = 32) -> None:
        check_library(bits)
        self.bits: Bits = bits
        self.examples = examples
        self._batch_size = batch_size

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """One: the unseen pairs."""
        return pair_slices(f"{self.bits}_bits", data, split, self.examples)

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Fold, quantise, and ask."""
        whole = folded_copy(subject.model, base=base is None)
        rounded = reload_quantised(whole, self.bits, whole.device)
        scores = pair_log_probs(rounded, [example.payload for _, example in items], self._batch_size)
        subject.progress(len(items))
        return [probabilities(score) for score in scores]
