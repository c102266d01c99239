"""Engines that cannot be built, and how many are built at a time."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest

from engines.artifact import Artifact
from engines.backends import isolated
from engines.backends.tensorrt import TensorRtBackend
from engines.buckets import format_buckets
from engines.files import digest_tree
from pipeline import build
from pipeline.builder import compilation
from tests.gates.builds import run_verb
from tests.rtx.conftest import reports


def fail(monkeypatch: pytest.MonkeyPatch, batches: str) -> None:
    """Lets the builder process of every engine of these batch sizes die."""
    monkeypatch.setattr(isolated, "_WORKER", "tests.rtx.dying_worker")
    monkeypatch.setenv("DYING_BATCHES", batches)


def test_a_bucket_that_cannot_be_built_is_left_out_and_named(
    model: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fault 28: the others are kept, as they hold every input."""
    fail(monkeypatch, "2")
    assert run_verb(build, *model, "--out", tmp_path / "artifact") == 0
    shown = capsys.readouterr().out
    reason = "bucket 2x32: stage_0_b2_s32.plan: its builder was killed by SIGKILL; its log is "
    assert "left out of the artifact" in shown and reason in shown and "[ERROR] out of memory on the device" in shown
    artifact = Artifact.open(tmp_path / "artifact")
    manifest = artifact.manifest
    assert format_buckets(manifest.plan.buckets) == "1x32" and len(manifest.engines) == 2
    assert [list(map(str, record.profiles)) for record in manifest.engines] == [["1x32"]] * 2
    (gate,) = (gate for gate in manifest.gates if gate.name == "buckets")
    assert gate.status == "SKIPPED" and gate.reason.startswith(f"left out: {reason}")
    assert "out of memory" in artifact.file(gate.reason.split(reason)[1]).read_text(), "the log is in the artifact"
    assert {Path(name).suffix for name in manifest.files if "_b2_" in name} == {".log"}


def test_without_any_complete_bucket_nothing_is_published(
    model: tuple[object, ...], copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest_tree(copied)
    fail(monkeypatch, "1,2")
    assert run_verb(build, *model, "--out", copied, "--force") == 3
    error = capsys.readouterr().err
    assert "4 of 4 profiles could not be compiled" in error and "[ERROR] out of memory on the device" in error
    log = Path(error.split("its log is ")[1].splitlines()[0])
    assert "out of memory" in log.read_text(), "it stays where the error says"
    assert digest_tree(copied) == before


def test_the_longest_bucket_cannot_be_left_out(
    model: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(monkeypatch, "2")
    arguments = ("--buckets", "1x16,2x32", "--out", tmp_path / "artifact")
    assert run_verb(build, *model, *arguments) == 3
    assert "1 bucket(s) could not be built, and the others do not hold every input" in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


def test_the_largest_engine_shows_how_much_memory_one_takes(
    model: tuple[object, ...], tmp_path: Path, compiled: list[str]
) -> None:
    buckets = ("--buckets", "1x16,1x32,2x32")
    assert run_verb(build, *model, *buckets, "--compute-capability", "8.9", "--out", tmp_path / "artifact") == 0
    assert compiled == ["stage_0.plan", "stage_1.plan"]


def test_builders_really_run_side_by_side(
    model: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory and cores allow two: neither of the second and the third engine ends before both have started."""
    together, turn, compile_one = threading.Barrier(2, timeout=60), itertools.count(), TensorRtBackend.build

    def build_one(self, *call):
        if next(turn) in (1, 2):  # the first one is alone, to see what it takes
            together.wait()
        return compile_one(self, *call)

    monkeypatch.setattr(TensorRtBackend, "build", build_one)
    monkeypatch.setattr(TensorRtBackend, "most_profiles", 1)
    monkeypatch.setattr(compilation, "_free_memory", lambda: 1 << 40)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert run_verb(build, *model, "--compute-capability", "8.9", "--out", tmp_path / "artifact") == 0
    assert next(turn) == 4
    names = sorted(path.stem for path in (tmp_path / "artifact").rglob("*.plan"))
    assert names == ["stage_0_b1_s32", "stage_0_b2_s32", "stage_1_b1_s32", "stage_1_b2_s32"]


@pytest.mark.parametrize(("available", "expected"), [(10.0, 2), (0.5, 1), (0.01, 1)])
def test_so_many_builders_as_memory_holds(
    monkeypatch: pytest.MonkeyPatch, fp16: Path, available: float, expected: int
) -> None:
    peak = max(report.peak_bytes for report in reports(fp16))
    monkeypatch.setattr(compilation, "_free_memory", lambda: int(available * peak))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert compilation.builders_side_by_side(peak) == expected
