"""What only a GPU can run, against stand-ins for CUDA and TensorRT; and the real modules' names, where installed."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.artifact import Artifact
from engines.backends import cuda_device, cuda_tensorrt, tensorrt_engine
from engines.backends.base import Backend
from engines.backends.cuda_device import CudaDevice
from engines.backends.cuda_tensorrt import TensorRtExecutable
from engines.backends.device import Tensor
from engines.backends.device_engine import DeviceProfile
from engines.backends.tensorrt_engine import TensorRtEngine
from engines.binding import Binding
from engines.buckets import Bucket
from engines.device_stages import DeviceStageRunner
from engines.errors import InputError, SkimError, TargetError
from engines.runner import Runner, open_stages
from engines.samples import Sample
from engines.tokenization import Tokens
from tests.engines.driving import INNER, check, drive
from tests.engines.fake_cuda import FakeCudaEngine, FakeRuntime, FakeTensorRt, Status
from tests.engines.host_device import HostDevice, HostDeviceBackend, HostExecutable, plain_regroup
from tests.engines.toy import BUCKETS, NAN_WORD, Toy, random_tokens, tokens_of


class FakeCudaBackend(HostDeviceBackend):
    """The target tensorrt, over the stand-ins."""

    def __init__(self, inner: Backend, seed: int = 0, refusing: str = "") -> None:
        super().__init__(inner, HostDevice(plain_regroup, seed))
        self.runtime = FakeRuntime(self.host_device)
        self.cuda = CudaDevice(self.runtime, plain_regroup)  # type: ignore[arg-type]
        self.refusing = refusing

    def load(self, engine_file: Path, threads: int | None, binding: Binding | None = None, *read) -> TensorRtEngine:  # type: ignore[override]
        inner = self.inner.load(engine_file, threads, None, *read)
        executables = {bucket: HostExecutable(self.host_device, inner.profile(bucket)) for bucket in BUCKETS}
        engine = FakeCudaEngine(executables, self.refusing)
        return TensorRtEngine(self.cuda, FakeTensorRt, engine, object())  # type: ignore[arg-type]

    def device(self) -> CudaDevice:
        return self.cuda


def open_profile(toy_artifact, backend: FakeCudaBackend) -> DeviceProfile:
    artifact = Artifact.open(toy_artifact(Toy()), verify=False)
    return backend.load(artifact.file(artifact.manifest.engines[0].file), 1).profile(BUCKETS[0])


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("toy", [Toy(), Toy(head="tagging")], ids=["classification", "tagging"])
def test_a_run_through_cuda_and_tensorrt(toy_artifact, toy: Toy, graphs: bool) -> None:
    backend = FakeCudaBackend(INNER)
    stages = open_stages(Artifact.open(toy_artifact(toy), verify=False), backend, None, 2, graphs)
    stages.load_all([BUCKETS] * stages.units)
    samples = random_tokens(5, 40)
    check(toy, samples, drive(stages, samples))
    assert bool(backend.host_device.traffic.launches) == graphs


def test_everything_is_given_back(toy_artifact) -> None:
    backend = FakeCudaBackend(INNER)
    stages = open_stages(Artifact.open(toy_artifact(Toy()), verify=False), backend, None)
    samples = random_tokens(5, 20)
    check(Toy(), samples, drive(stages, samples))
    alive = backend.runtime.alive
    assert all(alive.values())
    del stages
    gc.collect()
    assert alive == {"device": {}, "pinned": {}, "handles": {}}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Switches the garbage collector off: what is freed then is freed because nothing refers to it any more."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_runner_gives_everything_back_after_an_error_at_once(toy_artifact, no_collector) -> None:
    """Also with calls in flight that nobody finishes: the device's memory does not wait for the collector."""
    backend, rng = FakeCudaBackend(INNER), np.random.default_rng(5)
    runner = Runner(toy_artifact(Toy(thresholds=())), backend, streams=3, verify=False)
    stages = runner._stages
    assert isinstance(stages, DeviceStageRunner)
    with pytest.raises(SkimError, match="found NaN or infinity for text 1"):
        runner.run_tokens([Tokens([NAN_WORD] * 4, [0] * 4, 4), *(tokens_of(rng, 4) for _ in range(6))])
    for number in range(2):
        stages.start(0, runner._buckets[0][0], [Sample(number, tokens_of(rng, 4))])
    assert sum(lane.call is not None for lane in stages._lanes) == 2
    assert all(backend.runtime.alive.values())
    del stages, runner
    assert backend.runtime.alive == {"device": {}, "pinned": {}, "handles": {}}


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_during_a_capture(enabled: bool, no_collector) -> None:
    """Freeing device memory there would break it, as the stand-in does."""
    cuda = FakeCudaBackend(INNER).cuda
    owners = [cuda.allocate(1)[1] for _ in range(5000)]  # more than the collector waits for

    def work() -> None:
        while owners:
            cycle: list = [owners.pop()]
            cycle.append(cycle)

    if enabled:
        gc.enable()
    cuda.stream().capture(work)
    assert gc.isenabled() == enabled


