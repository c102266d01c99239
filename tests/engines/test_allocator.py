"""Memory that is freed stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from engines.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(2):
    np.ones(1 << 24, np.float32)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    np.ones(1 << 24, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_large_tensor_takes_the_memory_of_the_last_one() -> None:
    given, kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True)) for how in ("given back", "kept")
    )
    assert kept < given / 4, f"{kept} page faults, {given} by default"
