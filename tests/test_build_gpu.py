"""Builds for GPU targets on a machine without a GPU: real engines of TensorRT-RTX, exports, machines added, crashes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import Runner
from engines.artifact import Artifact
from engines.backends import records_for, tensorrt
from engines.backends.base import EngineOptions
from engines.backends.tensorrt import TensorRtBackend
from engines.backends.tensorrt_rtx import TensorRtRtxBackend
from engines.binding import Gpu
from engines.buckets import format_buckets
from engines.errors import BuildError, InputError, TargetError
from engines.files import digest_tree
from pipeline import build, builder, inspect, memory
from pipeline.compilation import EngineReport
from pipeline.config import BuildConfig
from pipeline.target import BuildTarget
from plugins.library import ENVIRONMENT_VARIABLE
from tests.engines.test_tensorrt import LIBRARY
from tests.gates.builds import classifier, run_verb

BUCKETS = "1x32,2x32"
RTX = ("--target", "tensorrt-rtx", "--buckets", BUCKETS, "--samples", 12, "--threads", 1, "--stages", 2)
GPU_GATES = ("numeric: engines (tensorrt-rtx)", "decisions", "task metric")


@pytest.fixture(autouse=True, scope="module")
def no_gpu() -> Iterator[None]:
    """TensorRT-RTX, without which nothing here can be built, on a machine without a GPU."""
    reason = TensorRtRtxBackend().missing_to_build()
    if reason is not None:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt, "find_gpu", lambda: "no NVIDIA driver is installed")
        yield


@pytest.fixture
def model(tiny_tokenizer: Path, fp16: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """The arguments that name a small LTP model and its data, whose graphs are taken instead of exported again."""
    built = classifier(tiny_tokenizer)
    graphs = {"fp32": built.artifact / "stages", "fp16": fp16 / "stages"}

    def export(stage: object, config: object, path: Path, precision: str) -> None:
        shutil.copyfile(graphs[precision] / path.name, path)

    monkeypatch.setattr(builder, "export_stage", export)
    return ("--checkpoint", built.checkpoint, "--data", built.data, *RTX)


@pytest.fixture(scope="module")
def fp16(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact in fp16; shared, do not change it."""
    built = classifier(tiny_tokenizer)
    out = tmp_path_factory.mktemp("rtx") / "artifact"
    arguments = ("--checkpoint", built.checkpoint, "--data", built.data, *RTX, "--precision", "fp16")
    assert run_verb(build, *arguments, "--out", out) == 0
    return out


def reports(artifact: Path) -> list[EngineReport]:
    """The report of every engine."""
    found = Artifact.open(artifact)
    names = [record.report for record in found.manifest.engines]
    return [EngineReport.model_validate_json(found.file(str(name)).read_bytes()) for name in names]


def plugin_layers(report: EngineReport) -> int:
    """Layers of an engine that are plugins."""
    return sum(layer.kind == "custom_layer" for layer in report.layers)


def test_engines_are_built_and_what_needs_a_gpu_is_skipped_by_name(fp16: Path) -> None:
    manifest = Artifact.open(fp16).manifest
    assert len(manifest.engines) == 4 and manifest.plan.precision == "fp16"
    place = {record.place for record in manifest.engines}
    assert len(place) == 1 and place.pop().endswith("-sm80-sm86-sm89-sm120")
    assert all(record.file.startswith("engines/tensorrt-rtx-fp16/") for record in manifest.engines)
    gates = {gate.name: gate for gate in manifest.gates}
    for name in GPU_GATES:
        assert gates[name].status == "SKIPPED" and "no NVIDIA driver" in gates[name].reason
    assert gates["reference"].status == gates["numeric: graphs"].status == "PASSED"
    assert 0 < gates["numeric: graphs"].figures["error_over_pytorchs"] <= 2
    for report in reports(fp16):
        assert plugin_layers(report) == 0 and report.size > 0 and report.seconds > 0 and report.peak_bytes > 50e6


