"""How much one untrusted program may use."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass, fields

__all__ = ["Limits", "apply_rlimits", "clamp"]

_MIB = 1024 * 1024
_OPEN_FILES = 64
# The server and the process that waits for it are counted with the program's own processes.
_HELPERS = 2


@dataclass(frozen=True)
class Limits:
    """Bounds of one program; CPU time, memory and file size hold for each of its processes.

    Args:
        cpu_s: CPU seconds of one process, rounded up to whole seconds.
        wall_s: seconds until the program and all its descendants are killed.
        memory_mib: address space of one process, in MiB.
        file_mib: size of one file, in MiB; the scratch folder holds four such files.
        processes: processes and threads that may exist at once.
        output_kib: standard output and error that are kept, in KiB; the rest is thrown away.

    Raises:
        ValueError: a limit is not above zero.

    >>> Limits(cpu_s=2).wall_s
    20.0
    """

    cpu_s: float = 5.0
    wall_s: float = 20.0
    memory_mib: int = 1024
    file_mib: int = 8
    processes: int = 16
    output_kib: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"limit {field.name} must be above 0, got {getattr(self, field.name)}")


def clamp(wanted: int, hard: int) -> int:
    """Returns the largest limit that is neither above ``wanted`` nor above the existing hard limit.

    >>> clamp(64, 32), clamp(64, resource.RLIM_INFINITY)
    (32, 64)
    """
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def apply_rlimits(limits: Limits, limit_processes: bool) -> None:
    """Puts the calling process under the limits; they can't be raised again."""
    cpu = math.ceil(limits.cpu_s)
    wanted = {
        resource.RLIMIT_AS: limits.memory_mib * _MIB,
        resource.RLIMIT_FSIZE: limits.file_mib * _MIB,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if limit_processes:
        wanted[resource.RLIMIT_NPROC] = limits.processes + _HELPERS
    for kind, value in wanted.items():
        bound = clamp(value, resource.getrlimit(kind)[1])
        resource.setrlimit(kind, (bound, bound))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    # A program that ignores SIGXCPU at the soft limit meets SIGKILL at the hard one.
    resource.setrlimit(resource.RLIMIT_CPU, (clamp(cpu, hard), clamp(cpu + 1, hard)))
