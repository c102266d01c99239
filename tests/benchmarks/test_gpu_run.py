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

from benchmarks import gpu_run
from benchmarks.gpu_results import Case, Machine, Timing, read_results
from calib.data import Example
from engines.artifact import Artifact, Gate
from engines.backends import BACKENDS, tensorrt
from engines.binding import Gpu
from engines.errors import GateError, SkimError, TargetError
from pipeline.builder.config import BuildConfig
from tests.engines.conftest import toy_artifact  # noqa: F401 (a fixture)
from tests.engines.host_device import HostDevice, HostDeviceBackend, plain_regroup
from tests.engines.toy import Toy

ROOT = Path(__file__).parents[2]
GPU_BACKENDS = [backend for backend in BACKENDS if backend.target.startswith("tensorrt")]
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
    assert {backend.target for backend in GPU_BACKENDS} == set(gpu_run._LIBRARIES)
    one, other = GPU_BACKENDS
    monkeypatch.setattr(one, "cannot_run", lambda options: None)
    monkeypatch.setattr(other, "cannot_run", lambda options: "no such GPU")
    assert gpu_run.usable_backends(BACKENDS, console) == [one]
    assert f"SKIPPED  - {other.target}: no such GPU" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(TargetError, match="no such GPU"):
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
    standard, rtx = GPU_BACKENDS
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
    monkeypatch.setattr(gpu_run, "build", lambda config, console: configs.append(config))
    monkeypatch.setattr(gpu_run, "case_of", lambda *arguments: None)
    args = gpu_run.parser().parse_args(["--artifacts", str(tmp_path)])
    for backend in usable:
        gpu_run.build_case("dense", backend, "fp32", False, 1.0, args, console)
    assert [config.compute_capability for config in configs] == [(), built_for]


def test_every_case_is_timed_with_and_without_graphs(toy_artifact) -> None:  # noqa: F811
    paths = {"dense": toy_artifact(Toy(thresholds=())), "pruned": toy_artifact(Toy())}
    timings = [timing for batch in (1, 3) for timing in gpu_run.time_cases(paths, "cpu", TEXTS, batch, rounds=2)]
    keys = {(t.case, t.batch, t.cuda_graphs) for t in timings}
    assert keys == {(name, batch, graphs) for name in paths for batch in (1, 3) for graphs in (True, False)}
    assert all(t.seconds > 0 and t.streams == (1 if t.batch == 1 else 2) for t in timings)


def test_regrouping_is_timed_as_one_graph() -> None:
    device = HostDevice(plain_regroup)
    costs = gpu_run.regroup_costs(device, lengths=(4, 8), width=6)
    assert [(cost.batch, cost.length, cost.row_bytes) for cost in costs] == [(8, 4, 12), (8, 8, 12)]
    assert device.traffic.captures == 2 and device.traffic.launches == 20
    assert all(np.isfinite(cost.microseconds) and cost.microseconds > 0 for cost in costs)


@pytest.fixture
def whole_run(toy_artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:  # noqa: F811
    """Runs all of it, with toy models and no clock; `failing` names a step and what it raises. Writes gpu.json."""
    inner = next(backend for backend in BACKENDS if backend.target == "cpu" and backend.available() is None)
    backend = HostDeviceBackend(inner, HostDevice(plain_regroup))

    def run(failing: dict[object, BaseException], precisions: str = "fp32") -> int:
        def fail(*steps: object) -> None:
            for error in (failing[step] for step in steps if step in failing):
                raise error

        def built(method, backend, precision, plugin, flops, args, console) -> tuple[Case, Path]:
            fail(method, precision)
            path = toy_artifact(Toy(thresholds=()) if method == "dense" else Toy())
            artifact = Artifact.open(path)
            gates = [Gate(name="task metric", status="PASSED", figures={"metric": 0.5})]
            artifact.manifest = artifact.manifest.model_copy(update={"gates": gates})
            return gpu_run.case_of(artifact, method, "tensorrt", plugin, 1.0, flops, console), path

        def timed(paths, target, texts, batch, rounds) -> list[Timing]:
            fail(f"batch {batch}")
            keys = [(name, graphs) for name in paths for graphs in (True, False)]
            return [Timing(case=n, batch=batch, cuda_graphs=g, streams=1, seconds=1.0) for n, g in keys]

        monkeypatch.setattr(gpu_run, "build_case", built)
        monkeypatch.setattr(gpu_run, "time_cases", timed)
        arguments = ["--out", str(tmp_path / "results" / "gpu.json"), "--precisions", precisions]
        return gpu_run.run(gpu_run.parser().parse_args([*arguments, "--texts", "6", "--rounds", "1"]))

    monkeypatch.setattr(gpu_run, "usable_backends", lambda backends, console: [backend])
    monkeypatch.setattr(gpu_run, "flops_ratio_of", lambda method, count: 1.0)
    monkeypatch.setattr(gpu_run, "describe_machine", lambda: MACHINE)
    monkeypatch.setattr(gpu_run, "read_examples", lambda data, split: [Example(text, "no") for text in TEXTS])
    return run


@pytest.mark.parametrize("failing", [None, "ltp", "batch 8"])
def test_the_results_file(failing: str | None, whole_run: Callable[..., int], tmp_path: Path, capsys) -> None:
    """What fails, a gate or the timing, is exit code 3, and the rest is measured."""
    assert whole_run({failing: GateError("it failed")} if failing else {}) == (3 if failing else 0)
    found = read_results(tmp_path / "results" / "gpu.json")
    assert found is not None and found.texts == 6 and found.machine == MACHINE
    expected = {("dense", False), ("transkimmer", True), ("transkimmer", False)}
    expected |= set() if failing == "ltp" else {("ltp", True), ("ltp", False)}
    assert {(case.method, case.plugin) for case in found.cases} == expected
    assert {case.accuracy for case in found.cases} == {0.5}
    assert len(found.timings) == (2 if failing == "batch 8" else 4) * len(expected)
    assert "| dense | tensorrt | fp32 |" in capsys.readouterr().out


def test_what_is_measured_is_not_lost_when_the_run_ends(whole_run: Callable[..., int], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        whole_run({"fp16": KeyboardInterrupt()}, precisions="fp32,fp16")
    found = read_results(tmp_path / "results" / "gpu.json")
    assert found is not None and len(found.cases) == 5 and len(found.timings) == 20 and found.regroup


def test_a_run_that_measures_nothing_says_what_failed(whole_run: Callable[..., int], tmp_path: Path) -> None:
    with pytest.raises(SkimError, match=r"nothing was measured:\ndense cpu fp32 plugin False: it failed"):
        whole_run({"dense": GateError("it failed")})
    assert not (tmp_path / "results").exists()