def test_attention_is_counted(fp16: Path) -> None:
    """Both layers of this model decide, so no attention can be fused; the gate says so instead of passing."""
    (gate,) = (gate for gate in Artifact.open(fp16).manifest.gates if gate.name.startswith("fused attention"))
    assert gate.figures == {"engines": 4, "fusible": 0, "fused": 0}
    assert (gate.status, gate.reason) == ("SKIPPED", "every attention feeds a score")


def test_the_plugin_and_the_gpus_are_chosen(
    model: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not LIBRARY.is_file():
        pytest.skip("the plugin library is not built: it needs nvcc")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(LIBRARY))
    out = tmp_path / "artifact"
    assert run_verb(build, *model, "--plugin", "--compute-capability", "8.9, 12.0", "--jobs", 2, "--out", out) == 0
    artifact = Artifact.open(out)
    assert (out / "plugins" / LIBRARY.name).read_bytes() == LIBRARY.read_bytes()
    digest = artifact.manifest.files[f"plugins/{LIBRARY.name}"]
    for record, report in zip(artifact.manifest.engines, reports(out), strict=True):
        assert record.binding is not None and record.binding.compute_capabilities == ("8.9", "12.0")
        assert record.binding.plugin == digest
        assert plugin_layers(report) == (record.stage == 0), "one at every stage end, none behind the last stage"