def test_captures_take_turns() -> None:
    """The first one to end would let the collector loose on the other."""
    cuda, collecting = FakeCudaBackend(INNER).cuda, []
    stream = cuda.stream()
    other = threading.Thread(target=lambda: stream.capture(lambda: collecting.append(gc.isenabled())))

    def work() -> None:
        other.start()
        other.join(0.1)
        assert not collecting

    cuda.stream().capture(work)
    other.join()
    assert collecting == [False] and gc.isenabled()


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags", "cudaMemcpyAsync"])
def test_an_error_of_cuda_names_the_function_and_the_reason(toy_artifact, function: str) -> None:
    backend = FakeCudaBackend(INNER)
    backend.runtime.failing[function] = Status.cudaErrorMemoryAllocation
    with pytest.raises(SkimError, match=rf"{function}: .*found cudaErrorMemoryAllocation \(CUDA 2\)"):
        open_profile(toy_artifact, backend).run()


def test_a_fault_of_regrouping_is_an_error_of_ours(toy_artifact) -> None:
    """The plugins' binding raises RuntimeError, which a user would meet as a traceback."""
    backend = FakeCudaBackend(INNER)

    def faulty(sources, target, stream) -> None:
        raise RuntimeError("regroup of 1 samples to length 4: misaligned address (CUDA 716)")

    backend.cuda.regroup = faulty  # type: ignore[assignment]
    stages = open_stages(Artifact.open(toy_artifact(Toy()), verify=False), backend, None, streams=1)
    with pytest.raises(SkimError, match=r"regroup of 1 samples to length 4: misaligned address \(CUDA 716\); start"):
        drive(stages, random_tokens(0, 1))


def test_a_capture_that_fails_is_ended_and_told(toy_artifact) -> None:
    backend = FakeCudaBackend(INNER)
    backend.runtime.failing["cudaStreamEndCapture"] = Status.cudaErrorStreamCaptureUnsupported
    with pytest.raises(SkimError, match="cudaErrorStreamCaptureUnsupported; run without CUDA graphs"):
        open_profile(toy_artifact, backend).run()
    del backend.runtime.failing["cudaStreamEndCapture"]
    stream = backend.cuda.stream()

    def allocate() -> None:
        backend.cuda.allocate(16)

    with pytest.raises(SkimError, match=r"cudaMalloc.*cudaErrorStreamCaptureUnsupported"):
        stream.capture(allocate)
    assert all(host.capturing is None for host in backend.host_device.streams[1:] if host.handle == stream.handle)


@pytest.mark.parametrize(
    ("refusing", "message"),
    [
        ("contexts", "expected an execution context, found none"),
        ("addresses", "refused the address"),
        ("runs", "execute_async_v3: expected success"),
        ("profiles", "refused profile 0"),
        ("ranges", r"expected a profile of one batch and length, found \[\(1, 4\), \(9, 4\)\]"),
    ],
)
def test_what_tensorrt_refuses_is_an_error(toy_artifact, refusing: str, message: str) -> None:
    with pytest.raises(SkimError, match=message):
        open_profile(toy_artifact, FakeCudaBackend(INNER, refusing=refusing)).run()


@pytest.mark.parametrize(
    "tensor", [Tensor((1, 8, -1), np.dtype(np.int32)), Tensor((1, 8), np.dtype(np.int64))], ids=["dynamic", "int64"]
)
def test_engines_that_we_did_not_build_are_refused(toy_artifact, tensor: Tensor) -> None:
    artifact = Artifact.open(toy_artifact(Toy()), verify=False)
    inner, bucket = INNER.load(artifact.file(artifact.manifest.engines[0].file), 1), BUCKETS[0]
    executable = HostExecutable(HostDevice(plain_regroup), inner.profile(bucket))
    engine = FakeCudaEngine({bucket: executable}, alive=tensor)
    with pytest.raises(InputError, match=r"tensor 'alive': expected \[batch, length, ...\] of"):
        TensorRtExecutable(FakeTensorRt, engine, 0, bucket)  # type: ignore[arg-type]


def test_a_bucket_that_an_engine_has_no_profile_for(toy_artifact) -> None:
    artifact, backend = Artifact.open(toy_artifact(Toy()), verify=False), FakeCudaBackend(INNER)
    engine = backend.load(artifact.file(artifact.manifest.engines[0].file), 1)
    with pytest.raises(InputError, match="it has no profile 2x5; build the artifact again"):
        engine.profile(Bucket(batch=2, length=5))


