"""What can go wrong because of an input, as one small tree.

Every message says what was found, what was expected and how to mend it, in the user's spelling (file and line, YAML
key, option). The command line prints these without a traceback; anything else is a defect of hotfix and keeps its own.

    HotfixError
    +-- ConfigError     a YAML key, a class path or a command-line option
    +-- DataError       a file, a line or a column of the user's data
    +-- ModelError      a model that can't be loaded, or doesn't have what was asked of it
    +-- PatchError      a saved patch or checkpoint that doesn't fit
    +-- SandboxError    untrusted code can't be run safely here
    +-- StorageError    results can't be written
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["ConfigError", "DataError", "HotfixError", "ModelError", "PatchError", "SandboxError", "StorageError"]


class HotfixError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(HotfixError):
    """A setting that can't work; names the key."""


class DataError(HotfixError):
    """A row that can't be used.

    Args:
        problem: what was found and what was expected.
        path: the file.
        line: 1-based line in the file, where known.
        hint: how to mend it.

    >>> str(DataError("column 'fixed' is missing", path=Path("pairs.jsonl"), line=3, hint="add it"))
    "pairs.jsonl:3: column 'fixed' is missing; add it"
    """

    def __init__(self, problem: str, path: Path | str | None = None, line: int | None = None, hint: str = "") -> None:
        place = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{place}{problem}" + (f"; {hint}" if hint else ""))
        self.path, self.line = path, line


class ModelError(HotfixError):
    """A model, a tokenizer or a module of it that can't be had."""


class PatchError(HotfixError):
    """A patch or a checkpoint that is damaged or belongs to another base model."""


class SandboxError(HotfixError):
    """The isolation that was asked for is not available."""


class StorageError(HotfixError):
    """A result that could not be saved; what was there before is untouched."""
