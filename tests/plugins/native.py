"""The C++ implementations of TokenCompact that run on the host, called from Python."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Outputs = tuple[NDArray, NDArray, NDArray, NDArray]

BUILD = Path(__file__).resolve().parents[2] / "build"
HOST_LIBRARY = BUILD / "lib" / "libskimrt_host.so"


class Problem(ctypes.Structure):
    """TokenCompactProblem of plugins/token_compact/operator.h."""

    _fields_ = (
        ("batch", ctypes.c_int32),
        ("length", ctypes.c_int32),
        ("capacity", ctypes.c_int32),
        ("row_bytes", ctypes.c_int64),
        ("threshold", ctypes.c_float),
        ("protect_first", ctypes.c_bool),
        ("hidden", ctypes.c_void_p),
        ("score", ctypes.c_void_p),
        ("alive", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
        ("packed", ctypes.c_void_p),
        ("packed_alive", ctypes.c_void_p),
        ("packed_position", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
    )


def token_compact(
    implementation: str,
    hidden: NDArray,
    score: NDArray[np.float32],
    alive: NDArray[np.int32],
    position: NDArray[np.int32],
    threshold: float,
    capacity: int,
    protect_first: bool,
) -> Outputs:
    """`implementation`: "reference" or "kernel", which is the CUDA kernel run on the host.

    Shapes as the operator's; capacity 0 means S. Raises ValueError for a call that is refused.
    """
    function = getattr(ctypes.CDLL(str(HOST_LIBRARY)), f"skimrt_token_compact_by_{implementation}")
    function.restype = ctypes.c_bool
    inputs = [np.ascontiguousarray(array) for array in (hidden, score, alive, position)]
    batch, length, width = hidden.shape
    rows = capacity or length
    packed = np.empty((batch, rows, width), hidden.dtype)
    packed_alive, packed_position = np.empty((2, batch, rows), np.int32)
    count = np.empty(batch, np.int32)
    problem = Problem(
        batch,
        length,
        rows,
        width * hidden.dtype.itemsize,
        threshold,
        protect_first,
        *(array.ctypes.data for array in (*inputs, packed, packed_alive, packed_position, count)),
    )
    if not function(ctypes.byref(problem)):
        raise ValueError(f"{implementation} refused B {batch}, S {length}, C {rows}, D {width}")
    return packed, packed_alive, packed_position, count
