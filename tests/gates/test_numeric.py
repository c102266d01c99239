"""Stages and engines on the reference's own state: what is compared, and that every kind of difference is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.artifact import Artifact
from engines.backends import choose_backend
from engines.errors import GateError
from engines.manifest import Gate
from pipeline.gates import numeric, numeric_parity
from pipeline.gates.expected import Expected
from pipeline.gates.under_test import EnginesUnderTest
from pipeline.graph.stages import cut_stages
from pipeline.model import PrunedTransformer
from pipeline.model.reference import Reference
from tests.gates.builds import Built, classifier, set_attribute
from tests.graph.small import random_samples, small_model

SAMPLES = random_samples(8)


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The classifier of the session."""
    return classifier(tiny_tokenizer)


def gates_of(artifact: Path, model: PrunedTransformer) -> list[Gate]:
    """The gates of graphs and engines."""
    manifest = Artifact.open(artifact, verify=False).manifest
    expected = Expected(model, cut_stages(model, [1]), Reference.of(model, SAMPLES))
    return numeric_parity(expected, EnginesUnderTest(artifact, manifest, choose_backend("cpu"), 1))


def test_graphs_and_engines_of_the_model_pass(built: Built) -> None:
    graphs, engines = gates_of(built.artifact, small_model("ltp", layers=2))
    for gate in (graphs, engines):
        assert gate.status == "PASSED", gate.reason
        assert gate.figures["checked"] == 6  # two stages in three buckets
        assert 0 <= gate.figures["largest_difference"] <= gate.figures["tolerance"] == 1e-4


def test_engines_are_asked_in_every_bucket_and_graphs_in_those_at_the_edges(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numeric, "edge_buckets", lambda buckets: [max(buckets)])
    graphs, engines = gates_of(built.artifact, small_model("ltp", layers=2))
    assert (graphs.figures["checked"], engines.figures["checked"]) == (2, 6)


def test_another_models_graphs_and_engines_fail_and_are_named(built: Built) -> None:
    graphs, engines = gates_of(built.artifact, small_model("ltp", layers=2, seed=1))
    assert graphs.status == engines.status == "FAILED"
    assert "stage_0.onnx at 1x16: " in graphs.reason and "cpu-fp32/stage_0.onnx 1x16: " in engines.reason
    assert "and 1 more" in graphs.reason  # six findings, of which five are spelt out


def test_the_operators_attributes_are_compared_even_if_no_sample_shows_them(built: Built, tmp_path: Path) -> None:
    artifact = built.copied(tmp_path)
    set_attribute(artifact / "stages" / "stage_0.onnx", "capacity", 512)
    graphs, engines = gates_of(artifact, small_model("ltp", layers=2))
    assert graphs.reason.startswith("stage_0.onnx: capacity is 512, the model's is 0")
    assert engines.status == "PASSED"


def test_a_graph_that_is_none_is_named(built: Built, tmp_path: Path) -> None:
    artifact = built.copied(tmp_path)
    (artifact / "stages" / "stage_1.onnx").write_bytes(b"not a graph")
    with pytest.raises(GateError, match=r"stage_1\.onnx: expected an ONNX graph"):
        gates_of(artifact, small_model("ltp", layers=2))


def test_a_gate_that_could_compare_no_sample_has_not_passed(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numeric, "near_in_fp32", lambda decisions, samples: np.ones(samples, bool))
    for gate in gates_of(built.artifact, small_model("ltp", layers=2)):
        assert gate.status == "SKIPPED" and "none could be compared" in gate.reason
