"""Edits from files: the packaged ones, the user's own, and sets that are built from what a file of answers has."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from hotfix.data.edit_building import choose, with_neighbours, with_paraphrases
from hotfix.data.edit_data import EditData
from hotfix.data.edit_parts import parted
from hotfix.data.edit_rows import EditRow, Frame, parse_edit
from hotfix.data.edit_splits import Fold, by_fold, by_fractions
from hotfix.data.edits import EditRequest
from hotfix.data.pair_files import rename
from hotfix.data.splits import Splitter
from hotfix.data.tables import read_rows
from hotfix.errors import ConfigError, DataError
from hotfix.spacing import evenly
from hotfix.types import Split

__all__ = ["EditFiles"]

log = logging.getLogger(__name__)
_VALIDATED = 0.1


class EditFiles(EditData):
    """Edits from JSON Lines (any name), `.csv`, `.json` and `.parquet` files; all but the last may be gzipped (`.gz`).

    Columns: `prompt` and `target`, and where there is one `id`, `paraphrases`, `neighbours` (lists of prompts),
    `group` and `split`; or any, by `columns`. Where rows have a `split` column, each of the first three arguments takes
    its own rows. A file without one that stands under several is dealt to them, so that nothing that is linked (by its
    group, its target, or a prompt or target that is nearly the same) is in two.

    Rows without paraphrases or neighbours get some where `paraphrases` and `neighbours` say so. Then at most half of a
    split is edited; neighbours are the nearest among the rest. Paraphrases are other prompts with the same target
    (`meta["paraphrase"]` is `same target`), or else made by rule (`rule`).

    Args:
        train: file or files of edits to learn from, for editors that do; null for none.
        validation: file or files to calibrate with; null for none.
        test: file or files to measure with; null for none.
        columns: name here -> name in the file, for files with other columns.
        template: what the model is given; the prompt takes the place of `{}`.
        joint: what stands between the prompt and the target.
        paraphrases: how many to give a row that has none.
        neighbours: how many to give a row that has none.
        target_tokens: part each target into pieces of so many tokens, each an edit of its own behind all that comes
            before it; with 1, each is a token, as repair methods count failures. Null leaves targets whole.
        count: at most this many edits of a split, evenly spaced; null for all that there are.
        fold: deal a file that stands under train and test into two halves; 0 tests one of them and 1 the other. A tenth
            of the training half goes to validation if the file stands there, too.
        fractions: part of train, validation and test when a file is dealt otherwise.
        split_seed: another number deals, and chooses what is edited, anew.
        tokenizer_name: whose tokens; linked to the model's name.
        batch_size: rows that `hotfix predict` writes behind at once.
        retain: unrelated text, for editors that need some: `stdlib`, JSON Lines files with a `text` column, or null.
        retain_count: retain texts to draw from.
        retain_length: longest retain text, in tokens.
        max_length: longest prompt and target together, in tokens.
        overlong: refuse an edit that is longer (`error`), or leave it out (`drop`).
        seed: of the choice of retain texts.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        columns: dict[str, str] | None = None,
        template: str = "{}",
        joint: str = "",
        paraphrases: int = 0,
        neighbours: int = 0,
        target_tokens: int | None = None,
        count: int | None = None,
        fold: Fold | None = None,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        split_seed: int = 0,
        tokenizer_name: str = "smollm2-135m",
        batch_size: int = 16,
        retain: str | list[str] | None = "stdlib",
        retain_count: int = 256,
        retain_length: int = 128,
        max_length: int = 1024,
        overlong: Literal["error", "drop"] = "error",
        seed: int = 0,
    ) -> None:
        super().__init__(
            tokenizer_name=tokenizer_name,
            batch_size=batch_size,
            retain=retain,
            retain_count=retain_count,
            retain_length=retain_length,
            max_length=max_length,
            overlong=overlong,
            seed=seed,
        )
        named: dict[Split, str | list[str] | None] = {"train": train, "validation": validation, "test": test}
        self._files: dict[Split, list[Path]] = {
            split: [Path(file) for file in ([files] if isinstance(files, str) else files or [])]
            for split, files in named.items()
        }
        self.columns = columns or {}
        self.frame = Frame(template, joint)
        self.paraphrases = paraphrases
        self.neighbours = neighbours
        self.target_tokens = target_tokens
        self.count = count
        self.fold = fold
        self.splitter = Splitter("row", fractions, split_seed)
        self._check()
        self._parsed: dict[Path, list[EditRow]] = {}

    def parse(self, row: Mapping[str, Any], path: Path, line: int) -> EditRow:
        """Make a row of a file an edit."""
        return parse_edit(row, path, line, self.frame)

    def read_requests(self, split: Split) -> list[EditRequest]:
        """Read the files of a split; each file is read and dealt once."""
        rows = [row for path in self._files[split] for row in self._rows(path) if row.split in (None, split)]
        if self._files[split] and not rows:
            names = ", ".join(map(str, self._files[split]))
            hint = f"point data.init_args.{split} to a file with rows for it"
            raise DataError(f"nothing to read for {split}: no rows, or all name another split", names, hint=hint)
        _check_ids(rows)
        requests = [row.request() for row in self._built(rows, split)]
        return parted(requests, self.tokenizer, self.target_tokens) if self.target_tokens else requests

    def _check(self) -> None:
        if not any(self._files.values()):
            raise ConfigError("data.init_args: no file of edits; name one under train, validation or test")
        if self.frame.template.count("{}") != 1:
            raise ConfigError(f"data.init_args.template is {self.frame.template!r}, expected {{}} in it, once")
        for name, least in (("paraphrases", 0), ("neighbours", 0), ("target_tokens", 1), ("count", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"data.init_args.{name} is {value}, expected at least {least}")
        if self.fold is not None and not set(self._files["train"]) & set(self._files["test"]):
            raise ConfigError("data.init_args.fold halves a file; name the same one under train and test, or leave it")

    def _rows(self, path: Path) -> list[EditRow]:
        """The rows of a file, dealt to the splits that it stands under."""
        if path not in self._parsed:
            rows = [
                self.parse(rename(row, self.columns, path, line) if self.columns else row, path, line)
                for line, row in read_rows(path)
            ]
            under = [split for split, files in self._files.items() if path in files]
            deals = len(under) > 1 and not any(row.split for row in rows)
            self._parsed[path] = self._dealt(rows, path, under) if deals else rows
        return self._parsed[path]

    def _dealt(self, rows: list[EditRow], path: Path, under: Sequence[Split]) -> list[EditRow]:
        if self.fold is None:
            # Nothing falls to a split that isn't read.
            parts = tuple(
                p if split in under else 0.0 for split, p in zip(self._files, self.splitter.fractions, strict=True)
            )
            total = sum(parts) or 1.0
            splits = by_fractions(rows, (parts[0] / total, parts[1] / total, parts[2] / total), self.splitter.seed)
        else:
            held = _VALIDATED if "validation" in under else 0.0
            splits = by_fold(rows, self.fold, self.splitter.seed, held)
        sizes = Counter(splits)
        log.info("%s: %s", path, ", ".join(f"{split} {sizes[split]} rows" for split in under))
        return [replace(row, split=split) for row, split in zip(rows, splits, strict=True)]

    def _built(self, rows: list[EditRow], split: Split) -> list[EditRow]:
        """Give the rows what they lack."""
        pool: list[EditRow] = []
        edits = rows
        if self.neighbours and not all(row.neighbours for row in rows):
            edits, pool = choose(rows, self.count, self.splitter.seed)
            log.info("%s: %d edits, and %d rows to choose their neighbours from", split, len(edits), len(pool))
        edits = evenly(edits, self.count)
        if self.paraphrases:
            edits = with_paraphrases(edits, rows, self.paraphrases)
        return with_neighbours(edits, [row.prompt for row in pool], self.neighbours) if pool else edits


def _check_ids(rows: Sequence[EditRow]) -> None:
    first: dict[str, EditRow] = {}
    for row in rows:
        other = first.setdefault(row.id, row)
        if other is not row:
            hint = "give each row its own id"
            raise DataError(f"id {row.id!r} was used before, at {other.source}", row.source, hint=hint)
