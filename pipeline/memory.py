"""How many processes of a size this machine runs side by side."""

from __future__ import annotations

import os
from pathlib import Path

_SHARE_OF_MEMORY = 0.8
"""Of what is free, that they may take together."""


def builders_side_by_side(peak_bytes: int) -> int:
    """How many builders of that size the free memory holds; at least one, and not more than there are cores."""
    return max(1, min(len(os.sched_getaffinity(0)), int(_SHARE_OF_MEMORY * _free_memory() // peak_bytes)))


def _free_memory() -> int:
    """Bytes that can be taken without swapping; Linux counts them, elsewhere it is what nobody has."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
