"""What is timed for a plan is a call as the runner makes it: on a GPU hidden states do not cross the bus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.backends.base import Arrays, Profile
from engines.backends.device import Tensor
from engines.backends.device_engine import DeviceProfile
from engines.stages import CUT_OUTPUTS, FIRST_INPUTS, LATER_INPUTS
from pipeline.builder.timed_calls import calls_of
from tests.engines.host_device import HostDevice, HostExecutable, plain_regroup

BATCH, LENGTH, WIDTH, WORDS = 2, 3, 5, 7
PADDED = 256
"""Bytes of a tensor in a block, at least."""


class Stage(Profile):
    """Leaves what it takes, and keeps what it saw."""

    def __init__(self, names: tuple[str, ...], bits: np.dtype) -> None:
        wide = {"hidden": ((BATCH, LENGTH, WIDTH), bits)}
        arrays = {name: wide.get(name, ((BATCH, LENGTH), np.dtype(np.int32))) for name in names}
        self.inputs = {name: np.zeros(shape, dtype) for name, (shape, dtype) in arrays.items()}
        self.bits, self.seen, self.runs = bits, dict[str, np.ndarray](), 0

    def run(self) -> Arrays:
        self.seen, self.runs = {name: buffer.copy() for name, buffer in self.inputs.items()}, self.runs + 1
        rows = np.zeros((BATCH, LENGTH), np.int32)
        return dict(
            zip(CUT_OUTPUTS, (np.zeros((BATCH, LENGTH, WIDTH), self.bits), rows, rows, rows[:, 0]), strict=True)
        )


@pytest.fixture(params=[np.float32, np.float16, np.uint16], ids=["fp32", "fp16", "bf16"])
def bits(request: pytest.FixtureRequest) -> np.dtype:
    return np.dtype(request.param)


def on_device(stage: Stage) -> tuple[DeviceProfile, HostDevice]:
    device = HostDevice(plain_regroup)
    return DeviceProfile(device, HostExecutable(device, stage)), device


@pytest.mark.parametrize("names", [FIRST_INPUTS, LATER_INPUTS], ids=["first", "later"])
@pytest.mark.parametrize("token_level", [False, True])
def test_a_call_moves_what_a_run_moves(names: tuple[str, ...], token_level: bool, bits: np.dtype) -> None:
    stage = Stage(names, bits)
    engine, device = on_device(stage)
    call = calls_of({"one": engine}, WORDS, token_level)["one"]
    before, runs = (device.traffic.launches, device.traffic.uploaded, device.traffic.downloaded), stage.runs
    call()
    launches, uploaded, downloaded = device.traffic.launches, device.traffic.uploaded, device.traffic.downloaded
    assert launches == before[0] + 1 and stage.runs == runs + 1  # one graph, which has ended
    # Copies are counted when they are queued: those of the graph when it was captured, twice with the warm run.
    rows = Tensor((BATCH, LENGTH), np.dtype(np.int32))
    hidden = -(-BATCH * LENGTH * WIDTH * bits.itemsize // PADDED) * PADDED
    up = 3 * PADDED if names == FIRST_INPUTS else 0
    filled = 0 if names == FIRST_INPUTS else BATCH * LENGTH * WIDTH * bits.itemsize + 2 * rows.nbytes
    assert (uploaded, downloaded) == (2 * up + filled, 2 * (3 * PADDED + (hidden if token_level else 0)))


@pytest.mark.parametrize("names", [FIRST_INPUTS, LATER_INPUTS], ids=["first", "later"])
def test_all_rows_are_alive_and_hidden_states_are_numbers_of_their_type(names: tuple[str, ...], bits: np.dtype) -> None:
    """In bf16 a buffer holds bits, which must not be encoded once more."""
    host, device = Stage(names, bits), Stage(names, bits)
    calls = calls_of({"host": host, "device": on_device(device)[0]}, WORDS, token_level=False)
    for call in calls.values():
        call()
    for name in names:
        np.testing.assert_array_equal(host.seen[name], device.seen[name])
    assert (device.seen["alive"] == 1).all()
    if "hidden" in names:
        seen = device.seen["hidden"]
        values = (seen.astype(np.uint32) << 16).view(np.float32) if bits == np.uint16 else seen.astype(np.float32)
        assert 0.3 < values.std() < 3 and np.isfinite(values).all()
        assert (device.seen["position"] == np.arange(LENGTH)).all()
    else:
        assert (device.seen["input_ids"] < WORDS).all()


def test_calls_share_a_stream_and_its_memory_for_activations(tmp_path: Path) -> None:
    device = HostDevice(plain_regroup)
    stages = [Stage(LATER_INPUTS, np.dtype(np.float32)) for _ in range(4)]
    calls = calls_of({n: DeviceProfile(device, HostExecutable(device, s)) for n, s in enumerate(stages)}, WORDS, False)
    assert len(device.streams) == 1 and len(calls) == 4
