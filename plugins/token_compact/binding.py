"""TokenCompact for Python: the C function of the plugin library, called with addresses of device memory."""

from __future__ import annotations

import ctypes

from plugins.library import open_library


class Problem(ctypes.Structure):
    """TokenCompactProblem of operator.h, where every field is described."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("batch", "length", "capacity")),
        ("row_bytes", ctypes.c_int64),
        ("threshold", ctypes.c_float),
        ("protect_first", ctypes.c_bool),
        *((name, ctypes.c_void_p) for name in ("hidden", "score", "alive", "position")),
        *((name, ctypes.c_void_p) for name in ("packed", "packed_alive", "packed_position", "count")),
    )


class TokenCompact:
    """Decides and packs, on a stream. Needs the plugin library and a CUDA device."""

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        """`library`: what plugins.library.open_library() returned; raises what it raises when left out."""
        self._library = library or open_library()
        self._library.skimrt_token_compact.argtypes = (ctypes.POINTER(Problem), ctypes.c_void_p)
        self._library.skimrt_token_compact.restype = ctypes.c_int32
        self._library.skimrt_error_string.argtypes = (ctypes.c_int32,)
        self._library.skimrt_error_string.restype = ctypes.c_char_p

    def __call__(self, problem: Problem, stream: int | None) -> None:
        """Puts one kernel on the CUDA stream with address `stream` and returns without waiting.

        Raises RuntimeError with CUDA's reason when the call was refused or could not be launched.
        """
        code = self._library.skimrt_token_compact(ctypes.byref(problem), stream)
        if code != 0:
            reason = self._library.skimrt_error_string(code).decode()
            shape = f"{problem.batch} x {problem.length} rows to {problem.capacity} of {problem.row_bytes} bytes"
            raise RuntimeError(f"token_compact of {shape}: {reason} (CUDA {code})")
