"""Calls engines as the runner does, to time them: on a GPU, hidden states stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from engines.backends import Profile
from engines.backends.device_engine import DeviceProfile, Lane
from engines.stages import resident

Key = TypeVar("Key")
Call = Callable[[], object]


def calls_of(profiles: Mapping[Key, Profile], words: int, token_level: bool) -> dict[Key, Call]:
    """A call of every profile, which has ended when it returns, on rows that are all alive.

    words: ids of the vocabulary. token_level: whether the model's head is. On a CPU inputs are copied in and outputs
    out. On a GPU, where all calls share a stream, rows stay on the device between two stages, and only counts, alive
    bits and positions come back.
    """
    on_device = {key: profile for key, profile in profiles.items() if isinstance(profile, DeviceProfile)}
    calls = {key: _host_call(profile, words) for key, profile in profiles.items() if key not in on_device}
    if on_device:
        lane = Lane(next(iter(on_device.values())).device)
        lane.scratch(max(profile.executable.scratch_bytes for profile in on_device.values()))
        calls |= {key: _device_call(profile, lane, words, token_level) for key, profile in on_device.items()}
    return calls


def _host_call(profile: Profile, words: int) -> Call:
    for name, buffer in profile.inputs.items():
        buffer[...] = rows_like(name, buffer, words)
    return lambda: profile(profile.inputs)


def _device_call(profile: DeviceProfile, lane: Lane, words: int, token_level: bool) -> Call:
    inputs = profile.executable.inputs
    context = profile.context(lane, resident(later="hidden" in inputs, token_level=token_level))
    for name, tensor in inputs.items():
        if name in context.inputs:
            context.inputs[name][...] = rows_like(name, context.inputs[name], words)
            continue
        pinned = profile.device.pinned(tensor.nbytes)
        buffer = pinned.view(tensor.dtype).reshape(tensor.shape)
        buffer[...] = rows_like(name, buffer, words)
        lane.stream.upload(pinned, context.arrays[name].address)
        lane.stream.synchronize()

    def call() -> None:
        context.launch()
        context.done.synchronize()

    return call


def rows_like(name: str, buffer: np.ndarray, words: int) -> np.ndarray | int:
    """Real-looking values of an input, all rows alive: what dies inside a stage costs as much as what lives."""
    rng = np.random.default_rng(0)
    match name:
        case "hidden":
            values = rng.standard_normal(buffer.shape, np.float32)
            # A bf16 buffer takes the bits of its values, the upper half of float32.
            return values.view(np.uint32) >> 16 if buffer.dtype == np.uint16 else values
        case "input_ids":
            return rng.integers(words, size=buffer.shape)
        case "position":
            return np.arange(buffer.shape[1])
        case "alive":
            return 1
        case _:
            return 0
