r"""Code and what it does: functions of the running Python's standard library, their docstrings taken out.

A set of CSNE's kind that every machine has. An edit's prompt is a function without its docstring, its target the first
paragraph of the docstring; the paraphrase is the same function under other names (`renaming.py`), and the neighbours
are functions of the same split that aren't edited, mostly such as have no docstring.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from hotfix.data.edit_building import choose, unambiguous, with_neighbours
from hotfix.data.edit_data import EditData
from hotfix.data.edit_rows import CODE_TO_NL, EditRow
from hotfix.data.edits import EditRequest
from hotfix.data.grams import near_duplicates
from hotfix.data.renaming import rename_locals
from hotfix.data.stdlib import StdlibFunction, library_functions
from hotfix.errors import ConfigError, DataError
from hotfix.types import Split

__all__ = ["Docstrings", "Documented", "part_docstring"]

_SENTENCE = re.compile(r"[A-Z][^\n]*[a-z]{2}")
_WORDS = range(4, 31)
# A description that lists arguments, shows a session or refers to another function says little of the code.
_NO_DESCRIPTION = re.compile(r">>>|:param|^See |^Same as |^Deprecated|\bTODO\b|^Like ")


class Documented(NamedTuple):
    """A function without its docstring, and the first paragraph of that, on one line; empty where there is none."""

    code: str
    description: str


def part_docstring(source: str) -> Documented:
    r"""Take the docstring out of a function.

    Args:
        source: one function, not indented.

    >>> part_docstring('def f(a):\n    "Return the\n    next."\n    return a + 1\n'.replace('"', '"' * 3))
    Documented(code='def f(a):\n    return a + 1\n', description='Return the next.')
    """
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    text = ast.get_docstring(function) or ""
    first = function.body[0]
    if not text or len(function.body) < 2 or first.end_lineno is None:
        return Documented(source, "")
    following = function.body[1]
    lines = source.split("\n")
    # Comments between the docstring and the first statement stay; so does what shares a line with it.
    kept = lines[first.end_lineno :] if following.lineno > first.end_lineno else None
    before = lines[: first.lineno - 1]
    if kept is None or lines[first.lineno - 1][: first.col_offset].strip():
        return Documented(source, "")
    while kept and not kept[0].strip():
        del kept[0]
    return Documented("\n".join([*before, *kept]), " ".join(text.split("\n\n")[0].split()))


class Docstrings(EditData):
    """Functions of the running Python's standard library and their docstrings; modules are dealt to the splits.

    Another version of Python has other functions. Overlong ones are left out.

    Args:
        count: edits of each split; the library serves about 350 in test, 250 in validation and 670 in train.
        paraphrases: variants of each function under other names.
        neighbours: functions nearby whose descriptions have to stay, of each edit.
        max_lines: longest function, in lines of source.
        split_seed: another number chooses other functions.
        tokenizer_name: whose tokens; linked to the model's name.
        batch_size: rows that `hotfix predict` writes behind at once.
        retain: unrelated text, for editors that need some: `stdlib`, JSON Lines files with a `text` column, or null.
        retain_count: retain texts to draw from.
        retain_length: longest retain text, in tokens.
        max_length: longest prompt and target together, in tokens.
        seed: of the choice of retain texts.
    """

    def __init__(
        self,
        count: int = 200,
        paraphrases: int = 1,
        neighbours: int = 5,
        max_lines: int = 30,
        split_seed: int = 0,
        tokenizer_name: str = "smollm2-135m",
        batch_size: int = 16,
        retain: str | list[str] | None = "stdlib",
        retain_count: int = 256,
        retain_length: int = 128,
        max_length: int = 1024,
        overlong: Literal["error", "drop"] = "drop",
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
        for name, value, least in (
            ("count", count, 1),
            ("paraphrases", paraphrases, 0),
            ("neighbours", neighbours, 0),
            ("max_lines", max_lines, 3),
        ):
            if value < least:
                raise ConfigError(f"data.init_args.{name} is {value}, expected at least {least}")
        self.count = count
        self.paraphrases = paraphrases
        self.neighbours = neighbours
        self.max_lines = max_lines
        self.split_seed = split_seed
        self.root: Path | None = None

    def read_requests(self, split: Split) -> list[EditRequest]:
        """Choose the functions of a split."""
        documented, others = self._rows(library_functions(split, self.root))
        candidates, pool = choose(documented, seed=self.split_seed)
        random.Random(self.split_seed).shuffle(candidates)
        renamed = (row for row in map(self._with_variants, candidates) if row is not None)
        edits = sorted(islice(renamed, self.count), key=lambda row: row.id)
        if len(edits) < self.count:
            raise DataError(
                f"{self.count} functions asked for in data.init_args.count, the {split} split of the standard library "
                f"serves {len(edits)}",
                hint="ask for fewer, or widen max_lines",
            )
        edited = {row.id for row in edits}
        code = [row.prompt for row in (*pool, *candidates) if row.id not in edited] + others
        alike = {match.text for match in near_duplicates(code, [row.prompt for row in edits], 0.7)}
        free = [text for number, text in enumerate(code) if number not in alike]
        return [row.request() for row in with_neighbours(edits, free, self.neighbours)]

    def _rows(self, functions: Iterable[StdlibFunction]) -> tuple[list[EditRow], list[str]]:
        """Functions with a description, and the code of those that have no docstring."""
        rows: list[EditRow] = []
        others: list[str] = []
        for function in functions:
            if not 3 <= function.text.count("\n") <= self.max_lines:
                continue
            code, description = part_docstring(function.text)
            if _describes(description):
                row = EditRow(function.id, code.rstrip("\n"), description, source=function.id, frame=CODE_TO_NL)
                rows.append(row)
            elif not description:
                others.append(code.rstrip("\n"))
        return unambiguous(rows), others

    def _with_variants(self, row: EditRow) -> EditRow | None:
        """The row with as many paraphrases as asked for; None where so many can't be had."""
        made = (rename_locals(row.prompt, seed) for seed in range(self.paraphrases))
        variants = tuple(dict.fromkeys(text for text in made if text is not None))
        if len(variants) < self.paraphrases:
            return None
        # Grouped only now: a module is one split's, and many of its functions may be edited.
        group = row.id.partition(":")[0]
        return replace(row, paraphrases=variants, group=group, meta={"paraphrase": "renaming"})


def _describes(description: str) -> bool:
    """Whether a paragraph is a sentence of a usual length about the code.

    >>> _describes("Return the sum of all values."), _describes("See above."), _describes("x -> y")
    (True, False, False)
    """
    usual = len(description.split()) in _WORDS and _SENTENCE.match(description) is not None
    return usual and _NO_DESCRIPTION.search(description) is None
