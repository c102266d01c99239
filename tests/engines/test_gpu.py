"""Fault 29: no driver, no GPU, a driver that is too old, or a GPU; told apart without a CUDA package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from engines.backends.gpu import find_gpu
from engines.binding import Gpu

SOURCE = """
#include <string.h>
int cuInit(unsigned flags) { return %(init)s; }
int cuDeviceGetCount(int *count) { *count = %(count)s; return 0; }
int cuGetErrorString(int code, const char **text) { *text = code == 100 ? "no CUDA-capable device" : 0; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NVIDIA Test", length); return 0; }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 9; return 0; }
int nvmlInit_v2(void) { return %(nvml)s; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { strncpy(text, "580.65.06", length); return 0; }
"""


def driver(folder: Path, init: int = 0, count: int = 1, nvml: int = 0) -> str:
    """A driver library that answers so."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = SOURCE % {"init": init, "count": count, "nvml": nvml}
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-o", str(folder / "libfake.so"), "-"]
    subprocess.run(command, input=source.encode(), check=True)
    return str(folder / "libfake.so")


def test_the_gpu_is_described(tmp_path: Path) -> None:
    library = driver(tmp_path)
    assert find_gpu(library, library) == Gpu("NVIDIA Test", "8.9", "13.1", "580.65.06")


def test_the_drivers_version_may_be_unknown(tmp_path: Path) -> None:
    found = find_gpu(driver(tmp_path, nvml=9), driver(tmp_path, nvml=9))
    assert isinstance(found, Gpu) and found.driver is None
    found = find_gpu(driver(tmp_path), "libnone.so.1")
    assert isinstance(found, Gpu) and found.driver is None


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"init": 100}, "finds no usable GPU: error 100, no CUDA-capable device"),
        ({"init": 803}, "finds no usable GPU: error 803, unknown"),
        ({"count": 0}, "finds no GPU; is CUDA_VISIBLE_DEVICES empty?"),
    ],
)
def test_why_there_is_none_is_one_line(tmp_path: Path, answers: dict[str, int], reason: str) -> None:
    found = find_gpu(driver(tmp_path, **answers))
    assert isinstance(found, str) and reason in found and "\n" not in found


def test_without_a_driver() -> None:
    assert find_gpu("libnone.so.1") == "no NVIDIA driver is installed (libnone.so.1 is not found)"
