"""Write a file or a folder whole or not at all, also when the disk fills up or the process is killed.

The content is written in a hidden staging folder beside the target, flushed to the disk, and renamed into place:

    results.json                               the old content, untouched until the rename
    .results.json.k3j9x2.partial/results.json  what the caller writes; the staging folder stays locked meanwhile

A file is replaced by one atomic rename. For a folder there is an instant between setting the old one aside and moving
the new one in when the target is absent but both lie whole in staging; ``recover`` finishes the move after a kill.
The lock tells the staging of a live writer from the leftovers of a dead one, which the next writer removes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from hotfix.errors import StorageError

__all__ = ["atomic_file", "atomic_folder", "atomic_write", "recover"]

_TROUBLE: Final[Mapping[int, str]] = MappingProxyType(
    {
        errno.ENOSPC: "no space left; free some space or choose a folder on another disk",
        errno.EDQUOT: "the disk quota is used up, so there is no space left; delete files or choose another disk",
        errno.EFBIG: "the file is larger than allowed here; raise the limit (ulimit -f) or choose another disk",
        errno.EACCES: "permission denied; make the folder writable or choose another one",
        errno.EPERM: "permission denied; make the folder writable or choose another one",
        errno.EROFS: "the file system is read-only; choose a folder that can be written",
        errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
        errno.EISDIR: "it is a folder, but a file has to be written; choose another path",
        errno.EEXIST: "a part of this path is a file, not a folder; choose another path",
        errno.EBUSY: "it is in use as a mount point; choose a path inside it",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
        errno.EIO: "the disk reported an input/output error; check it or choose another one",
    }
)


def atomic_write(path: Path | str, content: str | bytes) -> None:
    """Replace the file ``path`` by ``content`` (text as UTF-8); parents are created.

    Raises:
        StorageError: it can't be written; the old file is untouched.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(Path(folder, "new", "note.txt"), "whole")
    ...     Path(folder, "new", "note.txt").read_text()
    'whole'
    """
    with atomic_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a path of the same file name to write to; it becomes ``path`` when the block ends without an exception.

    Raises:
        StorageError: the disk refused, in the block or while publishing; the old file is untouched.
    """
    with _staged(path) as (target, partial):
        yield partial
        _flush(partial)
        os.replace(partial, target)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces the folder ``path`` when the block ends without an exception.

    Raises:
        StorageError: the disk refused, in the block or while publishing; the old folder is untouched.
    """
    with _staged(path) as (target, partial):
        if target.is_file():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))
        partial.mkdir()
        yield partial
        _flush(partial)
        with _locked(target.parent):
            _swap(partial, target)


def recover(path: Path | str) -> bool:
    """Finish what a killed writer of the folder ``path`` left behind; true when ``path`` had to be put in place.

    Loaders of folders call it first; it costs one look when the folder is there.
    """
    target = Path(os.path.realpath(path))
    if target.exists() or not target.parent.is_dir():
        return False
    with _translated(path, target), _locked(target.parent):
        return _sweep(target)


@contextmanager
def _staged(path: Path | str) -> Iterator[tuple[Path, Path]]:
    """Yield the real target and a path of its name in a locked staging folder beside it."""
    # A link is followed, so that `latest -> run-3` stays a link.
    target = Path(os.path.realpath(path))
    with _translated(path, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            _sweep(target)
            staging = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=".partial", dir=target.parent))
            descriptor = os.open(staging, os.O_RDONLY)
            _lock(descriptor)
        try:
            yield target, staging / target.name
            _flush_one(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            _unlock(descriptor)


def _prefix(target: Path) -> str:
    # 200 bytes leave room for the random part: file names end at 255 bytes on common file systems.
    return "." + target.name.encode()[:200].decode(errors="ignore") + "."


def _aside(staging: Path, target: Path) -> Path:
    return staging / f"{_prefix(target)}old"


def _swap(partial: Path, target: Path) -> None:
    """Move the folder ``partial`` to ``target``; what was there goes to staging, and comes back if the move fails."""
    old = _aside(partial.parent, target)
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(partial, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise


def _sweep(target: Path) -> bool:
    """Remove stagings of ``target`` whose writer is dead; true when one of them held the only whole folder."""
    recovered = False
    pattern = re.compile(re.escape(_prefix(target)) + r"[a-z0-9_]{8}\.partial")
    for staging in [entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)]:
        try:
            descriptor = os.open(staging, os.O_RDONLY)
        except OSError:  # its writer has just finished, or it is another user's
            continue
        try:
            if _lock(descriptor):
                recovered |= _finish(staging, target)
                shutil.rmtree(staging, ignore_errors=True)
        finally:
            _unlock(descriptor)
    return recovered


def _finish(staging: Path, target: Path) -> bool:
    old = _aside(staging, target)
    if target.exists() or not old.exists():
        return False
    # The old folder is set aside only after the new one is whole on the disk, so the new one is preferred.
    partial = staging / target.name
    os.rename(partial if partial.exists() else old, target)
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, so that writers create, sweep and swap one after another."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _unlock(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the lock could be had; false also where the file system has no locks, so nothing is swept there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlock(descriptor: int) -> None:
    # Closing alone would leave the lock with a forked worker that inherited the descriptor.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _flush(path: Path) -> None:
    """Force a file, or a folder with all in it, to the disk."""
    if path.is_dir():
        for entry in path.iterdir():
            if not entry.is_symlink():
                _flush(entry)
    _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that can't flush a folder say so this way
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _translated(path: Path | str, target: Path) -> Iterator[None]:
    """Turn the disk's refusals about ``path`` into StorageError; errors about other files pass unchanged."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number not in _TROUBLE or not _concerns(error, target):
            raise
        raise StorageError(f"{path}: can't be written: {_TROUBLE[number]} (what was there is untouched)") from error


def _error_number(error: Exception) -> int:
    """The errno of ``error``; libraries written in Rust, such as safetensors, only say it in their message."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found.group(1)) if found else 0


def _concerns(error: Exception, target: Path) -> bool:
    named = getattr(error, "filename", None)
    if not isinstance(named, str | bytes | os.PathLike):
        return True
    place = Path(os.path.realpath(os.fsdecode(named)))
    staged = any(part.startswith(_prefix(target)) for part in place.parts)
    return staged or place == target or place in target.parents