def test_the_artifact_is_refused_where_it_cannot_run(
    fp16: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(TargetError, match="tensorrt-rtx through tensorrt-rtx: no NVIDIA driver"):
        Runner(fp16)
    capsys.readouterr()
    assert run_verb(inspect, fp16) == 0
    assert "sm80-sm86-sm89-sm120" in capsys.readouterr().out


def test_engines_for_no_machine_like_this_name_the_command_that_adds_them(
    fp16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 21."""
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: Gpu("NVIDIA H100", "9.0", "13.0", None))
    manifest = Artifact.open(fp16).manifest
    with pytest.raises(TargetError) as caught:
        records_for(manifest, TensorRtRtxBackend())
    message = str(caught.value)
    assert "built for compute capability 8.0, 8.6, 8.9, 12.0, here is NVIDIA H100 (9.0)" in message
    assert f"python -m pipeline.build --checkpoint {manifest.checkpoint.path}" in message
    assert "--target tensorrt-rtx --precision fp16" in message


def test_engines_for_other_gpus_than_this_machines_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: Gpu("NVIDIA H100", "9.0", "13.0", None))
    monkeypatch.setattr(tensorrt, "missing_cuda", lambda: None)
    found = BuildTarget.of(BuildConfig(target="tensorrt-rtx")).cannot_run
    assert found == "built for compute capability 8.0, 8.6, 8.9, 12.0, here is NVIDIA H100 (9.0)"
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: Gpu("NVIDIA L4", "8.9", "13.0", None))
    assert BuildTarget.of(BuildConfig(target="tensorrt-rtx")).cannot_run is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "tensorrt"), 4, "the package tensorrt is not installed"),
        (("--compute-capability", "9.0"), 2, "compute capability 9.0: expected one of 7.5, 8.0"),
        (("--compute-capability", "89"), 2, "compute_capability.0: "),
        (("--workspace", "64"), 2, "workspace: the target tensorrt-rtx has no such option"),
    ],
)
def test_what_this_machine_or_target_lacks(
    model: tuple[object, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, str],
    code: int,
    message: str,
) -> None:
    assert run_verb(build, *model, *arguments, "--out", tmp_path / "artifact") == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


@pytest.fixture
def copied(fp16: Path, tmp_path: Path) -> Path:
    """A copy of the fp16 artifact to build over."""
    return Path(shutil.copytree(fp16, tmp_path / "artifact"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the engines that are compiled from now on."""
    names: list[str] = []
    compile_one = TensorRtBackend.build

    def build_one(self, stage_graph, bucket, out, options=EngineOptions(), report=None):  # noqa: B008
        names.append(out.name)
        return compile_one(self, stage_graph, bucket, out, options, report)

    monkeypatch.setattr(TensorRtBackend, "build", build_one)
    return names


def test_another_machine_adds_its_engines(model: tuple[object, ...], copied: Path, compiled: list[str]) -> None:
    before = Artifact.open(copied).manifest
    arguments = (*model, "--precision", "fp16", "--out", copied)
    assert run_verb(build, *arguments, "--compute-capability", "8.9") == 0
    after = Artifact.open(copied).manifest
    assert after.engines[: len(before.engines)] == before.engines and len(after.engines) == 2 * len(before.engines)
    assert {
        name: after.files[name] for name in before.files if name.startswith("engines/")
    }.items() <= after.files.items()
    assert len([gate for gate in after.gates if gate.name.startswith("fused attention")]) == 2
    assert len(compiled) == 4
    # For this machine there are engines now: they are not replaced unasked.
    assert run_verb(build, *arguments, "--compute-capability", "8.9") == 2


def test_what_did_not_change_is_taken_from_the_artifact_that_is_replaced(
    model: tuple[object, ...], copied: Path, compiled: list[str]
) -> None:
    before = Artifact.open(copied).manifest
    arguments = ("--precision", "fp16", "--buckets", "1x16,1x32,2x32", "--out", copied, "--force")
    assert run_verb(build, *model, *arguments) == 0
    after = Artifact.open(copied).manifest
    assert sorted(compiled) == ["stage_0_b1_s16.plan", "stage_1_b1_s16.plan"]
    kept = [record for record in before.engines if record in after.engines]
    assert kept == before.engines and all(after.files[r.file] == before.files[r.file] for r in kept)


def test_a_damaged_engine_is_not_taken_over(model: tuple[object, ...], copied: Path, compiled: list[str]) -> None:
    """Fault 22."""
    engine = copied / Artifact.open(copied).manifest.engines[0].file
    engine.write_bytes(engine.read_bytes()[:-1])
    assert run_verb(build, *model, "--precision", "fp16", "--out", copied, "--force") == 0
    assert compiled == [engine.name]
    Artifact.open(copied)


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from pipeline import build, builder
from pipeline.cli import main_of
from pipeline.publish import Publisher
last, graphs = int(sys.argv.pop(1)), Path(sys.argv.pop(1))
builder.export_stage = lambda *call: shutil.copyfile(graphs / call[2].name, call[2])
mark, marked = Publisher.mark, []
def mark_and_die(self, step):
    mark(self, step)
    marked.append(step)
    if len(marked) == last:
        os.kill(os.getpid(), signal.SIGKILL)
Publisher.mark = mark_and_die
if last == 0:
    Publisher.publish = lambda self: os.kill(os.getpid(), signal.SIGKILL)
main_of(build.parser, build.run)
"""


@pytest.mark.parametrize(("marked", "left"), [(2, 4), (5, 2), (0, 0)], ids=["graphs", "engines", "publishing"])
def test_a_killed_build_leaves_the_old_artifact_and_goes_on(
    model: tuple[object, ...], tiny_tokenizer: Path, copied: Path, compiled: list[str], marked: int, left: int
) -> None:
    """Fault 24: in the middle of the graphs, of the engines, and before the artifact is published."""
    graphs = str(classifier(tiny_tokenizer).artifact / "stages")
    before = digest_tree(copied)
    arguments = list(map(str, [*model, "--compute-capability", "8.6", "--out", copied, "--force"]))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(marked), graphs, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert digest_tree(copied) == before
    Artifact.open(copied)
    assert run_verb(build, *arguments) == 0
    assert len(compiled) == left
    manifest = Artifact.open(copied).manifest
    assert manifest.plan.precision == "fp32" and len(manifest.engines) == 4


def fail(monkeypatch: pytest.MonkeyPatch, batches: tuple[int, ...]) -> None:
    """Lets every engine of these batch sizes fail as one does whose builder dies."""
    compile_one = TensorRtBackend.build

    def build_one(self, stage_graph, bucket, out, *rest):
        if bucket.batch in batches:
            raise BuildError(f"{out.name}: its builder was killed by SIGKILL; its log (x.log) ends:\n    out of memory")
        return compile_one(self, stage_graph, bucket, out, *rest)

    monkeypatch.setattr(TensorRtBackend, "build", build_one)


def test_a_bucket_that_cannot_be_built_is_left_out_and_named(
    model: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fault 28: the others are kept, as they hold every input."""
    fail(monkeypatch, (2,))
    assert run_verb(build, *model, "--out", tmp_path / "artifact") == 0
    shown = capsys.readouterr().out
    assert "left out of the artifact" in shown and "bucket 2x32: stage_0_b2_s32.plan: its builder was killed" in shown
    manifest = Artifact.open(tmp_path / "artifact").manifest
    assert format_buckets(manifest.plan.buckets) == "1x32" and len(manifest.engines) == 2
    assert not [name for name in manifest.files if "_b2_" in name]
    (gate,) = (gate for gate in manifest.gates if gate.name == "buckets")
    assert gate.status == "SKIPPED" and gate.reason.startswith("left out: bucket 2x32: stage_0_b2_s32.plan")


def test_without_any_complete_bucket_nothing_is_published(
    model: tuple[object, ...], copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest_tree(copied)
    fail(monkeypatch, (1, 2))
    assert run_verb(build, *model, "--out", copied, "--force") == 3
    error = capsys.readouterr().err
    assert "4 of 4 engines could not be compiled" in error and "out of memory" in error
    assert digest_tree(copied) == before


def test_the_longest_bucket_cannot_be_left_out(
    model: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(monkeypatch, (2,))
    arguments = ("--buckets", "1x16,2x32", "--out", tmp_path / "artifact")
    assert run_verb(build, *model, *arguments) == 3
    assert "1 bucket(s) could not be built, and the others do not hold every input" in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


def test_an_export_holds_what_a_gpu_host_needs(model: tuple[object, ...], tmp_path: Path) -> None:
    if not LIBRARY.is_file():
        pytest.skip("the plugin library is not built: it needs nvcc")
    out = tmp_path / "artifact"
    assert run_verb(build, *model, "--target", "tensorrt", "--precision", "fp16", "--export-only", "--out", out) == 0
    manifest = Artifact.open(out).manifest
    assert manifest.engines == [] and manifest.build_arguments[:2] == ["--checkpoint", str(model[1])]
    assert {f"plugins/{LIBRARY.name}", "scripts/trtexec.sh", "scripts/polygraphy.sh"} <= set(manifest.files)
    assert any(name.startswith("polygraphy/") for name in manifest.files)
    statuses = {gate.name: gate.status for gate in manifest.gates}
    assert statuses.pop("reference") == statuses.pop("numeric: graphs") == "PASSED"
    assert set(statuses.values()) == {"SKIPPED"}
    with pytest.raises(InputError, match=r"the artifact holds no engines; finish it with pipeline\.build"):
        Runner(out)


def test_the_largest_engine_shows_how_much_memory_one_takes(
    model: tuple[object, ...], tmp_path: Path, compiled: list[str]
) -> None:
    buckets = ("--buckets", "1x16,1x32,2x32")
    assert run_verb(build, *model, *buckets, "--compute-capability", "8.9", "--out", tmp_path / "artifact") == 0
    assert compiled[0] == "stage_0_b2_s32.plan" and len(compiled) == 6


@pytest.mark.parametrize(("available", "expected"), [(10.0, 2), (0.5, 1), (0.01, 1)])
def test_so_many_builders_as_memory_holds(
    monkeypatch: pytest.MonkeyPatch, fp16: Path, available: float, expected: int
) -> None:
    peak = max(report.peak_bytes for report in reports(fp16))
    monkeypatch.setattr(memory, "_free_memory", lambda: int(available * peak))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert memory.builders_side_by_side(peak) == expected
