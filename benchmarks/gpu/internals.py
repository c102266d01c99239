"""What the kit asks of the runner's inside, all in one place: the stand-in device, the registry, times of engines."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

import engines.backends
from engines.backends import Backend
from engines.backends.device import Device
from engines.backends.device_engine import DeviceProfile, Lane, ProfileContext
from engines.device_stages import DeviceStageRunner
from engines.runner import Runner
from engines.tokenization import Text


def stand_in_device() -> Device:
    """The tests' device of host memory, on which a rehearsal runs. Only in a source checkout."""
    from tests.engines.host_device import HostDevice, plain_regroup

    return HostDevice(plain_regroup)


def queue_of(stand_in: Any) -> Callable[[int, Callable[[], None]], None]:
    """What queues work on the stream of a handle, on the stand-in device."""

    def put(handle: int, work: Callable[[], None]) -> None:
        next(stream for stream in stand_in.streams if stream.handle == handle).put(work)

    return put


@contextmanager
def registered(backend: Backend) -> Iterator[None]:
    """Makes a backend one of the project's, in every module that has imported the registry."""
    known = engines.backends.BACKENDS
    holders = [module for module in list(sys.modules.values()) if getattr(module, "BACKENDS", None) is known]
    try:
        for module in holders:
            vars(module)["BACKENDS"] = (backend, *known)
        yield
    finally:
        for module in holders:
            vars(module)["BACKENDS"] = known


def seconds_of_call(profile: DeviceProfile, lane: Lane, repeats: int) -> float:
    """Of one call among calls in a row, all rows alive: copies of inputs and results, and the kernels, as one graph."""
    context = profile.context(lane)
    context.inputs["alive"][...] = 1
    return _seconds(context, repeats)


def engine_times(runner: Runner, texts: Sequence[Text], repeats: int) -> dict[str, Any]:
    """Seconds that the engines alone take for texts: calls that are made, times the time of each engine's graph."""
    stages, calls = runner._stages, Counter[tuple]()
    assert isinstance(stages, DeviceStageRunner)
    start = stages.start

    def counting(unit: int, bucket: Any, samples: Any) -> Any:
        calls[unit, bucket] += 1
        return start(unit, bucket, samples)

    stages.start = counting  # type: ignore[method-assign]
    try:
        runner(list(texts))
    finally:
        stages.start = start  # type: ignore[method-assign]
    times = {key: _seconds(context.engine, repeats) for key, context in stages._lanes[0].contexts.items()}
    return {
        "device_seconds": sum(count * times[key] for key, count in calls.items()),
        "calls": sum(calls.values()),
        "engines_us": {f"unit {unit} {bucket}": round(1e6 * times[unit, bucket], 1) for unit, bucket in sorted(times)},
    }


def _seconds(context: ProfileContext, repeats: int) -> float:
    for number in (max(1, repeats // 10), repeats):  # the first ones warm up
        context.stream.synchronize()
        began = time.perf_counter()
        for _ in range(number):
            context.launch()
        context.stream.synchronize()
    return (time.perf_counter() - began) / repeats


def versions() -> dict[str, Any]:
    """The GPU and the libraries, for a results file."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "cpus": os.cpu_count()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["compute_capability"] = f"{properties.major}.{properties.minor}"
        found["multiprocessors"] = properties.multi_processor_count
    return found
