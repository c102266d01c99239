"""Builds for GPU targets on a machine without a GPU: real engines of TensorRT-RTX, exports, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from engines import Runner
from engines.artifact import Artifact
from engines.backends import records_for, tensorrt
from engines.backends.tensorrt_rtx import TensorRtRtxBackend, unpacked
from engines.binding import Gpu
from engines.errors import InputError, TargetError
from engines.files import sha256
from pipeline import build, inspect
from pipeline.builder import contents
from pipeline.builder.compilation import ProfileReport
from pipeline.builder.config import BuildConfig
from pipeline.builder.target import BuildTarget
from plugins import library
from plugins.library import ENVIRONMENT_VARIABLE
from tests.engines.test_tensorrt import LIBRARY
from tests.gates.builds import run_verb
from tests.rtx.conftest import reports

GPU_GATES = ("numeric: engines (tensorrt-rtx)", "decisions", "task metric")


def plugin_layers(profile: ProfileReport) -> int:
    """Layers of a profile that are plugins."""
    return sum(layer.kind == "custom_layer" for layer in profile.layers)


def test_engines_are_built_and_what_needs_a_gpu_is_skipped_by_name(fp16: Path) -> None:
    manifest = Artifact.open(fp16).manifest
    assert len(manifest.engines) == 2 and manifest.plan.precision == "fp16"
    place = {record.machine for record in manifest.engines}
    assert len(place) == 1 and place.pop().endswith("-sm80-sm86-sm89-sm120")
    assert all(record.file.startswith("engines/tensorrt-rtx-fp16/") for record in manifest.engines)
    gates = {gate.name: gate for gate in manifest.gates}
    for name in GPU_GATES:
        assert gates[name].status == "SKIPPED" and "no NVIDIA driver" in gates[name].reason
    assert gates["reference"].status == gates["numeric: graphs"].status == "PASSED"
    assert 0 < gates["numeric: graphs"].figures["error_over_pytorchs"] <= 2
    for report in reports(fp16):
        assert report.size > 0 and report.seconds > 0 and report.peak_bytes > 50e6
        assert [str(profile.bucket) for profile in report.profiles] == ["1x32", "2x32"]
        assert all(plugin_layers(profile) == 0 and len(profile.layers) > 5 for profile in report.profiles)
    for record in manifest.engines:  # the sources of its kernels are most of a small plan
        content = np.frombuffer((fp16 / record.file).read_bytes(), np.uint8)
        plan = unpacked(fp16 / record.file, content)
        assert plan[1:4].tobytes() == b"trt" and len(content) < len(plan) / 3


def test_attention_is_counted(fp16: Path) -> None:
    """Both layers of this model decide, and its heads are narrow; the gate says so instead of passing."""
    (gate,) = (gate for gate in Artifact.open(fp16).manifest.gates if gate.name.startswith("fused attention"))
    assert gate.figures == {"profiles": 4, "fusible": 0, "fused": 0}
    assert (gate.status, gate.reason) == ("SKIPPED", "no library fuses attention with heads of 8 columns")


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
        counts = [plugin_layers(profile) for profile in report.profiles]
        assert counts == [record.stage == 0] * 2, "one at every stage end, none behind the last stage"


def test_a_plugin_library_that_is_changed_while_engines_are_built(
    model: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engines are bound to the digest that it had when the build began."""
    if not LIBRARY.is_file():
        pytest.skip("the plugin library is not built: it needs nvcc")
    for path in LIBRARY.parent.glob("*.so"):
        shutil.copyfile(path, tmp_path / path.name)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / LIBRARY.name))
    copy = library.copy_plugins

    def change_and_copy(folder: Path) -> None:
        with (tmp_path / LIBRARY.name).open("ab") as file:
            file.write(b"changed")
        copy(folder)

    monkeypatch.setattr(contents, "copy_plugins", change_and_copy)
    arguments = ("--plugin", "--compute-capability", "8.9", "--buckets", "1x32", "--out", tmp_path / "artifact")
    assert run_verb(build, *model, *arguments) == 3
    assert f"expected SHA-256 {sha256(LIBRARY)}, found another one" in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


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
        (("--target", "tensorrt"), 4, "no NVIDIA driver is installed. --export-only writes"),
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
    assert {statuses.pop(name) for name in ("reference", "numeric: graphs", "provenance")} == {"PASSED"}
    assert set(statuses.values()) == {"SKIPPED"}
    with pytest.raises(InputError, match=r"the artifact holds no engines; finish it with pipeline\.build"):
        Runner(out)
