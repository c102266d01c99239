"""What `make test-gpu` runs, as far as a machine without a GPU can: the refusal, the timings, the results file."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import gpu_cases, gpu_run
from benchmarks.gpu_cases import LIBRARIES, Variant
from benchmarks.gpu_results import BATCHES, Case, Machine, Timing, read_results
from benchmarks.regroup_gpu import regroup_costs
from calib.data import Example
from engines.artifact import Artifact
from engines.backends import BACKENDS, choose_backend, tensorrt
from engines.binding import Gpu
from engines.buckets import parse_buckets
from engines.errors import GateError, InputError, SkimError, TargetError
from engines.manifest import Gate
from pipeline.builder.config import BuildConfig
from tests.benchmarks.test_gpu_results import COMPACTION
from tests.engines.conftest import toy_artifact  # noqa: F401 (a fixture)
from tests.engines.host_device import HostDevice, HostDeviceBackend, plain_regroup
from tests.engines.toy import Toy

ROOT = Path(__file__).parents[2]
GPU_BACKENDS = [backend for backend in BACKENDS if not backend.on_cpu]
MACHINE = Machine(gpu="G", compute_capability="8.9", driver="1", cuda="13.0", processor="C", tools={})
TEXTS = [" ".join(f"w{4 + (n * i) % 50}" for i in range(1, 3 + n % 9)) for n in range(20)]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.mark.skipif(
    any(backend.available() is None for backend in GPU_BACKENDS), reason="this machine can run a GPU target"
)
def test_without_a_gpu_it_exits_with_4_and_says_what_is_missing() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_run", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "this machine cannot run a GPU target; missing:" in done.stderr
    assert all(f"- {target}: " in done.stderr for target in ("tensorrt", "tensorrt-rtx"))


def test_every_gpu_target_is_asked(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {backend.target for backend in GPU_BACKENDS} == set(LIBRARIES)
    one, *others = GPU_BACKENDS
    monkeypatch.setattr(one, "cannot_run", lambda options: None)
    for other in others:
        monkeypatch.setattr(other, "cannot_run", lambda options: "no such GPU")
    assert gpu_run.usable_backends(BACKENDS, console) == [one]
    assert all(f"SKIPPED  - {other.target}: no such GPU" in console.file.getvalue() for other in others)  # type: ignore[attr-defined]
    monkeypatch.setattr(gpu_run, "missing_cuda", lambda: None)
    assert gpu_run.usable_backends([other], console) == []  # the kernels need no target
    monkeypatch.setattr(gpu_run, "missing_cuda", lambda: "no driver")
    with pytest.raises(TargetError, match=r"no such GPU\n  - the kernels: no driver"):
        gpu_run.usable_backends([other], console)


@pytest.mark.parametrize(
    ("capability", "built_for"), [("9.0", None), ("7.5", ("7.5",)), ("12.1", ("12.1",)), ("8.9", ("8.9",))]
)
def test_engines_are_built_for_the_gpu_that_is_to_run_them(
    capability: str,
    built_for: tuple[str, ...] | None,
    console: Console,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorRT-RTX builds for any it knows, which is not all that there is; by default not for all it knows."""
    standard, rtx = (backend for backend in GPU_BACKENDS if backend.target.startswith("tensorrt"))
    if rtx.missing_to_build() is not None:
        pytest.skip(str(rtx.missing_to_build()))
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: Gpu("Some GPU", capability, "13.0", None))
    monkeypatch.setattr(tensorrt, "missing_cuda", lambda: None)
    monkeypatch.setattr(standard, "cannot_run", lambda options: None)
    usable = gpu_run.usable_backends(BACKENDS, console)
    if built_for is None:
        assert usable == [standard]
        reason = "SKIPPED  - tensorrt-rtx: built for compute capability 8.0, 8.6, 8.9, 12.0, here is Some GPU (9.0)"
        assert reason in console.file.getvalue()  # type: ignore[attr-defined]
        return
    assert usable == [standard, rtx]
    configs: list[BuildConfig] = []
    monkeypatch.setattr(gpu_cases, "build", lambda config, console: configs.append(config))
    monkeypatch.setattr(gpu_cases, "case_of", lambda *arguments: None)
    args = gpu_run.parser().parse_args(["--artifacts", str(tmp_path)])
    for backend in usable:
        gpu_cases.build_case(Variant("dense", backend, "fp32", plugin=False), 1.0, args, console)
    assert [config.compute_capability for config in configs] == [(), built_for]


