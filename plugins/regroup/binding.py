"""Regroup for Python: the C function of the plugin library, called with addresses of device memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from plugins.library import open_library

NO_POSITION = -1


class Source(ctypes.Structure):
    """The source of one sample; SkimrtRegroupSource of operator.h. `Source()` is an empty slot.

    hidden, alive, position: addresses of [samples, length(, D)] arrays. sample: index in them. length: rows per sample.
    """

    _fields_ = (
        ("hidden", ctypes.c_void_p),
        ("alive", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
        ("sample", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


class Target(ctypes.Structure):
    """The input of the next bucket, [batch, length(, D)]; SkimrtRegroupTarget of operator.h."""

    _fields_ = (
        ("hidden", ctypes.c_void_p),
        ("alive", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
        ("batch", ctypes.c_int32),
        ("length", ctypes.c_int32),
        ("row_bytes", ctypes.c_int64),
    )


class Regroup:
    """Fills a bucket with samples of other buckets, on a stream. Needs the plugin library and a CUDA device."""

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        """`library`: what plugins.library.open_library() returned; raises what it raises when left out."""
        self._library = library or open_library()
        self._library.skimrt_regroup.argtypes = (
            ctypes.POINTER(Source),
            ctypes.POINTER(Target),
            ctypes.c_void_p,
        )
        self._library.skimrt_regroup.restype = ctypes.c_int32
        self._library.skimrt_error_string.argtypes = (ctypes.c_int32,)
        self._library.skimrt_error_string.restype = ctypes.c_char_p

    def __call__(self, sources: Sequence[Source], target: Target, stream: int) -> None:
        """Puts the copies on the CUDA stream with address `stream` and returns without waiting.

        Raises ValueError when the number of sources is not the target's batch, RuntimeError with CUDA's
        reason when the call was refused or could not be launched.
        """
        if len(sources) != target.batch:
            raise ValueError(
                f"regroup: expected {target.batch} sources, one for each target sample, found {len(sources)}"
            )
        array = (Source * len(sources))(*sources)
        code = self._library.skimrt_regroup(array, ctypes.byref(target), stream)
        if code != 0:
            reason = self._library.skimrt_error_string(code).decode()
            raise RuntimeError(f"regroup of {target.batch} samples to length {target.length}: {reason} (CUDA {code})")
