"""Memory that stays with the process: page faults cost a CPU run more than some of its arithmetic.

glibc gives large blocks back to the system as soon as they are freed, so each tensor of a step is new memory, faulted
in page by page. Kept, and in huge pages, memory is faulted in once. glibc reads these settings when a process starts,
so the command starts itself once more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

__all__ = ["keep_memory", "tuned"]

_VARIABLE = "GLIBC_TUNABLES"
_SETTINGS: Final[Mapping[str, int]] = {
    "glibc.malloc.hugetlb": 1,  # ask for huge pages where the system leaves that to programs
    "glibc.malloc.mmap_max": 0,  # no block of its own for a large tensor
    "glibc.malloc.trim_threshold": 1 << 40,  # nothing back before the end
    "glibc.malloc.top_pad": 64 << 20,
}


def tuned(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the environment with the settings, those of the user first; None where it names them all already.

    >>> tuned({"GLIBC_TUNABLES": "glibc.malloc.mmap_max=5"})["GLIBC_TUNABLES"].split(":")[:2]
    ['glibc.malloc.mmap_max=5', 'glibc.malloc.hugetlb=1']
    >>> tuned(tuned({})) is None
    True
    """
    given = environment.get(_VARIABLE, "")
    names = {setting.partition("=")[0] for setting in given.split(":")}
    missing = [f"{name}={value}" for name, value in _SETTINGS.items() if name not in names]
    return {**environment, _VARIABLE: ":".join([given, *missing] if given else missing)} if missing else None


def keep_memory() -> None:
    """Start this command again with the settings, where it runs on glibc without them."""
    environment = tuned(os.environ)
    if "CS_GNU_LIBC_VERSION" in os.confstr_names and environment is not None:
        os.execve(sys.executable, sys.orig_argv, environment)
