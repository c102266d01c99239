"""Parity proves INT8: graphs and ranges are those that calibration gives, made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from calib.int8.calibrate import FILE as CALIBRATION
from calib.int8.calibrate import read_calibration, write_calibration
from calib.int8.qdq import quantize_graphs
from engines.artifact import Artifact
from engines.backends import choose_backend
from pipeline import parity
from tests.gates.builds import Built, classifier, edit_manifest, parity_gates, quantised, reseal, run_verb


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The classifier of the session."""
    return classifier(tiny_tokenizer)


@pytest.fixture
def int8(tiny_tokenizer: Path) -> Path:
    """The classifier in INT8. Do not change it."""
    return quantised(tiny_tokenizer)


def requantised(artifact: Path, factor: float, layers: Callable[[str], bool] = lambda layer: True) -> None:
    """Ranges too wide by a factor, with graphs and engines that are made of them: all of it fits together."""
    found, manifest = read_calibration(artifact), Artifact.open(artifact).manifest
    ranges = {n: r * (factor if layers(n) else 1) for n, r in found.scheme.ranges.items()}
    scheme = found.kept.scheme.model_copy(update={"ranges": ranges})
    write_calibration(artifact, found.model_copy(update={"kept": found.kept.model_copy(update={"scheme": scheme})}))
    stages = manifest.plan.stages
    quantize_graphs([artifact / s.graph for s in stages], scheme, [artifact / s.int8_graph for s in stages])
    for record in manifest.engines:
        (artifact / record.file).parent.mkdir(exist_ok=True)
        graph = stages[record.stage].int8_graph
        choose_backend("cpu").build(artifact / graph, record.profiles, artifact / record.file)
    reseal(artifact)


@pytest.mark.parametrize(("factor", "layers"), [(40.0, ""), (0.9, "attention.0.output")])
def test_wrong_ranges_are_found_where_all_else_fits(
    capsys: pytest.CaptureFixture[str], int8: Path, tmp_path: Path, factor: float, layers: str
) -> None:
    artifact = shutil.copytree(int8, tmp_path / "artifact")
    requantised(artifact, factor, lambda layer: layer.startswith(layers))
    code, gates = parity_gates(capsys, artifact, "--max-drop", 100)
    assert code == 3 and f"{CALIBRATION}: range of {layers}" in gates["provenance"].reason
    assert "found " in gates["provenance"].reason


def test_int8_is_the_calibrations(capsys: pytest.CaptureFixture[str], int8: Path, tmp_path: Path) -> None:
    code, gates = parity_gates(capsys, int8, "--max-drop", 100)
    assert code == 0, [gate for gate in gates.values() if gate.status == "FAILED"]
    against = gates["INT8 against the wider precision"]
    assert against.status == "PASSED" and {"metric", "wide_metric", "drop_points"} <= set(against.figures)
    artifact = shutil.copytree(int8, tmp_path / "artifact")
    edits = {
        "changed ranges": lambda: edit_calibration(artifact, 2.0),
        "no JSON": lambda: (artifact / CALIBRATION).write_text("{}", "utf-8"),
        "no calibration": lambda: (artifact / CALIBRATION).rename(tmp_path / "taken away"),
    }
    for name, edit in edits.items():
        edit()
        edit_manifest(artifact, lambda m, n=name: n == "no calibration" and m["files"].pop(CALIBRATION))
        reseal(artifact)
        code, gates = parity_gates(capsys, artifact, "--max-drop", 100)
        assert code == 3, name
        said = "stages/stage_0-int8.onnx: tensor" if name == "changed ranges" else CALIBRATION
        assert said in gates["provenance"].reason, name


def edit_calibration(artifact: Path, factor: float) -> None:
    """Ranges that the graphs do not have."""
    found = read_calibration(artifact)
    ranges = {name: factor * value for name, value in found.scheme.ranges.items()}
    scheme = found.kept.scheme.model_copy(update={"ranges": ranges})
    write_calibration(artifact, found.model_copy(update={"kept": found.kept.model_copy(update={"scheme": scheme})}))


def test_without_the_calibration_texts_nothing_is_said_of_the_ranges(
    capsys: pytest.CaptureFixture[str], int8: Path, built: Built
) -> None:
    assert run_verb(parity, int8, "--calibration", built.data, "--samples", 4) == 2
    error = capsys.readouterr().err
    assert f"calibration {built.data}: expected texts with digest" in error and "--calibration" in error
