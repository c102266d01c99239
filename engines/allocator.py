"""Has the C library keep the memory of large tensors that are freed, for the next ones."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
_KEPT = 256 << 20


def keep_freed_memory() -> None:
    """Keeps up to 256 MiB that are free; where the C library is not glibc, does nothing.

    By default glibc gives back every large tensor, and the system clears each page of the next one anew. A forward
    pass in PyTorch, where every operator has a tensor of its own, took about a tenth longer so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _KEPT)
    mallopt(_TRIM_THRESHOLD, _KEPT)
