"""The device runner on a device made of host memory, with streams that run in any order their events allow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.artifact import Artifact
from engines.backends.device import Event
from engines.buckets import Bucket
from engines.device_rows import Mover
from engines.device_stages import DeviceStageRunner
from engines.errors import SkimError
from engines.runner import Runner
from engines.samples import Sample
from engines.stage_runner import Call
from engines.tokenization import Tokens
from tests.engines.driving import INNER, check, drive, stages_on
from tests.engines.host_device import HostDevice, HostDeviceBackend, HostStream, kernel_regroup, plain_regroup
from tests.engines.toy import BUCKETS, MAX_LENGTH, NAN_WORD, WIDTH, Toy, random_tokens, tokens_of
from tests.plugins.native import HOST_LIBRARY

MODELS = {
    "classification": Toy(),
    "tagging": Toy(head="tagging"),
    "first may die": Toy(protect_first=False, thresholds=(0.2, 0.1)),
    "first may die, tagging": Toy(head="tagging", protect_first=False, thresholds=(0.2, 0.1)),
    "everything dies": Toy(thresholds=(1e9, 1e9)),
    "nothing dies": Toy(thresholds=(-1e9, -1e9)),
    "dense": Toy(thresholds=()),
    "dense tagging": Toy(thresholds=(), head="tagging"),
}


@pytest.fixture(params=["kernel", "numpy"])
def regroup(request: pytest.FixtureRequest) -> Callable:
    """The CUDA kernel built for the host, and the same in numpy."""
    if request.param == "numpy":
        return plain_regroup
    if not HOST_LIBRARY.is_file():
        pytest.skip(f"{HOST_LIBRARY.name} is not built: cmake -S . -B build -G Ninja && cmake --build build")
    return kernel_regroup(HOST_LIBRARY)


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_the_reference(name: str, toy_artifact, regroup) -> None:
    toy, samples = MODELS[name], random_tokens(0, 60)
    check(toy, samples, drive(stages_on(toy_artifact(toy), HostDevice(regroup)), samples))


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=25),
    seed=st.integers(0, 2**20),
    streams=st.integers(1, 4),
    graphs=st.booleans(),
)
def test_any_batch_gives_what_the_cpu_runner_gives(
    lengths: list[int], seed: int, streams: int, graphs: bool, toy_artifact
) -> None:
    path, rng = toy_artifact(Toy()), np.random.default_rng(seed)
    samples = [tokens_of(rng, length) for length in lengths]
    stages = stages_on(path, HostDevice(plain_regroup, seed), streams, graphs)
    expected = Runner(path, provider=INNER.provider, threads=1, verify=False).run_tokens(samples)
    for ours, theirs in zip(drive(stages, samples, seed), expected, strict=True):
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-6)
        assert [a.tolist() for a in ours.survivors] == [b.tolist() for b in theirs.survivors]
        assert (ours.carried, ours.length) == (theirs.carried, theirs.length)


@pytest.mark.parametrize("streams", [1, 3])
def test_the_runner_keeps_several_calls_in_flight(streams: int, toy_artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    device, samples, most = HostDevice(plain_regroup), random_tokens(2, 60), 0
    monkeypatch.setattr("engines.backends.BACKENDS", (HostDeviceBackend(INNER, device),))
    runner = Runner(toy_artifact(Toy()), streams=streams)
    stages = runner._stages
    assert isinstance(stages, DeviceStageRunner)
    start = stages.start

    def counted(*arguments) -> Call:
        nonlocal most
        call = start(*arguments)
        most = max(most, sum(lane.call is not None for lane in stages._lanes))
        return call

    monkeypatch.setattr(stages, "start", counted)
    check(Toy(), samples, runner.run_tokens(samples))
    assert most == streams


def broken(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plants a fault in the order of things."""
    if fault == "engines do not wait for moves":
        monkeypatch.setattr(Mover, "let_wait", lambda self, stream: None)
    elif fault == "nothing is parked":
        monkeypatch.setattr(Mover, "park", lambda self, rows: None)
    elif fault == "parking that is in use is taken":
        monkeypatch.setattr(Mover, "_free_parking", _always_the_same_parking())
    elif fault == "the host does not wait for calls":
        monkeypatch.setattr("tests.engines.host_device.HostEvent.synchronize", lambda self: None)
    elif fault == "engines do not wait for one of the lanes":
        right = HostStream.wait
        monkeypatch.setattr(HostStream, "wait", lambda self, event: self.handle == 2 or right(self, event))


