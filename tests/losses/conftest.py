"""A policy that is not the base, with pairs to train it on."""

from __future__ import annotations

import pytest
from loss_bench import Bench


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()
