"""What `make test-gpu` runs, as far as a machine without a GPU can: the refusal, the timings, the results file."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import gpu_run
from calib.data import Example
from engines.artifact import Artifact, Gate
from engines.backends import BACKENDS
from engines.errors import GateError, TargetError
from pipeline.gpu_results import Case, Machine, Timing, read_results
from tests.engines.conftest import toy_artifact  # noqa: F401 (a fixture)
from tests.engines.host_device import HostDevice, HostDeviceBackend, plain_regroup
from tests.engines.toy import Toy

ROOT = Path(__file__).parents[1]
GPU_BACKENDS = [backend for backend in BACKENDS if backend.target.startswith("tensorrt")]
TEXTS = [" ".join(f"w{4 + (n * i) % 50}" for i in range(1, 3 + n % 9)) for n in range(20)]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.mark.skipif(
    any(backend.available() is None for backend in GPU_BACKENDS), reason="this machine can run a GPU target"
)
def test_without_a_gpu_it_exits_with_4_and_says_what_is_missing() -> None:
    command = [sys.executable, "benchmarks/gpu_run.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "this machine cannot run a GPU target; missing:" in done.stderr
    assert all(f"- {target}: " in done.stderr for target in ("tensorrt", "tensorrt-rtx"))


def test_every_gpu_target_is_asked(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {backend.target for backend in GPU_BACKENDS} == set(gpu_run._LIBRARIES)
    one, other = GPU_BACKENDS
    monkeypatch.setattr(type(one), "available", lambda self: None)
    monkeypatch.setattr(type(other), "available", lambda self: "no such GPU")
    assert gpu_run.usable_backends(BACKENDS, console) == [one]
    assert f"SKIPPED  - {other.target}: no such GPU" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(TargetError, match="no such GPU"):
        gpu_run.usable_backends([other], console)


def test_every_case_is_timed_with_and_without_graphs(toy_artifact) -> None:  # noqa: F811
    paths = {"dense": toy_artifact(Toy(thresholds=())), "pruned": toy_artifact(Toy())}
    timings = gpu_run.time_cases(paths, "cpu", TEXTS, (1, 3), rounds=2)
    keys = {(t.case, t.batch, t.cuda_graphs) for t in timings}
    assert keys == {(name, batch, graphs) for name in paths for batch in (1, 3) for graphs in (True, False)}
    assert all(t.seconds > 0 and t.streams == (1 if t.batch == 1 else 2) for t in timings)


def test_regrouping_is_timed_as_one_graph() -> None:
    device = HostDevice(plain_regroup)
    costs = gpu_run.regroup_costs(device, lengths=(4, 8), width=6)
    assert [(cost.batch, cost.length, cost.row_bytes) for cost in costs] == [(8, 4, 12), (8, 8, 12)]
    assert device.traffic.captures == 2 and device.traffic.launches == 20
    assert all(np.isfinite(cost.microseconds) and cost.microseconds > 0 for cost in costs)


@pytest.mark.parametrize("failing", [None, "ltp"])
def test_the_results_file(
    failing: str | None,
    toy_artifact,  # noqa: F811
    tmp_path: Path,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    """The whole run, with toy models and no clock. A failed gate is exit code 3, and the rest is measured."""
    inner = next(backend for backend in BACKENDS if backend.target == "cpu" and backend.available() is None)
    backend = HostDeviceBackend(inner, HostDevice(plain_regroup))

    def built(method, target, precision, plugin, flops, args, console) -> tuple[Case, Path]:
        if method == failing:
            raise GateError("a gate failed")
        path = toy_artifact(Toy(thresholds=()) if method == "dense" else Toy())
        artifact = Artifact.open(path)
        gates = [Gate(name="task metric", status="PASSED", figures={"metric": 0.5})]
        artifact.manifest = artifact.manifest.model_copy(update={"gates": gates})
        return gpu_run.case_of(artifact, method, "tensorrt", plugin, 1.0, flops, console), path

    def timed(paths, target, texts, batches, rounds) -> list[Timing]:
        keys = [(name, batch, graphs) for name in paths for batch in batches for graphs in (True, False)]
        return [Timing(case=n, batch=b, cuda_graphs=g, streams=1, seconds=1.0) for n, b, g in keys]

    machine = Machine(gpu="G", compute_capability="8.9", driver="1", cuda="13.0", processor="C", tools={})
    monkeypatch.setattr(gpu_run, "usable_backends", lambda backends, console: [backend])
    monkeypatch.setattr(gpu_run, "build_case", built)
    monkeypatch.setattr(gpu_run, "flops_ratio_of", lambda method, count: 1.0)
    monkeypatch.setattr(gpu_run, "describe_machine", lambda: machine)
    monkeypatch.setattr(gpu_run, "read_examples", lambda data, split: [Example(text, "no") for text in TEXTS])
    out = tmp_path / "results" / "gpu.json"
    arguments = ["--out", str(out), "--precisions", "fp32", "--texts", "6", "--rounds", "1"]
    monkeypatch.setattr(gpu_run, "time_cases", timed)
    assert gpu_run.run(gpu_run.parser().parse_args(arguments)) == (3 if failing else 0)
    found = read_results(out)
    assert found is not None and found.texts == 6 and found.machine == machine
    expected = {("dense", False), ("transkimmer", True), ("transkimmer", False)}
    expected |= set() if failing else {("ltp", True), ("ltp", False)}
    assert {(case.method, case.plugin) for case in found.cases} == expected
    assert {case.accuracy for case in found.cases} == {0.5} and len(found.timings) == 4 * len(expected)
    assert "| dense | tensorrt | fp32 |" in capsys.readouterr().out