def _always_the_same_parking() -> Callable:
    right = Mover._free_parking

    def wrong(self: Mover, like):
        found = next((rows for rows in self._parking if rows.hidden.tensor == like.hidden.tensor), None)
        return found or right(self, like)

    return wrong


@pytest.mark.parametrize(
    "fault",
    [
        "engines do not wait for moves",
        "nothing is parked",
        "parking that is in use is taken",
        "the host does not wait for calls",
        "engines do not wait for one of the lanes",
    ],
)
def test_a_planted_fault_is_noticed(fault: str, toy_artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(fault, monkeypatch)
    toy, noticed = Toy(), 0
    for seed in range(8):
        samples = random_tokens(seed, 40)
        try:
            check(toy, samples, drive(stages_on(toy_artifact(toy), HostDevice(plain_regroup, seed)), samples, seed))
        except (AssertionError, SkimError):
            noticed += 1
    assert noticed


def test_a_row_of_no_text_never_comes_out(toy_artifact) -> None:
    """Regroup clears rows to position -1, and a longer bucket has such rows behind every sample."""
    stages = stages_on(toy_artifact(Toy(head="tagging")), HostDevice(plain_regroup))
    samples = [tokens_of(np.random.default_rng(n), 2) for n in range(4)]
    longest = [bucket for bucket in BUCKETS if bucket.length == MAX_LENGTH]
    results = drive(stages, samples, buckets=longest)
    check(Toy(head="tagging"), samples, results)
    assert all(min(positions, default=0) >= 0 for result in results for positions in result.survivors)


def test_nan_is_an_error_of_the_call_that_had_it(toy_artifact) -> None:
    stages = stages_on(toy_artifact(Toy(thresholds=())), HostDevice(plain_regroup), streams=1)
    bucket = Bucket(batch=1, length=4)
    bad = stages.start(0, bucket, [Sample(0, Tokens([NAN_WORD, 1], [0, 0], 2))])
    good = stages.start(0, bucket, [Sample(1, Tokens([1, 2], [0, 0], 2))])  # completes the bad one first
    stages.finish(good)
    with pytest.raises(SkimError, match="stage 0: expected finite values, found NaN or infinity for text 1"):
        stages.finish(bad)


def test_threads_share_the_stages(toy_artifact) -> None:
    toy = Toy()
    stages = stages_on(toy_artifact(toy), HostDevice(plain_regroup), streams=2)

    def work(seed: int) -> None:
        samples = random_tokens(seed, 20)
        check(toy, samples, drive(stages, samples, seed))

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(5)))


def test_an_engine_on_a_device_takes_and_gives_host_arrays(toy_artifact) -> None:
    """What the numeric gate does with any target's engine."""
    artifact = Artifact.open(toy_artifact(Toy()), verify=False)
    record = next(record for record in artifact.manifest.engines if record.stage == 1)
    file = artifact.file(record.file)
    rng = np.random.default_rng(0)
    inputs = {
        "hidden": rng.normal(size=(3, 8, WIDTH)).astype(np.float32),
        "alive": np.ones((3, 8), np.int32),
        "position": np.tile(np.arange(8, dtype=np.int32), (3, 1)),
    }
    bucket = Bucket(batch=3, length=8)
    expected = INNER.load(file, 1).profile(bucket)(inputs)
    profile = HostDeviceBackend(INNER, HostDevice(plain_regroup)).load(file, 1).profile(bucket)
    for _ in range(2):
        found = profile(inputs)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_events_of_the_host_device_can_be_waited_for_before_they_pass() -> None:
    device = HostDevice(plain_regroup)
    first, second = device.stream(), device.stream()
    event: Event = device.event()
    order: list[str] = []
    first.put(lambda: order.append("first"))
    first.record(event)
    second.wait(event)
    second.put(lambda: order.append("second"))
    second.synchronize()
    assert order == ["first", "second"]
