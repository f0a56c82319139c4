"""What of the machine's files an isolated server can see: an interpreter, its standard library, nothing else."""

from __future__ import annotations

import glob
import os
import sys
from typing import NamedTuple

__all__ = ["APP", "FLAGS", "SCRATCH", "Bind", "Tree", "boot", "environment", "visible_tree"]

APP = "/app"
SCRATCH = "/scratch"
# Isolated and without site-packages like -I -S, but reading the hash seed, so that set order is the same every time.
FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
_MODULES = ("limits", "program", "server", "verdict", "wire")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store")
_FILES = ("/dev/null", "/dev/random", "/dev/urandom", "/dev/zero", "/etc/ld.so.cache")
# Native code gets around every barrier inside the interpreter; these let pure Python run or peek at it.
_NATIVE = ("_ctypes*", "_test*", "_xxsub*", "_xxinter*", "_interp*")


class Bind(NamedTuple):
    """A file or folder of the machine and where it appears."""

    source: str
    target: str


class Tree(NamedTuple):
    """Contents of the new root; all of it read-only.

    Attributes:
        python: the interpreter, at the same path inside and outside.
        binds: files and folders that are shown.
        links: symbolic links, as (target, path).
        hidden_folders: folders inside the binds that appear empty.
        hidden_files: files inside the binds that appear as ``/dev/null``.
    """

    python: str
    binds: tuple[Bind, ...]
    links: tuple[Bind, ...]
    hidden_folders: tuple[str, ...]
    hidden_files: tuple[str, ...]


def visible_tree() -> Tree:
    """Returns the tree for the running interpreter.

    >>> tree = visible_tree()
    >>> Bind(tree.python, tree.python) in tree.binds, os.path.expanduser("~") in [bind.target for bind in tree.binds]
    (True, False)
    """
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    prefix, stdlib = os.path.realpath(sys.base_prefix), os.path.dirname(os.path.realpath(os.__file__))
    wanted = dict.fromkeys((os.path.join(prefix, "lib"), os.path.join(prefix, sys.platlibdir), stdlib, *_LIBRARIES))
    links = tuple(Bind(os.readlink(path), path) for path in wanted if os.path.islink(path))
    links += () if prefix.startswith("/tmp/") else (Bind(SCRATCH, "/tmp"),)
    folders = [path for path in wanted if os.path.isdir(path) and not os.path.islink(path)]
    folders = [path for path in folders if not any(path.startswith(f"{other}/") for other in folders)]
    here = os.path.dirname(os.path.realpath(__file__))
    modules = [Bind(f"{here}/{name}.py", f"{APP}/hotfix/sandbox/{name}.py") for name in _MODULES]
    same = [Bind(path, path) for path in (*folders, python, *filter(os.path.exists, _FILES))]
    packages = (f"{stdlib}/site-packages", f"{stdlib}/dist-packages", "/usr/lib/python3")
    return Tree(
        python=python,
        binds=(*same, *modules),
        links=links,
        hidden_folders=tuple(path for path in packages if os.path.isdir(path) and _inside(path, folders)),
        hidden_files=tuple(path for name in _NATIVE for path in glob.glob(f"{stdlib}/lib-dynload/{name}.so")),
    )


def boot(root: str, module: str) -> str:
    """Returns Python code that runs ``main`` of a module found under ``root``, then forgets ``root``.

    >>> boot("/app", "hotfix.sandbox.server").count("/app")
    1
    """
    return f"import sys; sys.path.insert(0, {root!r}); import {module} as m; del sys.path[0]; m.main(sys.argv[1:])"


def environment(scratch: str) -> dict[str, str]:
    """Returns all of a server's environment: nothing is inherited.

    >>> environment("/tmp")["HOME"]
    '/tmp'
    """
    return {"HOME": scratch, "LANG": "C.UTF-8", "PATH": "", "PYTHONHASHSEED": "0", "TMPDIR": scratch}


def _inside(path: str, folders: list[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)
