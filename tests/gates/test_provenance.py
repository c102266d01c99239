"""Parity proves the artifact: every edit of one whose digests were renewed is found, and the part is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines.artifact import Artifact
from engines.errors import InputError
from engines.runner import Runner
from pipeline import inspect, parity
from pipeline.graph.once import ExportOnce
from tests.gates.builds import (
    Built,
    classifier,
    edit_manifest,
    parity_gates,
    reseal,
    run_verb,
    set_attribute,
    tagger,
)

EXPORT = ExportOnce()
"""Exports are the same from test to test."""
STAGE_0, STAGE_1, ENGINE = "stages/stage_0.onnx", "stages/stage_1.onnx", "engines/cpu-fp32/stage_1.onnx"


@pytest.fixture(autouse=True)
def exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity exports the stages of one model once."""
    monkeypatch.setattr(parity, "export_stage", EXPORT)


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The classifier of the session."""
    return classifier(tiny_tokenizer)


@pytest.fixture
def artifact(built: Built, tmp_path: Path) -> Path:
    """A copy of its artifact to change."""
    return built.copied(tmp_path)


def swapped_words(artifact: Path) -> None:
    path = artifact / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    words = content["model"]["vocab"]
    words["w40"], words["w41"] = words["w41"], words["w40"]
    path.write_text(json.dumps(content), "utf-8")


def changed_tensor(file: str, name_in: Callable[[onnx.ModelProto], str]) -> Callable[[Path], None]:
    """Moves the last number of a tensor of a graph by its smallest step."""

    def change(artifact: Path) -> None:
        model = onnx.load(artifact / file)
        tensor = next(t for t in model.graph.initializer if t.name == name_in(model))
        values = numpy_helper.to_array(tensor).copy()
        values.flat[-1] = np.nextafter(values.flat[-1], np.float32(9))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, artifact / file)

    return change


def another_activation(artifact: Path) -> None:
    """GELU by its approximation, which no tolerance of a sample shows."""
    model = onnx.load(artifact / STAGE_1)
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))
    onnx.save(model, artifact / STAGE_1)


def changed_function(artifact: Path) -> None:
    """Another body of the operator."""
    model = onnx.load(artifact / STAGE_0)
    model.functions[0].node[0].attribute.append(onnx.helper.make_attribute("other", 1))
    onnx.save(model, artifact / STAGE_0)


def scaled_weights(artifact: Path) -> None:
    """The weights that the engines of a stage share, off by 1 %."""
    (path,) = (artifact / "engines/cpu-fp32").glob("stage_1.onnx.weights")
    path.write_bytes((np.frombuffer(path.read_bytes(), np.float32) * np.float32(1.01)).tobytes())


def swapped_engines(artifact: Path) -> None:
    """The engines of two stages under each other's name."""
    one, other = artifact / ENGINE, artifact / ENGINE.replace("stage_1", "stage_0")
    content = one.read_bytes(), other.read_bytes()
    other.write_bytes(content[0]), one.write_bytes(content[1])


