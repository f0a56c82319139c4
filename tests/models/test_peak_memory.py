"""The cost of a block: its time, and memory that was taken and given back within it."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch

from hotfix.models import peak_memory
from hotfix.models.peak_memory import cost_of, peak_resident, reset_peak_resident

CPU = torch.device("cpu")


def test_seconds_are_the_block_s() -> None:
    with cost_of(CPU) as cost:
        assert math.isnan(cost.seconds)
        time.sleep(0.05)
    assert 0.05 <= cost.seconds < 5


@pytest.mark.skipif(not reset_peak_resident(), reason="this kernel doesn't reset the peak")
def test_the_peak_is_of_the_block_and_not_of_what_came_before() -> None:
    size = 100 << 20
    with cost_of(CPU) as large:
        torch.ones(size, dtype=torch.uint8)
    with cost_of(CPU) as small:
        torch.ones(1, dtype=torch.uint8)
    assert large.peak_bytes - small.peak_bytes > 0.8 * size
    assert small.peak_bytes > 10 << 20


def test_an_error_has_its_cost_too() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), cost_of(CPU) as cost:
        fail()
    assert cost.seconds >= 0


def test_where_nobody_counts_it_is_nan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path / "none" / "clear_refs")
    with cost_of(CPU) as cost:
        pass
    assert math.isnan(cost.peak_bytes)
    assert cost.seconds >= 0
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "status")
    assert math.isnan(peak_resident())
    (tmp_path / "status").write_text("VmHWM:\t    1234 kB\n", encoding="ascii")
    assert peak_resident() == 1234 * 1024


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_is_the_allocator_s() -> None:
    size = 64 << 20
    with cost_of(torch.device("cuda")) as cost:
        torch.ones(size, dtype=torch.uint8, device="cuda").sum().item()
    assert cost.peak_bytes >= size
