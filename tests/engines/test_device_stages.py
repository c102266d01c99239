"""The device runner on a device made of host memory, with streams that run in any order their events allow."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.artifact import Artifact
from engines.backends import BACKENDS
from engines.backends.device import Event
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.buckets import Bucket
from engines.device_rows import Mover
from engines.device_stages import DeviceStageRunner
from engines.errors import SkimError
from engines.prediction import SampleResult
from engines.runner import Runner
from engines.samples import Sample
from engines.scheduler import Scheduler
from engines.stage_runner import Call, StageRunner, open_stages
from engines.tokenization import Tokens
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
INNER = next(backend for backend in (OnnxRuntimeBackend(), *BACKENDS) if backend.available() is None)


@pytest.fixture(params=["kernel", "numpy"])
def regroup(request: pytest.FixtureRequest) -> Callable:
    """The CUDA kernel built for the host, and the same in numpy."""
    if request.param == "numpy":
        return plain_regroup
    if not HOST_LIBRARY.is_file():
        pytest.skip(f"{HOST_LIBRARY.name} is not built: cmake -S . -B build -G Ninja && cmake --build build")
    return kernel_regroup(HOST_LIBRARY)


def stages_on(path: Path, device: HostDevice, streams: int = 2, graphs: bool = True) -> DeviceStageRunner:
    backend = HostDeviceBackend(INNER, device)
    stages = open_stages(Artifact.open(path, verify=False), backend, 1, streams, graphs)
    assert isinstance(stages, DeviceStageRunner)
    return stages


def drive(
    stages: StageRunner, samples: Sequence[Tokens], seed: int = 0, buckets: Sequence[Bucket] = BUCKETS
) -> list[SampleResult]:
    """Runs samples with as many calls in flight as chance has it, whose ends come in any order."""
    scheduler, rng = Scheduler([buckets] * stages.units), random.Random(seed)
    all_samples = [Sample(number, tokens) for number, tokens in enumerate(samples)]
    for unit in range(stages.units):
        works = scheduler.calls(unit, [sample.rows for sample in all_samples])
        rng.shuffle(works)
        flight: list[Call] = []
        for work in works:
            flight.append(stages.start(unit, work.bucket, [all_samples[place] for place in work.samples]))
            while flight and rng.random() < 0.4:
                stages.finish(flight.pop(rng.randrange(len(flight))))
        while flight:
            stages.finish(flight.pop(rng.randrange(len(flight))))
    return [sample.result() for sample in all_samples]


def check(toy: Toy, samples: Sequence[Tokens], results: Sequence[SampleResult]) -> None:
    for tokens, result in zip(samples, results, strict=True):
        logits, survivors = toy.reference(tokens)
        np.testing.assert_allclose(result.logits, logits, atol=1e-5)
        assert [positions.tolist() for positions in result.survivors] == survivors
        for alive, carried in zip(survivors[:-1], result.carried, strict=True):
            assert carried == len(alive) + (0 not in alive)


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


def test_one_graph_per_engine_and_context_and_nothing_is_captured_twice(toy_artifact) -> None:
    device = HostDevice(plain_regroup)
    stages = stages_on(toy_artifact(Toy()), device, streams=2)
    stages.load_all([BUCKETS] * stages.units)
    assert device.traffic.captures == 2 * 3 * len(BUCKETS)
    before = device.traffic.queued_engines
    samples = random_tokens(3, 50)
    check(Toy(), samples, drive(stages, samples))
    assert device.traffic.captures == 2 * 3 * len(BUCKETS) and device.traffic.launches > 0
    assert device.traffic.queued_engines == before  # every call was a replay


def test_without_graphs_nothing_is_captured(toy_artifact) -> None:
    device = HostDevice(plain_regroup)
    samples = random_tokens(3, 20)
    check(Toy(), samples, drive(stages_on(toy_artifact(Toy()), device, graphs=False), samples))
    assert device.traffic.captures == device.traffic.launches == 0


def test_hidden_states_stay_on_the_device(toy_artifact) -> None:
    """Of stage 1 nothing goes up, and down go count, alive and position only, each padded to 256 bytes."""
    device = HostDevice(plain_regroup)
    stages = stages_on(toy_artifact(Toy()), device, streams=1, graphs=False)
    stages.load_all([BUCKETS] * stages.units)
    sample = Sample(0, random_tokens(0, 1)[0])
    bucket = Bucket(batch=3, length=24)
    stages.run(0, bucket, [sample])
    uploaded, downloaded = device.traffic.uploaded, device.traffic.downloaded
    stages.run(1, bucket, [sample])
    assert device.traffic.uploaded == uploaded
    assert device.traffic.downloaded - downloaded == 256 + 2 * 512
    assert sample.hidden is None and sample.place is not None


def test_at_batch_one_each_stage_costs_one_move(toy_artifact) -> None:
    """Rows go straight from one engine's output to the next one's input: nothing is parked."""
    device = HostDevice(plain_regroup)
    stages = stages_on(toy_artifact(Toy()), device, streams=1)
    stages.load_all([BUCKETS] * stages.units)
    samples = random_tokens(0, 12)
    for number, tokens in enumerate(samples):
        sample = Sample(number, tokens)
        while sample.logits is None:
            length = next(n for n in (4, 8, 12, 24) if n >= sample.rows)
            stages.run(sample.unit, Bucket(batch=1, length=length), [sample])
    assert device.traffic.regroups == 2 * len(samples)


def test_parking_is_used_again(toy_artifact) -> None:
    device = HostDevice(plain_regroup)
    stages = stages_on(toy_artifact(Toy()), device)
    stages.load_all([BUCKETS] * stages.units)
    allocated = []
    for seed in range(12):
        samples = random_tokens(7, 40)
        check(Toy(), samples, drive(stages, samples, seed % 3))
        allocated.append(device.traffic.allocated)
    assert allocated[0] > 0 and allocated[3:] == allocated[3:4] * 9


def test_a_row_of_no_text_never_comes_out(toy_artifact) -> None:
    """Regroup clears rows to position -1, and a longer bucket has such rows behind every sample."""
    stages = stages_on(toy_artifact(Toy(head="tagging")), HostDevice(plain_regroup))
    samples = [tokens_of(np.random.default_rng(n), 2) for n in range(4)]
    longest = [bucket for bucket in BUCKETS if bucket.length == MAX_LENGTH]
    results = drive(stages, samples, buckets=longest)
    check(Toy(head="tagging"), samples, results)
    assert all(min(positions, default=0) >= 0 for result in results for positions in result.survivors)


def test_calls_that_were_given_up_block_nobody_and_keep_no_memory(toy_artifact) -> None:
    stages = stages_on(toy_artifact(Toy()), HostDevice(plain_regroup), streams=2)
    for number in range(5):
        stages.start(0, BUCKETS[-1], [Sample(number, random_tokens(number, 1)[0])])
    samples = random_tokens(1, 30)
    check(Toy(), samples, drive(stages, samples))
    gc.collect()
    held = [rows for lane in stages._lanes for c in lane.contexts.values() if (rows := c.output) and rows.residents]
    assert not held


def test_nan_is_an_error_of_the_call_that_had_it(toy_artifact) -> None:
    stages = stages_on(toy_artifact(Toy(thresholds=())), HostDevice(plain_regroup), streams=1)
    bucket = Bucket(batch=1, length=4)
    bad = stages.start(0, bucket, [Sample(0, Tokens([NAN_WORD, 1], [0, 0], 2))])
    good = stages.start(0, bucket, [Sample(1, Tokens([1, 2], [0, 0], 2))])  # completes the bad one first
    stages.finish(good)
    with pytest.raises(SkimError, match="stage 0: expected finite values, found NaN or infinity for text 1"):
        stages.finish(bad)


def test_threads_share_the_stages(toy_artifact) -> None:
    toy, failures = Toy(), []
    stages = stages_on(toy_artifact(toy), HostDevice(plain_regroup), streams=2)

    def work(seed: int) -> None:
        try:
            samples = random_tokens(seed, 20)
            check(toy, samples, drive(stages, samples, seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_an_engine_on_a_device_takes_and_gives_host_arrays(toy_artifact) -> None:
    """What the numeric gate does with any target's engine."""
    artifact = Artifact.open(toy_artifact(Toy()), verify=False)
    record = next(r for r in artifact.manifest.engines if r.stage == 1 and r.bucket == Bucket(batch=3, length=8))
    file = artifact.file(record.file)
    rng = np.random.default_rng(0)
    inputs = {
        "hidden": rng.normal(size=(3, 8, WIDTH)).astype(np.float32),
        "alive": np.ones((3, 8), np.int32),
        "position": np.tile(np.arange(8, dtype=np.int32), (3, 1)),
    }
    expected = INNER.load(file, 1)(inputs)
    engine = HostDeviceBackend(INNER, HostDevice(plain_regroup)).load(file, 1)
    for _ in range(2):
        found = engine(inputs)
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