def of_manifest(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """An edit of the manifest alone."""
    return lambda artifact: edit_manifest(artifact, edit)


def swap(items: list) -> None:
    """The first two."""
    items[0], items[1] = items[1], items[0]


EDITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "labels swapped": (of_manifest(lambda m: swap(m["head"]["labels"])), "head.labels: "),
    "a label renamed": (of_manifest(lambda m: m["head"]["labels"].__setitem__(2, "ja")), "head.labels: "),
    "another kind of head": (
        of_manifest(lambda m: m["head"].update(kind="regression", labels=["value"])),
        "head.kind: ",
    ),
    "words swapped": (swapped_words, "tokenizer/tokenizer.json: not the checkpoint's"),
    "another method": (of_manifest(lambda m: m.update(method="dense")), "method: "),
    "the first token may die": (of_manifest(lambda m: m.update(protect_first=False)), "protect_first: "),
    "cut sooner": (of_manifest(lambda m: m.update(max_length=30)), "max_length: "),
    **{
        f"encoder {name}": (of_manifest(lambda m, n=name, v=value: m["encoder"].__setitem__(n, v)), f"encoder.{name}: ")
        for name, value in (
            ("family", "roberta"),
            ("hidden_size", 16),
            ("layers", 1),
            ("heads", 2),
            ("vocab_size", 59),
            ("type_vocab_size", 1),
            ("pad_token_id", 1),
        )
    },
    "wider tolerances": (of_manifest(lambda m: m["plan"].update(precision="bf16")), "plan.precision: "),
    "engines said to be in INT8": (
        of_manifest(lambda m: [engine.update(precision="int8") for engine in m["engines"]]),
        "calibration.json: ",
    ),
    "engines of an unknown precision": (
        of_manifest(lambda m: m["engines"][0].update(precision="fp8")),
        "has no engines in fp8",
    ),
    "bound to a machine": (
        of_manifest(
            lambda m: [
                engine.update(binding={"library": "tensorrt", "version": "1", "compute_capabilities": ["9.0"]})
                for engine in m["engines"]
            ]
        ),
        "is bound to",
    ),
    "a threshold": (lambda a: set_attribute(a / STAGE_0, "threshold", 0.0220), f"{STAGE_0}: operator "),
    "a row of an unsampled word": (
        changed_tensor(STAGE_0, lambda m: "model.embeddings.word.weight"),
        f"{STAGE_0}: tensor model.embeddings.word.weight has other values",
    ),
    "a weight of the classifier": (
        changed_tensor(STAGE_1, lambda m: "model.head.classifier.weight"),
        f"{STAGE_1}: tensor model.head.classifier.weight",
    ),
    "another activation": (another_activation, f"{STAGE_1}: operator "),
    "another operator": (changed_function, f"{STAGE_0}: functions differs"),
    "no graph": (lambda a: (a / STAGE_1).write_bytes(b"none"), f"{STAGE_1}: expected an ONNX graph"),
    "an empty graph": (lambda a: (a / STAGE_1).write_bytes(b""), f"{STAGE_1}: "),
    "graphs swapped": (
        of_manifest(
            lambda m: [m["plan"]["stages"][i].update(graph=g) for i, g in enumerate((STAGE_1, STAGE_0))],
        ),
        f"{STAGE_1}: ",
    ),
    "weights of the engines": (scaled_weights, ".weights: not the weights of its graph"),
    "engines swapped": (swapped_engines, f"{ENGINE}: not the engine that its graph gives"),
    "engines renamed": (
        of_manifest(lambda m: [e.update(stage=1 - e["stage"]) for e in m["engines"]]),
        f"{ENGINE}: not the engine that its graph gives",
    ),
    "no engine": (lambda a: (a / ENGINE).write_bytes(b"none"), f"{ENGINE}: not the engine"),
    "a failed gate": (of_manifest(lambda m: m["gates"][0].update(status="FAILED")), "its build say FAILED: reference"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_with_renewed_digests_is_found_and_named(
    capsys: pytest.CaptureFixture[str], artifact: Path, name: str
) -> None:
    edit, said = EDITS[name]
    edit(artifact)
    reseal(artifact)
    code, gates = parity_gates(capsys, artifact)
    assert code == 3
    (failed,) = (gate for gate in gates.values() if gate.status == "FAILED")
    assert said in failed.reason and failed.name == ("integrity" if name == "a failed gate" else "provenance")
    last = list(gates).index(failed.name)
    assert {gate.status for gate in list(gates.values())[last + 1 :]} == {"SKIPPED"}, "nothing of it is loaded"


def test_what_was_built_is_the_checkpoints(
    capsys: pytest.CaptureFixture[str], built: Built, traced_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "export_stage", ExportOnce())
    code, gates = parity_gates(capsys, built.artifact)
    assert code == 0
    assert gates["provenance"].figures == {"graphs": 2, "engines_made_again": 2}
    assert {gate.name for gate in Artifact.open(built.artifact).manifest.gates if gate.status == "PASSED"} >= {
        "provenance"
    }


def test_engines_that_cannot_be_made_again_are_no_proof(
    capsys: pytest.CaptureFixture[str], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engines of this artifact, as if their bytes changed from build to build."""
    monkeypatch.setattr(sys.modules["pipeline.gates.provenance"], "_is_bound", lambda record: True)
    code, gates = parity_gates(capsys, built.artifact)
    gate = gates["provenance: engines (cpu)"]
    assert code == 0 and gate.status == "SKIPPED" and "2 engine(s) are not a function of their graph" in gate.reason
    assert gates["provenance"].figures["engines_made_again"] == 0
    assert run_verb(parity, built.artifact, "--samples", 4, "--threads", 1) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "parity holds; SKIPPED, so not checked: provenance: engines (cpu), task metric"


def test_a_token_level_head_is_compared_too(
    capsys: pytest.CaptureFixture[str], tiny_tokenizer: Path, tmp_path: Path
) -> None:
    artifact = tagger(tiny_tokenizer).copied(tmp_path)
    assert parity_gates(capsys, artifact)[0] == 0
    changed_tensor("stages/head.onnx", lambda m: m.graph.initializer[0].name)(artifact)
    reseal(artifact)
    code, gates = parity_gates(capsys, artifact)
    assert code == 3 and gates["provenance"].reason.startswith("stages/head.onnx: tensor ")


def test_the_budget_is_the_callers(capsys: pytest.CaptureFixture[str], built: Built, artifact: Path) -> None:
    """It was built with a budget of 100 points, and says now that it was 1e9."""
    edit_manifest(artifact, lambda m: [g["figures"].update(budget_points=1e9) for g in m["gates"]])
    code, gates = parity_gates(capsys, artifact, "--dense", built.dense)
    assert code == 3 and gates["task metric"].status == "FAILED"
    assert gates["task metric"].figures["budget_points"] == 1.0
    assert parity_gates(capsys, artifact, "--dense", built.dense, "--max-drop", 100)[0] == 0


def test_the_last_line_says_what_was_not_checked(capsys: pytest.CaptureFixture[str], built: Built) -> None:
    capsys.readouterr()
    assert run_verb(parity, built.artifact, "--samples", 4, "--threads", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "parity holds; SKIPPED, so not checked: task metric"


def test_an_artifact_whose_gates_failed_does_not_run_and_can_be_looked_at(
    capsys: pytest.CaptureFixture[str], artifact: Path
) -> None:
    edit_manifest(artifact, lambda m: m["gates"][0].update(status="FAILED", reason="they disagree"))
    with pytest.raises(InputError, match="expected one whose gates passed, found FAILED: reference; "):
        Runner(artifact)
    capsys.readouterr()
    assert run_verb(inspect, artifact) == 0
    assert "they disagree" in capsys.readouterr().out
