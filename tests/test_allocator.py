"""The command's own process has glibc's settings, starts itself only once for them, and keeps what the user set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hotfix.allocator import tuned

_FAULTS = """
import resource, sys
sys.argv = ["x"]
from hotfix.allocator import keep_memory
keep_memory()
import torch
def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(faults(20))
"""


def test_the_settings_of_the_user_come_first() -> None:
    found = tuned({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0", "HOME": "/x"})
    assert found is not None
    assert found["GLIBC_TUNABLES"].startswith("glibc.malloc.hugetlb=0:glibc.malloc.mmap_max=0:")
    assert found["GLIBC_TUNABLES"].count("hugetlb") == 1
    assert found["HOME"] == "/x"
    assert tuned(found) is None


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the settings are glibc's")
def test_a_large_tensor_takes_the_memory_of_the_one_before() -> None:
    def faults(code: str) -> int:
        plain = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
        command = [sys.executable, "-c", code]
        return int(subprocess.run(command, env=plain, capture_output=True, text=True, check=True, timeout=100).stdout)

    # 16 MB are 3,906 pages of 4 KiB; the system may give several at a time.
    assert faults(_FAULTS.replace("keep_memory()\nimport", "import")) > 20 * 300
    assert faults(_FAULTS) < 20 * 30
