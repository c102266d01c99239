"""A loaded TensorRT engine, with an optimisation profile for each bucket; the same for tensorrt and tensorrt_rtx."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from engines.backends.base import Engine
from engines.backends.cuda_tensorrt import TensorRtExecutable
from engines.backends.device import Device
from engines.backends.device_engine import DeviceProfile
from engines.buckets import Bucket
from engines.errors import InputError
from engines.stages import POOLED


class TensorRtEngine(Engine):
    """An ICudaEngine with an optimisation profile for each bucket, whose least and greatest shapes are the same.

    device:  what its profiles run on.
    trt:     the module that deserialised it, tensorrt or tensorrt_rtx.
    runtime: what deserialised it, which has to live as long.
    Raises InputError for an engine whose profiles are not so.
    """

    def __init__(self, device: Device, trt: ModuleType, engine: Any, runtime: Any) -> None:
        self._device, self._trt, self._engine, self._runtime = device, trt, engine, runtime
        self._indices = {_bucket(trt, engine, index): index for index in range(engine.num_optimization_profiles)}
        self._profiles: dict[Bucket, DeviceProfile] = {}

    def profile(self, bucket: Bucket) -> DeviceProfile:
        if bucket not in self._indices:
            raise InputError(f"engine {self._engine.name!r}: it has no profile {bucket}; build the artifact again")
        if bucket not in self._profiles:
            executable = TensorRtExecutable(self._trt, self._engine, self._indices[bucket], bucket)
            self._profiles[bucket] = DeviceProfile(self._device, executable)
        return self._profiles[bucket]


def _bucket(trt: ModuleType, engine: Any, profile: int) -> Bucket:
    """The bucket of a profile. Raises InputError for one that takes more than one shape."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT and name != POOLED]
    shapes = {tuple(shape) for name in inputs for shape in engine.get_tensor_profile_shape(name, profile)}
    buckets = {shape[:2] for shape in shapes}
    if len(buckets) != 1 or min(min(buckets, default=())) < 1:
        raise InputError(
            f"engine {engine.name!r}: expected a profile of one batch and length, found {sorted(shapes)}; build the "
            "engine again"
        )
    ((batch, length),) = buckets
    return Bucket(batch=batch, length=length)