def test_the_target_torch_is_built_for_the_gpu_in_few_shapes(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is compiled for CPUs too, and takes the better part of a minute for every bucket."""
    (backend,) = (backend for backend in GPU_BACKENDS if backend.target == "torch")
    configs: list[BuildConfig] = []
    monkeypatch.setattr(gpu_cases, "build", lambda config, console: configs.append(config))
    monkeypatch.setattr(gpu_cases, "case_of", lambda *arguments: None)
    for buckets in (None, "32x64"):
        args = gpu_run.parser().parse_args(["--artifacts", str(tmp_path), *(["--buckets", buckets] if buckets else [])])
        gpu_cases.build_case(Variant("ltp", backend, "fp16", plugin=True), 1.0, args, console)
    assert [(config.torch_device, config.plugin) for config in configs] == [("cuda", True)] * 2
    assert len(parse_buckets(configs[0].buckets or "")) == 2 * len(BATCHES) and configs[1].buckets == "32x64"


def test_every_case_is_timed_with_and_without_graphs(toy_artifact) -> None:  # noqa: F811
    paths = {"dense": toy_artifact(Toy(thresholds=())), "pruned": toy_artifact(Toy())}
    backend = choose_backend("cpu")
    timings = [t for batch in (1, 3) for t in gpu_cases.time_cases(paths, backend, TEXTS, batch, rounds=2)]
    keys = {(t.case, t.batch, t.cuda_graphs) for t in timings}
    assert keys == {(name, batch, graphs) for name in paths for batch in (1, 3) for graphs in (True, False)}
    assert all(t.seconds > 0 and t.streams == (1 if t.batch == 1 else 2) for t in timings)
    dense = {(t.batch, t.cuda_graphs): t.seconds for t in timings if t.case == "dense"}
    assert all(t.dense_seconds == dense[t.batch, t.cuda_graphs] for t in timings)


def test_with_and_without_graphs_share_their_engines(toy_artifact) -> None:  # noqa: F811
    """On a GPU every engine that is loaded is a copy of its weights there."""
    backend, loaded = choose_backend("cpu"), list[Path]()

    class Counting(type(backend)):  # type: ignore[misc]
        """Notes what is loaded."""

        def load(self, engine_file: Path, *rest):
            loaded.append(engine_file)
            return super().load(engine_file, *rest)

    gpu_cases.time_cases({"dense": toy_artifact(Toy(thresholds=()))}, Counting(), TEXTS, 3, rounds=1)
    assert loaded and len(set(loaded)) == len(loaded)


def test_regrouping_is_timed_as_one_graph() -> None:
    device = HostDevice(plain_regroup)
    costs = regroup_costs(device, lengths=(4, 8), width=6)
    assert [(cost.batch, cost.length, cost.row_bytes) for cost in costs] == [(8, 4, 12), (8, 8, 12)]
    assert device.traffic.captures == 2 and device.traffic.launches == 20
    assert all(np.isfinite(cost.microseconds) and cost.microseconds > 0 for cost in costs)


class StandIn(HostDeviceBackend):
    """The target tensorrt on a device of host memory."""

    target = "tensorrt"


WholeRun = Callable[..., int]


@pytest.fixture
def whole_run(toy_artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRun:  # noqa: F811
    """Runs all of it, with toy models and no clock; `failing` names a step and what it raises. Writes gpu.json.

    Without `usable` no target can run on this machine.
    """
    backend = StandIn(choose_backend("cpu"), HostDevice(plain_regroup))

    def run(failing: dict[object, BaseException], *arguments: str, usable: bool = True) -> int:
        def fail(*steps: object) -> None:
            for error in (failing[step] for step in steps if step in failing):
                raise error

        def built(variant: Variant, flops: float, args, console: Console) -> tuple[Case, Path]:
            fail(variant.method, variant.precision)
            path = toy_artifact(Toy(thresholds=()) if variant.method == "dense" else Toy())
            artifact = Artifact.open(path)
            gates = [Gate(name="task metric", status="PASSED", figures={"metric": 0.5})]
            artifact.manifest = artifact.manifest.model_copy(update={"gates": gates})
            return gpu_cases.case_of(artifact, variant, 1.0, flops, console), path

        def timed(paths, backend, texts, batch, rounds) -> list[Timing]:
            fail(f"batch {batch}")
            seconds = {(name, graphs): 1.0 for name in paths for graphs in (True, False)}
            return list(gpu_cases._timings(seconds, batch, 1))

        def compacted() -> list:
            fail("kernels")
            return [COMPACTION]

        def moved(device: HostDevice) -> list:
            fail("kernels")
            return regroup_costs(device, lengths=(4,), width=6)

        def found(backends, console, skipped) -> list:
            skipped.update({} if usable else {"tensorrt": "no such GPU"})
            return [backend] if usable else []

        monkeypatch.setattr(gpu_run, "build_case", built)
        monkeypatch.setattr(gpu_run, "time_cases", timed)
        monkeypatch.setattr(gpu_run, "compaction_costs", compacted)
        monkeypatch.setattr(gpu_run, "regroup_costs", moved)
        monkeypatch.setattr(gpu_run, "usable_backends", found)
        given = ["--out", str(tmp_path / "results" / "gpu.json"), "--precisions", "fp32", *arguments]
        return gpu_run.run(gpu_run.parser().parse_args([*given, "--texts", "6", "--rounds", "1"]))

    monkeypatch.setattr(gpu_run, "cuda_device", backend.device)
    monkeypatch.setattr(gpu_run, "flops_ratio_of", lambda method, count: 1.0)
    monkeypatch.setattr(gpu_run, "describe_machine", lambda: MACHINE)
    monkeypatch.setattr(gpu_run, "read_examples", lambda data, split: [Example(text, "no") for text in TEXTS])
    return run


@pytest.mark.parametrize("error", [GateError("it failed"), RuntimeError("it failed"), ValueError("it failed")])
@pytest.mark.parametrize("failing", [None, "ltp", "batch 8", "kernels"])
def test_the_results_file(failing: str | None, error: Exception, whole_run: WholeRun, tmp_path: Path, capsys) -> None:
    """What fails, whatever it raises, is exit code 3, and the rest is measured."""
    assert whole_run({failing: error} if failing else {}) == (3 if failing else 0)
    found = read_results(tmp_path / "results" / "gpu.json")
    assert found is not None and found.texts == 6 and found.machine == MACHINE
    expected = {("dense", False), ("transkimmer", True), ("transkimmer", False)}
    expected |= set() if failing == "ltp" else {("ltp", True), ("ltp", False)}
    assert {(case.method, case.plugin) for case in found.cases} == expected
    assert {case.accuracy for case in found.cases} == {0.5}
    assert len(found.timings) == 2 * (len(BATCHES) - (failing == "batch 8")) * len(expected)
    assert (found.regroup, found.compaction) == ([], []) if failing == "kernels" else len(found.regroup) == 1
    assert bool(found.failed) == bool(failing) and set(found.failed.values()) <= {"it failed"}
    printed = capsys.readouterr().out
    assert "| dense | tensorrt | fp32 |" in printed
    assert ("Traceback" in printed) == (failing is not None and not isinstance(error, SkimError))


def test_without_a_target_the_kernels_are_measured(whole_run: WholeRun, tmp_path: Path, capsys) -> None:
    assert whole_run({}, usable=False) == 0
    found = read_results(tmp_path / "results" / "gpu.json")
    assert found is not None and found.compaction == [COMPACTION] and len(found.regroup) == 1
    assert found.cases == [] and found.skipped == {"tensorrt": "no such GPU"}
    assert "No target was measured: tensorrt: no such GPU" in capsys.readouterr().out


def test_the_flags_choose_and_nothing_starts_when_the_time_is_over(
    whole_run: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert whole_run({}, "--methods", "ltp") == 0
    found = read_results(tmp_path / "results" / "gpu.json")
    assert found is not None and {case.method for case in found.cases} == {"dense", "ltp"} and not found.not_run
    assert whole_run({}, "--methods", "dense") == 0
    found = read_results(tmp_path / "results" / "gpu.json")
    assert found is not None and {timing.case for timing in found.timings} == {"dense tensorrt fp32 body"}
    clock = iter(range(100))  # a minute a look: kernels, regrouping and dense are started, nothing else
    monkeypatch.setattr(gpu_run.time, "monotonic", lambda: 60 * next(clock))
    assert whole_run({}, "--minutes", "3") == 0
    found = read_results(tmp_path / "results" / "gpu.json")
    assert found is not None and [case.method for case in found.cases] == ["dense"] and not found.timings
    assert found.not_run[0] == "ltp tensorrt fp32 plugin" and len(found.not_run) == 4


def test_batch_sizes_that_are_not_compiled_are_not_timed(whole_run: WholeRun, tmp_path: Path) -> None:
    assert whole_run({}, "--methods", "ltp", "--buckets", "8x16,32x16,5x16") == 0
    found = read_results(tmp_path / "results" / "gpu.json")
    assert found is not None and {timing.batch for timing in found.timings} == {8, 32}


def test_flags_that_are_not_known_are_told_at_once(whole_run: WholeRun) -> None:
    with pytest.raises(InputError, match=r"3 problem\(s\)(.|\n)*found cpu(.|\n)*found topk(.|\n)*found fp8"):
        whole_run({}, "--targets", "cpu", "--methods", "topk", "--precisions", "fp8")


def test_what_is_measured_is_not_lost_when_the_run_ends(whole_run: WholeRun, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        whole_run({"fp16": KeyboardInterrupt()}, "--precisions", "fp32,fp16")
    found = read_results(tmp_path / "results" / "gpu.json")
    assert found is not None and len(found.cases) == 5 and len(found.timings) == 10 * len(BATCHES) and found.regroup


def test_a_run_that_measures_nothing_says_what_failed(whole_run: WholeRun, tmp_path: Path) -> None:
    failing = {"dense": GateError("it failed"), "kernels": TargetError("no GPU")}
    with pytest.raises(SkimError, match=r"nothing was measured:\n(.*\n)*dense tensorrt fp32 body: it failed"):
        whole_run(failing)
    assert not (tmp_path / "results").exists()
