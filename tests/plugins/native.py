"""The C++ implementations of TokenCompact that run on the host, called from Python."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plugins.token_compact.binding import Problem, TokenCompact

Outputs = tuple[NDArray, NDArray, NDArray, NDArray]

BUILD = Path(__file__).resolve().parents[2] / "build"
HOST_LIBRARY = BUILD / "lib" / "libskimrt_host.so"


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
    library = ctypes.CDLL(str(HOST_LIBRARY))
    library.skimrt_token_compact_by_reference.restype = ctypes.c_bool
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
    refused = f"{implementation} refused B {batch}, S {length}, C {rows}, D {width}"
    if implementation == "kernel":
        try:
            TokenCompact(library)(problem, None)
        except RuntimeError as error:
            raise ValueError(refused) from error
    elif not library.skimrt_token_compact_by_reference(ctypes.byref(problem)):
        raise ValueError(refused)
    return packed, packed_alive, packed_position, count
