"""What a piece of work costs: its time, and the most memory that was in use while it ran."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

__all__ = ["Cost", "cost_of", "peak_resident", "reset_peak_resident"]

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
# proc(5): resets the peak resident set size to what is resident now.
_RESET_PEAK: Final = "5"


@dataclass
class Cost:
    """Of a block, once it has ended.

    Attributes:
        seconds: on the clock, the device's work included.
        peak_bytes: the most in use, the model included: what the allocator held (CUDA), or what of the process was
            resident (CPU, Linux); NaN where that can't be told.
    """

    seconds: float = math.nan
    peak_bytes: float = math.nan


@contextmanager
def cost_of(device: torch.device) -> Iterator[Cost]:
    """Measure the block; the cost is there when it has ended, however it ended."""
    cost = Cost()
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    told = on_cuda or reset_peak_resident()
    started = time.perf_counter()
    try:
        yield cost
    finally:
        if on_cuda:
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - started
        if told:
            cost.peak_bytes = float(torch.cuda.max_memory_allocated(device)) if on_cuda else peak_resident()


def reset_peak_resident() -> bool:
    """Let the kernel count the process's peak resident memory from now on; returns whether it does."""
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak_resident() -> float:
    """Return the most of the process that was resident since the last reset, in bytes; NaN where no one counts it."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        return math.nan
    return int(found[1]) * 1024.0 if found else math.nan
