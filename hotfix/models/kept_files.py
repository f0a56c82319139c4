"""Files that can be made again and are kept for the next run, as long as there is room."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from hotfix.atomic import atomic_file

__all__ = ["keep", "make_room", "used"]


def used(path: Path) -> None:
    """Mark a file as used now; it is deleted after those that were used earlier."""
    with suppress(OSError):
        os.utime(path)


def keep(path: Path, tensors: Mapping[str, Tensor], room: int, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file, and delete the longest unused files of its folder where there is no room for it.

    Args:
        path: a `.safetensors` file.
        tensors: by name.
        room: bytes that all files of the folder may take together.
        metadata: of the file.

    Raises:
        StorageError: the disk refused; the old file is untouched.
    """
    make_room(path.parent, sum(tensor.nbytes for tensor in tensors.values()), room)
    with atomic_file(path) as partial:
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(own, partial, metadata=dict(metadata) if metadata else None)


def make_room(folder: Path, coming: int, room: int, kind: str = "*.safetensors") -> None:
    """Delete the longest unused files of a folder until some more fit.

    Args:
        folder: it need not exist.
        coming: bytes of what is about to be written.
        room: bytes that all may take together.
        kind: pattern of their names.
    """
    files = [(path.stat(), path) for path in folder.glob(kind)]
    for path in _too_much(((stat.st_mtime, stat.st_size, path) for stat, path in files), room - coming):
        path.unlink(missing_ok=True)


def _too_much(files: Iterable[tuple[float, int, Path]], left: int) -> list[Path]:
    """Return the longest unused files, from the first that no longer fits in what is left."""
    ordered = sorted(files, reverse=True)
    kept = 0
    fits = [(kept := kept + size) <= left for _, size, _ in ordered]
    return [path for (_, _, path), fit in zip(ordered, fits, strict=True) if not fit]