def test_without_a_gpu_the_target_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either the package, the driver or the device; this machine decides which of them is met here first."""
    if cuda_device.missing_cuda() is None:
        pytest.skip("this machine has a GPU")
    cuda_device.cuda_device.cache_clear()
    with pytest.raises(TargetError, match=r"cuda-python is not installed|no CUDA device|plugin library"):
        cuda_device.cuda_device()


@pytest.mark.parametrize("devices", [0, 1])
def test_what_is_missing_is_named(devices: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cuda_device, "_runtime", lambda: FakeRuntime(HostDevice(plain_regroup), devices))
    monkeypatch.setenv("SKIMRT_PLUGIN_LIBRARY", str(tmp_path / "no.so"))
    found = cuda_device.missing_cuda()
    assert found is not None and ("none found" if devices == 0 else "plugin library") in found
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install" in str(cuda_device.missing_cuda())


def test_what_only_a_gpu_can_run_stays_small() -> None:
    """Everything else is shared with the host device, and so is tested; docs/gpu.md names the sum."""
    lines = sum(len(Path(m.__file__).read_text("utf-8").splitlines()) for m in (cuda_device, cuda_tensorrt))
    assert lines < 300
    assert f"{lines} lines" in (Path(__file__).parents[2] / "docs" / "gpu.md").read_text("utf-8")


def used(module, pattern: str) -> set[str]:
    return set(re.findall(pattern, Path(module.__file__).read_text("utf-8")))


def test_cuda_has_what_we_call() -> None:
    if importlib.util.find_spec("cuda") is None:
        pytest.skip("cuda.bindings is not installed: pip install cuda-bindings")
    runtime = importlib.import_module("cuda.bindings.runtime")
    enumerations = (runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode, runtime.cudaError_t)
    names = used(cuda_device, r"\bcuda[A-Z]\w+")
    assert "cudaMalloc" in names and names <= {*dir(runtime), *(n for e in enumerations for n in dir(e))}


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_tensorrt_has_what_we_call(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    trt = importlib.import_module(name)
    properties = {"num_io_tensors", "name", "num_optimization_profiles"}
    called = used(cuda_tensorrt, r"engine\.(\w+)\(") | used(tensorrt_engine, r"\bengine\.(\w+)\(")
    assert called | properties <= set(dir(trt.ICudaEngine))
    assert used(cuda_tensorrt, r"\bcontext\.(\w+)\(") <= set(dir(trt.IExecutionContext))
    assert used(cuda_tensorrt, r"_context\.(\w+)\(") <= set(dir(trt.IExecutionContext))
    assert hasattr(trt.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert used(cuda_tensorrt, r"trt\.DataType\.(\w+)") <= set(trt.DataType.__members__)
    assert hasattr(trt.TensorIOMode, "INPUT")


def test_a_bucket_that_memory_is_too_short_for_leaves_the_others_usable(toy_artifact) -> None:
    """Fault 28: the error says what to do, nothing leaks, and the same samples can be run in another bucket."""
    backend = FakeCudaBackend(INNER)
    stages = open_stages(Artifact.open(toy_artifact(Toy()), verify=False), backend, None, streams=1)
    sample = Sample(0, random_tokens(0, 1, longest=4)[0])
    small, large = Bucket(batch=1, length=4), Bucket(batch=3, length=24)
    stages.run(0, small, [sample])
    before = {kind: set(held) for kind, held in backend.runtime.alive.items()}
    backend.runtime.failing["cudaMalloc"] = Status.cudaErrorMemoryAllocation
    with pytest.raises(SkimError, match="fewer streams or smaller buckets"):
        stages.run(1, large, [sample])
    del backend.runtime.failing["cudaMalloc"]
    gc.collect()
    assert {kind: set(held) for kind, held in backend.runtime.alive.items()} == before
    while sample.logits is None:
        stages.run(sample.unit, small, [sample])
    np.testing.assert_allclose(sample.logits, Toy().reference(sample.tokens)[0], atol=1e-5)


def test_calls_of_a_stream_share_the_memory_for_activations(toy_artifact) -> None:
    """Loaded all at once, a stream takes what its largest engine needs, and no more."""
    backend = FakeCudaBackend(INNER)
    stages = open_stages(Artifact.open(toy_artifact(Toy()), verify=False), backend, None, streams=1)
    stages.load_all([BUCKETS] * stages.units)
    assert isinstance(stages, DeviceStageRunner)
    contexts = [c.engine for lane in stages._lanes for c in lane.contexts.values()]
    needed = max(context._execution._executable.scratch_bytes for context in contexts)  # type: ignore[attr-defined]
    assert {context._scratch.address for context in contexts} == {contexts[0]._scratch.address}
    assert contexts[0]._scratch.tensor.nbytes == needed
