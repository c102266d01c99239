"""Stages and engines on the reference's own state: what is compared, and that every kind of difference is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.artifact import Artifact, Gate
from engines.backends import choose_backend
from engines.buckets import Bucket
from engines.errors import GateError
from pipeline.gates import Reference, numeric, numeric_parity
from pipeline.gates.numeric import fill_bucket, walk_states
from pipeline.graph.stages import cut_stages
from pipeline.model import PrunedTransformer
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
    return numeric_parity(model, cut_stages(model, [1]), SAMPLES, artifact, manifest, choose_backend("cpu"), 1)


def test_graphs_and_engines_of_the_model_pass(built: Built) -> None:
    graphs, engines = gates_of(built.artifact, small_model("ltp", layers=2))
    for gate in (graphs, engines):
        assert gate.status == "PASSED", gate.reason
        assert gate.figures["checked"] == 6  # two stages in three buckets
        assert 0 <= gate.figures["largest_difference"] <= gate.figures["tolerance"] == 1e-4


def test_another_models_graphs_and_engines_fail_and_are_named(built: Built) -> None:
    graphs, engines = gates_of(built.artifact, small_model("ltp", layers=2, seed=1))
    assert graphs.status == engines.status == "FAILED"
    assert "stage_0.onnx at 1x16: " in graphs.reason and "cpu-fp32/stage_0_b1_s16.onnx: " in engines.reason
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
    monkeypatch.setattr(numeric, "_near_in_fp32", lambda decisions, samples: np.ones(samples, bool))
    for gate in gates_of(built.artifact, small_model("ltp", layers=2)):
        assert gate.status == "SKIPPED" and "none could be compared" in gate.reason


def test_every_stage_is_fed_what_the_reference_carries_to_it() -> None:
    model = small_model("ltp", layers=2)
    reference = Reference.of(model, SAMPLES)
    (_, first), (_, second) = walk_states(model, cut_stages(model, [1]), SAMPLES)
    for index, sample in enumerate(SAMPLES):
        assert first[index]["input_ids"].tolist() == sample.input_ids
        assert second[index]["position"].tolist() == np.flatnonzero(reference.alive[index][1]).tolist()
        assert second[index]["hidden"].shape == (int(reference.counts[index][1]), 32)


def state(rows: int) -> dict[str, np.ndarray]:
    """A state whose hidden rows say how many they are."""
    return {"hidden": np.full((rows, 2), rows, np.float32), "alive": np.ones(rows, np.int32)}


@pytest.mark.parametrize(
    ("bucket", "chosen"),
    [
        (Bucket(batch=1, length=8), [8]),
        (Bucket(batch=2, length=8), [8, 5]),
        (Bucket(batch=3, length=8), [8, 5]),  # the third place is left to padding
        (Bucket(batch=8, length=32), [9, 8, 5, 1]),
        (Bucket(batch=4, length=4), [1]),
    ],
)
def test_buckets_are_filled_with_the_longest_samples_that_fit(bucket: Bucket, chosen: list[int]) -> None:
    filled = fill_bucket([state(5), state(1), state(9), state(8)], bucket)
    assert filled is not None
    batch, real = filled
    assert real == len(chosen)
    assert batch["hidden"].shape == (bucket.batch, bucket.length, 2)
    assert batch["hidden"][:, 0, 0].tolist() == chosen + [0] * (bucket.batch - real)
    assert batch["alive"].sum(1).tolist() == chosen + [0] * (bucket.batch - real)


def test_no_sample_fits_no_batch() -> None:
    assert fill_bucket([state(5)], Bucket(batch=1, length=4)) is None
