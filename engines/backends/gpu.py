"""The GPU of this machine, asked from the driver's own libraries, so that no package is needed to see that it lacks."""

from __future__ import annotations

import ctypes
from functools import cache

from engines.binding import Gpu

_DRIVER, _MANAGEMENT = "libcuda.so.1", "libnvidia-ml.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


@cache
def find_gpu(driver: str = _DRIVER, management: str = _MANAGEMENT) -> Gpu | str:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves visible, or in one line why there is none."""
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return f"no NVIDIA driver is installed ({driver} is not found)"
    code = cuda.cuInit(0)
    count = ctypes.c_int()
    if code == 0:
        code = cuda.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        return f"the NVIDIA driver finds no usable GPU: {_error(cuda, code)}"
    if count.value == 0:
        return "the NVIDIA driver finds no GPU; is CUDA_VISIBLE_DEVICES empty?"
    name, version, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetName(name, len(name), 0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, 0)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, 0)
    return Gpu(
        name=name.value.decode(),
        compute_capability=f"{major.value}.{minor.value}",
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
        driver=_driver_version(management),
    )


def _error(cuda: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(code, ctypes.byref(text))
    return f"error {code}, {text.value.decode() if text.value else 'unknown'}"


def _driver_version(library: str) -> str | None:
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return None
    text = ctypes.create_string_buffer(96)
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlSystemGetDriverVersion(text, len(text)) != 0:
        return None
    return text.value.decode()
