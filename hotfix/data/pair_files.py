"""Code pairs from files: the packaged sets and the user's own; the base of the data sets that come in files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import Overlong
from hotfix.data.packing import Layout
from hotfix.data.prompts import PromptFormat
from hotfix.data.reading import read_pairs
from hotfix.data.schema import CodePair, parse_row
from hotfix.data.spilled import held
from hotfix.data.splits import Splitter
from hotfix.data.tables import Row, read_rows
from hotfix.errors import ConfigError, DataError
from hotfix.spacing import evenly
from hotfix.types import Split

__all__ = ["PairFiles", "last_lines", "rename"]

log = logging.getLogger(__name__)


def last_lines(text: str, count: int) -> str:
    r"""Return the last lines of a text; an unfinished one (an indentation, say) counts.

    >>> last_lines("a\nb\n    ", 2)
    'b\n    '
    """
    return "\n".join(text.split("\n")[-count:])


def rename(row: Mapping[str, Any], columns: Mapping[str, str], path: Path, line: int) -> dict[str, Any]:
    """Give columns the names of the schema.

    Args:
        row: column -> value.
        columns: name here -> name in the file.
        path: the file, for the message.
        line: its line, for the message.

    Raises:
        DataError: the row hasn't such a column.

    >>> rename({"before": "1", "n": 3}, {"buggy": "before"}, Path("p.csv"), 1)
    {'n': 3, 'buggy': '1'}
    """
    missing = [name for name in columns.values() if name not in row]
    if missing:
        have = ", ".join(map(repr, row)) or "none"
        hint = "correct data.init_args.columns"
        raise DataError(f"column {', '.join(map(repr, missing))} missing; this row has {have}", path, line, hint)
    taken = set(columns.values())
    return {k: v for k, v in row.items() if k not in taken} | {name: row[theirs] for name, theirs in columns.items()}


class PairFiles(HotfixDataModule):
    """Pairs from JSON Lines (any name), `.csv`, `.json` and `.parquet` files; all but the last may be gzipped (`.gz`).

    Columns: `prefix`, `buggy`, `fixed`, and where there is one `id`, `suffix`, `rule`, `split`; or
    `condition`/`bug`/`fix`/`post_conditional`, or `prompt`/`chosen`/`rejected`; or any, by `columns`. Where rows have a
    `split` column, each of the first three arguments takes its own rows, so one file can serve all three. A file
    without one that stands under `train` and another is dealt to them by `split_by`.

    Args:
        train: file or files to train on; `efficacy` is measured on them.
        validation: file or files to watch while training; null for none.
        test: file or files of unseen contexts; `generalisation` is measured on them; null for none.
        tokenizer_name: whose tokens; linked to the model's name.
        batch_size: pairs of one optimizer step, over all processes and accumulated micro-batches.
        retain: `stdlib` (functions of the running Python's standard library), JSON Lines files with a `text` column, or
            null for none.
        retain_batch_size: retain texts of one optimizer step.
        retain_count: retain texts to draw from.
        retain_length: longest retain text, in tokens.
        max_length: longest side of a pair, in tokens.
        suffix_tokens: tokens of the suffix kept behind each statement.
        overlong: refuse a pair that is longer (`error`), cut its prefix on the left (`left`), or do that and leave out
            the pairs whose statement alone is longer (`drop`).
        layout: `packed` (shared beginning once, both sides in one row) or `padded` (a row a side).
        seed: of the choice of retain texts and, added to the run's own, of the order of pairs.
        split_by: what is kept together when a file is dealt: `project`, `commit`, `task`, `document` (each under the
            names that data sets have for it), `row`, or any column; `auto` takes the first of these four that most
            rows have, and deals nothing where there is none.
        fractions: part of train, validation and test when a file is dealt; that of a split that is null isn't read.
        split_seed: another number deals anew; apart from `seed`, so that runs with several seeds share their splits.
        columns: name here -> name in the file, for files with other columns.
        prefix_lines: keep only the last lines of each prefix; null for the data set's own, 0 for all.
        min_prefix_lines: leave out pairs with a shorter prefix.
        rules: keep only pairs of these rules (bug types); null for the data set's own, an empty list for all.
        prompt: how a pair is put before the model: `Plain`, `FillInTheMiddle` or `Chat`; plain if not given.
        repeats: how often an epoch sees the pairs of some files of `train`, by the file's name without its ending.
        count: train on at most this many pairs, evenly spaced; null for all.
    """

    own_prefix_lines: ClassVar[int] = 0
    own_rules: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        train: str | list[str],
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        tokenizer_name: str = "smollm2-135m",
        batch_size: int = 16,
        retain: str | list[str] | None = "stdlib",
        retain_batch_size: int = 8,
        retain_count: int = 256,
        retain_length: int = 128,
        max_length: int = 1024,
        suffix_tokens: int = 2,
        overlong: Overlong = "error",
        layout: Layout = "packed",
        seed: int = 0,
        split_by: str = "auto",
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        split_seed: int = 0,
        columns: dict[str, str] | None = None,
        prefix_lines: int | None = None,
        min_prefix_lines: int = 0,
        rules: list[str] | None = None,
        prompt: PromptFormat | None = None,
        repeats: dict[str, int] | None = None,
        count: int | None = None,
    ) -> None:
        super().__init__(
            tokenizer_name=tokenizer_name,
            batch_size=batch_size,
            retain=retain,
            retain_batch_size=retain_batch_size,
            retain_count=retain_count,
            retain_length=retain_length,
            max_length=max_length,
            suffix_tokens=suffix_tokens,
            overlong=overlong,
            layout=layout,
            seed=seed,
            prompt=prompt,
        )
        named: dict[Split, str | list[str] | None] = {"train": train, "validation": validation, "test": test}
        self._files = {split: [files] if isinstance(files, str) else files or [] for split, files in named.items()}
        self.splitter = Splitter(split_by, fractions, split_seed)
        self.columns = columns or {}
        self.prefix_lines = self.own_prefix_lines if prefix_lines is None else prefix_lines
        self.min_prefix_lines = min_prefix_lines
        if self.prefix_lines < 0 or min_prefix_lines < 0:
            raise ConfigError("data.init_args.prefix_lines and min_prefix_lines count lines; they can't be below 0")
        self.rules = frozenset(self.own_rules if rules is None else rules)
        if count is not None and count < 1:
            raise ConfigError(f"data.init_args.count is {count}, expected at least 1, or null for all pairs")
        self.count = count
        self._repeats = repeats or {}
        low = [name for name, count in self._repeats.items() if count < 1]
        if low:
            raise ConfigError(f"data.init_args.repeats.{low[0]} is {self._repeats[low[0]]}, expected at least 1")
        self._parsed: dict[Path, Sequence[CodePair]] = {}

    def rows(self, path: Path) -> Iterable[Row]:
        """Yield the rows of a file."""
        return read_rows(path)

    def parse(self, row: Mapping[str, Any], path: Path, line: int) -> list[CodePair]:
        """Make a row the pairs it holds; none where there is nothing to learn from it."""
        return [parse_row(row, path, line)]

    def read(self, split: Split) -> Sequence[CodePair]:
        """Read the files of a split; each file is read once."""
        pairs = read_pairs(self._files[split], split, self._pairs_of) if self._files[split] else []
        return pairs if split != "train" or self.count is None else evenly(pairs, self.count)

    def repeats(self) -> list[int] | None:
        """Return how often an epoch sees each training pair."""
        if not self._repeats:
            return None
        files = {path.name.split(".")[0]: path for path in map(Path, self._files["train"])}
        for name in self._repeats.keys() - files.keys():
            # Not an error: other files may have been named on the command line than in the recipe.
            log.warning("data.init_args.repeats.%s: train has no such file, only %s", name, ", ".join(files))
        found = {name: count for name, count in self._repeats.items() if name in files}
        times = {pair.id: count for name, count in found.items() for pair in self._pairs_of(files[name])}
        return [times.get(pair.id, 1) for pair in self.pairs("train")]

    def _pairs_of(self, path: Path) -> Sequence[CodePair]:
        if path not in self._parsed:
            wanted = self._wanted(path)
            under = [split for split, files in self._files.items() if path in map(Path, files)]
            self._parsed[path] = self._dealt(wanted, path, under) if len(under) > 1 and "train" in under else wanted
        return self._parsed[path]

    def _wanted(self, path: Path) -> Sequence[CodePair]:
        left_out, kinds = 0, set()

        def wanted() -> Iterator[CodePair]:
            nonlocal left_out
            for line, row in self.rows(path):
                for pair in self._parse(row, path, line):
                    if self._is_wanted(pair):
                        yield pair
                    else:
                        left_out += 1
                        kinds.add(pair.rule)

        found = held(wanted())
        if left_out and not found:
            hint = f"they are of {', '.join(sorted(kinds)):.200}"
            raise DataError("every pair is left out by data.init_args.rules or min_prefix_lines", path, hint=hint)
        if left_out:
            total = left_out + len(found)
            log.info("%s: %d of %d pairs left out by rules or min_prefix_lines", path, left_out, total)
        return found

    def _dealt(self, pairs: Sequence[CodePair], path: Path, under: list[Split]) -> Sequence[CodePair]:
        dealt = self.splitter(pairs, str(path))
        there = {pair.split for pair in dealt}
        empty = [split for split in under if there and not there & {None, split}]
        if empty and not any(pair.split for pair in pairs):
            hint = "set another data.init_args.split_seed, other fractions, or split_by: row"
            raise DataError(f"no group of pairs fell to {' or '.join(empty)}; there are few", path, hint=hint)
        return dealt

    def _parse(self, row: Mapping[str, Any], path: Path, line: int) -> list[CodePair]:
        pairs = self.parse(rename(row, self.columns, path, line) if self.columns else row, path, line)
        if not self.prefix_lines:
            return pairs
        return [replace(pair, prefix=last_lines(pair.prefix, self.prefix_lines)) for pair in pairs]

    def _is_wanted(self, pair: CodePair) -> bool:
        return (not self.rules or pair.rule in self.rules) and pair.prefix.count("\n") >= self.min_prefix_lines
