"""Hugging Face data sets, by id or by folder, through the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hotfix.data.pair_files import PairFiles
from hotfix.data.tables import Row
from hotfix.errors import DataError
from hotfix.types import Split

__all__ = ["HubDataset", "Source", "parse_source"]

_SPLITS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


class Source(NamedTuple):
    """What to load.

    Attributes:
        name: id or folder.
        config: the data set's configuration; None for its default.
        split: one of its splits, or a slice of one (`train[:10%]`); None for all that hotfix knows by name.
    """

    name: str
    config: str | None
    split: str | None


def parse_source(text: str) -> Source:
    """Read `NAME[:CONFIG][@SPLIT]`.

    >>> parse_source("owner/name:java@train[:10%]")
    Source(name='owner/name', config='java', split='train[:10%]')
    >>> parse_source("owner/name")
    Source(name='owner/name', config=None, split=None)
    """
    whole, _, split = text.partition("@")
    name, _, config = whole.partition(":")
    return Source(name, config or None, split or None)


class HubDataset(PairFiles):
    """Pairs from a Hugging Face data set.

    Where `PairFiles` names files, this names data sets: `owner/name`, `owner/name:configuration`, or a folder of
    Parquet, JSON or CSV files, each with `@split` behind to take one split of it, or a slice of one, whatever it is
    called. Without it, the data set's own splits are kept where it has several, so one name serves all three arguments;
    a data set with a single split is dealt by `split_by`. Needs `pip install hotfix[data]`, and a network the first
    time.

    The other arguments are those of `PairFiles`.
    """

    def rows(self, path: Path) -> Iterator[Row]:
        """Yield the rows of a data set; `path` is its name."""
        source = parse_source(path.as_posix())
        parts = _load(source)
        number = 0
        for name, part in parts.items():
            split = _SPLITS.get(name) if len(parts) > 1 else None
            for row in part:
                number += 1
                yield number, {**row, "split": split} if split else dict(row)


def _load(source: Source) -> dict[str, Any]:
    """Split -> rows, of the splits that have a name here, or of the only one."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            "Hugging Face data sets need the datasets library", source.name, hint="pip install hotfix[data]"
        ) from None
    try:
        loaded = datasets.load_dataset(source.name, source.config, split=source.split)
    # The library raises many kinds for a name, a configuration, a file or a connection that isn't there.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        hint = "expected owner/name, owner/name:configuration or a folder, with @split behind or not"
        raise DataError(f"can't be loaded: {reason}", source.name, hint=hint) from error
    if source.split:
        return {source.split: loaded}
    known = {name: part for name, part in loaded.items() if name in _SPLITS}
    return known if len(loaded) > 1 else dict(loaded)
