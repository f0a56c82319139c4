"""The task seam: a benchmark has slices of examples, and writes one record an example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, NamedTuple, cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from hotfix.data.datamodule import HotfixDataModule
from hotfix.metrics.base import ExampleMetric, Record
from hotfix.types import Split

__all__ = ["Example", "Slice", "Subject", "Task"]


class Example(NamedTuple):
    """One item of a benchmark.

    Attributes:
        id: unique in its slice.
        group: examples of one group are not independent; intervals and tests treat it as one.
        payload: whatever the task needs of it.
        content: everything that its measurement depends on, as plain JSON values; the cache's key.
    """

    id: str
    group: str
    payload: Any
    content: Any


class Slice(NamedTuple):
    """A named part of a benchmark.

    Attributes:
        name: key in results.json.
        examples: in a fixed order.
        metrics: by name, each bound to the number of examples.
        group_name: what a group is, for the name of the test.
        precise: measured in float32 even where the base is bfloat16: greedy decoding is, because in bfloat16 two tokens
            often have the same logit and a patch that changes nothing flips between them.
        least_group: groups of at least this many examples are reported by themselves, too; None for none.
    """

    name: str
    examples: Sequence[Example]
    metrics: Mapping[str, ExampleMetric]
    group_name: str = "group"
    precise: bool = False
    least_group: int | None = None


@dataclass(frozen=True)
class Subject:
    """The model that is measured.

    Attributes:
        model: with its adapter on, in evaluation mode.
        tokenizer: its tokenizer.
        reference: context in which it is the frozen base.
        seed: of everything sampled.
        progress: is told how many examples are done.
        alone: context in which the model has the hotfix of one request on, by its id, and no other; None where all
            requests share one hotfix.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    reference: Callable[[], AbstractContextManager[None]]
    seed: int
    progress: Callable[[int], None]
    alone: Callable[[str], AbstractContextManager[None]] | None = None

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode; code keeps its spaces before punctuation."""
        return cast("str", self.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))


class Task(ABC):
    """A benchmark. Its constructor's arguments are its settings; they are part of the cache's key."""

    @abstractmethod
    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """Return what is measured, given the run's data and the split that counts as unseen; no model is needed."""

    @abstractmethod
    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Measure some examples of a slice; return a record each, plain JSON values.

        Args:
            subject: the model.
            name: of the slice.
            items: (place in the slice, example); random streams depend on the place, so sharing changes nothing.
            base: what the frozen base did on the same examples; None when it is the base that is measured.
        """

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {key: _plain(value) for key, value in sorted(vars(self).items()) if not key.startswith("_")}

    def close(self) -> None:  # noqa: B027  most tasks hold nothing
        """Let go of processes and files."""


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value if isinstance(value, str | int | float | bool | list | dict | tuple | type(None)) else repr(value)
