"""The kernel of TokenCompact as what `skimrt::token_compact` is on CUDA: for PyTorch, without a TensorRT engine."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engines.errors import InputError, SkimError
from pipeline.model.compaction import token_compact

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (Path(__file__).with_name("token_compact_c.cu"), ROOT / "plugins" / "token_compact" / "kernel.cu")

_GIVEN, _DEFAULTS = 5, (0, True)
"""Arguments of `token_compact` without a default, and the defaults of the others: capacity and protect_first."""


class Problem(ctypes.Structure):
    """TokenCompactProblem of plugins/token_compact/operator.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("batch", "length", "capacity")),
        ("row_bytes", ctypes.c_int64),
        ("threshold", ctypes.c_float),
        ("protect_first", ctypes.c_bool),
        *((name, ctypes.c_void_p) for name in ("hidden", "score", "alive", "position")),
        *((name, ctypes.c_void_p) for name in ("packed", "packed_alive", "packed_position", "count")),
    )


class Kernel:
    """The C function of a compiled library, called with tensors. Raises InputError for a structure of another size."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._call = library.skimrt_token_compact
        self._call.argtypes = (ctypes.POINTER(Problem), ctypes.c_void_p)
        library.skimrt_token_compact_problem_size.restype = ctypes.c_int64
        size = library.skimrt_token_compact_problem_size()
        if size != ctypes.sizeof(Problem):
            raise InputError(
                f"{path}: expected a problem of {ctypes.sizeof(Problem)} bytes, found {size}; operator.h has changed"
            )

    def __call__(
        self,
        inputs: Sequence[torch.Tensor],
        threshold: float,
        capacity: int,
        protect_first: bool,
        stream: int | None,
    ) -> tuple[torch.Tensor, ...]:
        """As `token_compact`, on a stream; `inputs` are hidden, score, alive and position. Raises SkimError."""
        hidden, score, alive, position = (tensor.contiguous() for tensor in inputs)
        batch, length, width = hidden.shape
        rows = capacity or length
        integers = (alive.new_empty((batch, rows)) for _ in range(2))
        outputs = (hidden.new_empty((batch, rows, width)), *integers, alive.new_empty((batch,)))
        pointers = (tensor.data_ptr() for tensor in (hidden, score, alive, position, *outputs))
        problem = Problem(batch, length, rows, width * hidden.element_size(), threshold, protect_first, *pointers)
        code = self._call(ctypes.byref(problem), stream)
        if code:
            raise SkimError(
                f"skimrt_token_compact of [{batch}, {length}, {width}]: expected success, found CUDA {code}"
            )
        return outputs


def use_the_kernel(arch: str = "native") -> None:
    """Compiles the kernel and makes it what `skimrt::token_compact` is on CUDA. Raises SkimError without nvcc."""
    folder = Path(tempfile.mkdtemp(prefix="skimrt-kernel-"))
    path = folder / "libtoken_compact.so"
    flags = ["-O3", "-std=c++17", f"-arch={arch}", "-shared", "-Xcompiler", "-fPIC", f"-I{ROOT / 'plugins'}"]
    try:
        done = subprocess.run(["nvcc", *flags, "-o", str(path), *map(str, SOURCES)], capture_output=True, text=True)
    except OSError as error:
        raise SkimError(f"nvcc: expected the CUDA compiler, found: {error}; --no-kernel does without") from error
    if done.returncode:
        raise SkimError(f"nvcc: expected the kernel to compile, found: {done.stderr[-800:]}")
    kernel = Kernel(path)

    @token_compact.register_kernel("cuda")
    def compact(*arguments: Any) -> tuple[torch.Tensor, ...]:
        # The dispatcher leaves trailing defaults out.
        given = (*arguments, *_DEFAULTS[len(arguments) - _GIVEN :])
        threshold, capacity, protect_first = given[4:]
        return kernel(given[:4], threshold, capacity, protect_first, torch.cuda.current_stream().cuda_stream)
