"""python -m pipeline.parity: 0 on what was built, 3 and the place on what was changed, 2 on what cannot be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines.artifact import Artifact
from engines.manifest import Gate
from engines.manifest_file import sealed, write_manifest
from pipeline import gates as gates_of_parity
from pipeline import parity
from pipeline.graph.once import ExportOnce
from tests.gates.builds import Built, classifier, reseal, reversed_labels, run_verb, set_attribute
from tests.graph.small import small_model

EXPORT = ExportOnce()
STAGE_0, ENGINE_1 = "stages/stage_0.onnx", "engines/cpu-fp32/stage_1.onnx"


@pytest.fixture(autouse=True)
def exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity exports the stages of the classifier once for all tests."""
    monkeypatch.setattr(parity, "export_stage", EXPORT)


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The classifier of the session."""
    return classifier(tiny_tokenizer)


@pytest.fixture
def artifact(built: Built, tmp_path: Path) -> Path:
    """A copy of its artifact to change."""
    return built.copied(tmp_path)


def check(capsys: pytest.CaptureFixture[str], artifact: Path, *more: object) -> tuple[int, dict[str, Gate]]:
    """The exit code and the gates by name."""
    capsys.readouterr()
    code = run_verb(parity, artifact, "--samples", 12, "--threads", 1, "--json", *more)
    gates = [Gate(**gate) for gate in json.loads(capsys.readouterr().out)]
    return code, {gate.name: gate for gate in gates}


def raise_threshold(artifact: Path) -> None:
    """By the smallest step that there is, which no score may lie in."""
    threshold = np.float32(small_model("ltp", layers=2).pruner.threshold(1))
    set_attribute(artifact / STAGE_0, "threshold", float(np.nextafter(threshold, np.float32(1))))


def test_a_dense_model_of_another_task_is_refused(
    capsys: pytest.CaptureFixture[str], built: Built, tmp_path: Path
) -> None:
    other = reversed_labels(built, tmp_path)
    assert run_verb(parity, built.artifact, "--samples", 4, "--threads", 1, "--dense", other) == 2
    assert f"error: --dense {other}, which has another task" in capsys.readouterr().err


def test_what_was_built_holds(capsys: pytest.CaptureFixture[str], built: Built) -> None:
    code, gates = check(capsys, built.artifact)
    assert code == 0
    assert {name: gate.status for name, gate in gates.items()} == {
        "integrity": "PASSED",
        "provenance": "PASSED",
        "reference": "PASSED",
        "numeric: graphs": "PASSED",
        "numeric: engines (cpu)": "PASSED",
        "decisions": "PASSED",
        "task metric": "SKIPPED",
    }
    assert "--dense" in gates["task metric"].reason


def test_both_libraries_run_the_same_engines(capsys: pytest.CaptureFixture[str], built: Built) -> None:
    code, gates = check(capsys, built.artifact, "--provider", "onnxruntime", "--dense", built.dense, "--max-drop", 100)
    assert code == 0 and {gate.status for gate in gates.values()} == {"PASSED"}


def test_a_lost_metric_is_no_parity(capsys: pytest.CaptureFixture[str], built: Built) -> None:
    code, gates = check(capsys, built.artifact, "--dense", built.dense, "--max-drop", "1")
    assert code == 3 and [name for name, gate in gates.items() if gate.status == "FAILED"] == ["task metric"]


def test_a_threshold_changed_by_hand_is_found_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], artifact: Path
) -> None:
    raise_threshold(artifact)
    code, gates = check(capsys, artifact)
    assert code == 3 and gates.pop("integrity").status == "FAILED"
    assert {gate.status for gate in gates.values()} == {"SKIPPED"}
    run_verb(parity, artifact)
    assert f"{STAGE_0}: expected SHA-256" in capsys.readouterr().out


def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves what is wrong to the gates behind gate 5."""
    passed = Gate(name="provenance", status="PASSED")
    monkeypatch.setattr(gates_of_parity, "provenance", lambda *_: passed)


