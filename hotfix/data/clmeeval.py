"""CLMEEval, the published benchmark of model editing for code (Li et al. 2025, https://arxiv.org/abs/2411.06638).

Its files are CNLE (`EditConala`: intent -> snippet) and CSNE (`EditCodeSearchNet`: code -> description), one JSON list
each; `all.json`, and `train.json` and `test.json` where somebody has halved it. Each edit has one paraphrase and five
neighbours. The files also hold what three models answered at the neighbours; as no other model answers the same, these
are not read: the tasks ask the model that is edited.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hotfix.data.edit_files import EditFiles
from hotfix.data.edit_rows import EditRow, parse_published
from hotfix.data.edit_splits import Fold

__all__ = ["CLMEEval"]


class CLMEEval(EditFiles):
    """The published files, put before the model as published.

    A prompt is `Intent: {intent}` and `Code:` on a line of its own, or `Code: {code}` and `Description:`; one space
    stands between it and the target. For editors that are trained, name `all.json` under train and test (and
    validation), and set `fold`: the editor learns from one half and is measured on the other, and nothing of one half
    is nearly the same in the other. The two folds together measure every edit once.

    Args:
        train: file or files of edits to learn from, for editors that do; null for none.
        validation: file or files to calibrate with; null for none.
        test: file or files to measure with; null for none.
        count: at most this many edits of a split, evenly spaced; null for all.
        fold: deal a file that stands under train and test into two halves; 0 tests one of them and 1 the other.
        fractions: part of train, validation and test when a file is dealt otherwise.
        split_seed: another number deals anew.
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
            train=train,
            validation=validation,
            test=test,
            count=count,
            fold=fold,
            fractions=fractions,
            split_seed=split_seed,
            tokenizer_name=tokenizer_name,
            batch_size=batch_size,
            retain=retain,
            retain_count=retain_count,
            retain_length=retain_length,
            max_length=max_length,
            overlong=overlong,
            seed=seed,
        )

    def parse(self, row: Mapping[str, Any], path: Path, line: int) -> EditRow:
        """Make a published record an edit."""
        return parse_published(row, path, line)
