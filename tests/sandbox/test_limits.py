"""Limits are checked when made, and hold in a process."""

from __future__ import annotations

import dataclasses
import math
import os
import resource
from typing import Any

import pytest

from hotfix.sandbox.limits import Limits, apply_rlimits, clamp


def made(name: str, value: Any) -> Limits:
    return Limits(**{name: value})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
def test_refuses_what_is_not_above_zero(name: str) -> None:
    with pytest.raises(ValueError, match=f"limit {name} must be above 0, got 0"):
        made(name, 0)
    with pytest.raises(ValueError, match=f"limit {name} must be above 0, got nan"):
        made(name, math.nan)


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="cpu_s"):
        Limits().cpu_s = 1.0  # type: ignore[misc]


def test_clamp_never_raises_a_hard_limit() -> None:
    assert [clamp(5, hard) for hard in (3, 5, 9, resource.RLIM_INFINITY)] == [3, 5, 5, 5]


def test_applied_limits_hold_and_respect_lower_ones() -> None:
    pid = os.fork()
    if pid == 0:
        ok = False
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
            apply_rlimits(Limits(cpu_s=1.5, file_mib=1, processes=5), limit_processes=True)
            kinds = (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC)
            ok = [resource.getrlimit(kind) for kind in kinds] == [(2, 3), (1024, 1024), (0, 0), (7, 7)]
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