def test_a_threshold_changed_by_hand_and_sealed_is_found_by_its_value(
    capsys: pytest.CaptureFixture[str], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_threshold(artifact)
    reseal(artifact)
    code, gates = check(capsys, artifact)
    assert code == 3 and gates["integrity"].status == "PASSED"
    assert [name for name, gate in gates.items() if gate.status == "FAILED"] == ["provenance"]
    assert gates["provenance"].reason.startswith(f"{STAGE_0}: operator ")
    assert gates["provenance"].reason.endswith(": threshold differs")
    believed(monkeypatch)
    code, gates = check(capsys, artifact)
    assert [name for name, gate in gates.items() if gate.status == "FAILED"] == ["numeric: graphs"]
    assert code == 3 and gates["numeric: graphs"].reason.startswith("stage_0.onnx: threshold is ")


def test_a_changed_engine_is_named(
    capsys: pytest.CaptureFixture[str], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    model = onnx.load(artifact / ENGINE_1, load_external_data=False)
    weight = next(t for t in model.graph.initializer if t.dims and t.data_type == 1 and not t.external_data)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01) + 0.01, weight.name))
    onnx.save(model, artifact / ENGINE_1)
    reseal(artifact)
    code, gates = check(capsys, artifact)
    assert code == 3 and gates["numeric: graphs"].status == "PASSED"
    assert gates["numeric: engines (cpu)"].reason.startswith(f"{ENGINE_1} 1x16: ")


def test_an_engine_that_cannot_be_loaded_is_named(
    capsys: pytest.CaptureFixture[str], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    (artifact / ENGINE_1).write_bytes(b"not an engine")
    reseal(artifact)
    assert run_verb(parity, artifact, "--samples", 2) == 3
    assert ENGINE_1 in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["moved", "changed"])
def test_without_the_checkpoint_of_the_build_nothing_can_be_compared(
    capsys: pytest.CaptureFixture[str], artifact: Path, built: Built, tmp_path: Path, kind: str
) -> None:
    other = tmp_path / "checkpoint"
    if kind == "changed":
        shutil.copytree(built.checkpoint, other)
        config = other / "checkpoint.json"
        config.write_text(config.read_text("utf-8").replace('"max_length": 32', '"max_length": 31'), "utf-8")
    assert run_verb(parity, artifact, "--checkpoint", other) == 2
    error = capsys.readouterr().err
    assert f"error: --checkpoint {other}: expected " in error and "pass --checkpoint" not in error
    assert ("expected digest" if kind == "changed" else "expected the directory of the model, found none") in error


def test_a_checkpoint_that_was_named_from_elsewhere_is_asked_for(
    capsys: pytest.CaptureFixture[str], artifact: Path
) -> None:
    manifest = Artifact.open(artifact).manifest
    for path, said in (("runs/ltp", "runs/ltp: the artifact was built from it (a path"), ("/gone", "from it, but")):
        checkpoint = manifest.checkpoint.model_copy(update={"path": path})
        write_manifest(artifact, manifest.model_copy(update={"checkpoint": checkpoint}))
        assert run_verb(parity, artifact) == 2
        error = capsys.readouterr().err
        assert said in error and error.endswith("but it is not there; pass --checkpoint\n")


def test_stages_that_are_not_the_models_are_refused(capsys: pytest.CaptureFixture[str], artifact: Path) -> None:
    path = artifact / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    for steps in ([], ["decide 1 2"], ["attend 0", "decide 0"]):
        manifest["plan"]["stages"][0]["steps"] = steps
        path.write_bytes(sealed(manifest))
        assert run_verb(parity, artifact, "--samples", 2) == 2
        assert "not those of this model" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--samples", 0), ("--max-drop", "nan"), ("--target", "moon")])
def test_arguments_out_of_range_are_refused(
    capsys: pytest.CaptureFixture[str], built: Built, arguments: tuple[str, object]
) -> None:
    assert run_verb(parity, built.artifact, *arguments) == 2
    error = capsys.readouterr().err
    assert arguments[0].removeprefix("--").replace("-", "_") in error
    assert "metric_samples" not in error, "no flag of this verb"


def test_what_is_no_artifact_is_refused(capsys: pytest.CaptureFixture[str], artifact: Path, tmp_path: Path) -> None:
    (artifact / ENGINE_1).unlink()
    for path, message in ((tmp_path / "none", "expected a directory"), (artifact, f"{ENGINE_1}: missing")):
        assert run_verb(parity, path) == 2
        assert message in capsys.readouterr().err
