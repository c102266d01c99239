"""Builds with fused engines: what the gates find, and that an engine which is not what the plan says fails them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calib.data import read_examples
from engines import Runner
from engines.artifact import Artifact, write_manifest
from engines.backends import choose_backend
from engines.backends.base import EngineOptions
from engines.buckets import format_buckets
from engines.tokenization import Tokens
from pipeline import inspect, parity
from pipeline import run as run_module
from pipeline.builder.graphs import specs_of
from pipeline.gates import Reference, fused_parity
from pipeline.model import load_checkpoint
from pipeline.report.artifact import write_artifact_report
from tests.gates.builds import BUCKETS, Built, classifier, fused, reseal, run_verb, set_attribute


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The fused artifact of the session."""
    return fused(tiny_tokenizer)


def test_fused_engines_stand_beside_the_stages(built: Built, tiny_tokenizer: Path) -> None:
    manifest, staged = (Artifact.open(b.artifact).manifest for b in (built, classifier(tiny_tokenizer)))
    plan = manifest.plan
    assert plan.kind == "fused" and plan.fused is not None
    assert format_buckets(plan.buckets_of("fused")) == format_buckets(plan.buckets) == BUCKETS
    assert all(len(b.capacities) == 1 and b.capacities[0] <= b.bucket.length for b in plan.fused.buckets)
    assert set(plan.fused.overflow) == {1, 2}
    names = ["numeric: fused engines (cpu)", "decisions: fused, batch 1", "decisions: fused, batch 2"]
    gates = {gate.name: gate for gate in manifest.gates}
    assert [gates[name].status for name in names] == ["PASSED"] * 3
    assert gates[names[0]].figures["checked"] > 0 and gates[names[1]].figures["fused"] == 12
    # The stages are those of the same model without fused engines, to the byte.
    for record in staged.engines:
        assert manifest.files[record.file] == staged.files[record.file]


@pytest.mark.parametrize("max_batch", [1, None])
def test_the_answers_are_those_of_the_stages(built: Built, max_batch: int | None) -> None:
    texts = [example.content for example in read_examples(str(built.data))]
    staged, whole = (Runner(built.artifact, threads=1, max_batch=max_batch, fused=way) for way in (False, True))
    assert whole.fused is not None
    for ours, theirs in zip(whole(texts), staged(texts), strict=True):
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-5)
        assert (ours.label, ours.retention) == (theirs.label, theirs.retention)
    assert whole.fused.samples == len(texts)


def rebuilt(built: Built, folder: Path, threshold: float | None = None, capacities: int | None = None) -> Path:
    """A copy of the artifact with its fused engines compiled with another threshold or other capacities."""
    artifact = built.copied(folder)
    manifest = Artifact.open(artifact).manifest
    assert manifest.plan.fused is not None
    graph = artifact / manifest.plan.fused.graph
    if threshold is not None:
        set_attribute(graph, "threshold", threshold)
    held = {b.bucket: b.capacities for b in manifest.plan.fused.buckets}
    for record in manifest.engines:
        if record.stage == "fused":
            rooms = tuple(held[record.bucket]) if capacities is None else (capacities,)
            file = artifact / record.file
            choose_backend("cpu").build(graph, record.bucket, file, EngineOptions(capacities=rooms))
    reseal(artifact)
    return artifact


@pytest.mark.parametrize("change", [{"threshold": 1e3}, {"threshold": -1e3}, {"capacities": 1}])
def test_engines_that_are_not_the_plans_fail(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict
) -> None:
    artifact = rebuilt(built, tmp_path, **change)
    assert run_verb(parity, artifact, "--samples", "12", "--json", "--threads", "1") == 3
    status = {gate["name"]: gate["status"] for gate in json.loads(capsys.readouterr().out)}
    assert status["numeric: fused engines (cpu)"] == "FAILED"
    # The stages beside them are as good as they were.
    assert status["numeric: engines (cpu)"] == status["decisions"] == "PASSED"


def test_people_see_what_is_fused_and_what_overflowed(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    artifact = rebuilt(built, tmp_path, capacities=1)
    manifest = Artifact.open(artifact).manifest
    assert manifest.plan.fused is not None
    rooms = [fused.model_copy(update={"capacities": [1]}) for fused in manifest.plan.fused.buckets]
    tight = manifest.plan.model_copy(update={"fused": manifest.plan.fused.model_copy(update={"buckets": rooms})})
    write_manifest(artifact, manifest.model_copy(update={"plan": tight}))
    capsys.readouterr()
    assert run_verb(inspect, artifact) == 0
    shown = capsys.readouterr().out
    assert "fused engines" in shown and "16 (1), 32 (1)" in shown and "expected" in shown
    page = write_artifact_report(artifact).read_text("utf-8")
    assert "Fused, batch 2, length" in page and "32 (1)" in page
    assert "all stages at once" in page and "% expected at batch 2" in page
    assert run_verb(run_module, artifact, "--input", built.data, "--threads", "1") == 0
    answered = capsys.readouterr()
    assert len(answered.out.splitlines()) == 24
    assert "texts overflowed the fused engines and ran again through the stages" in answered.err


def test_a_fused_engine_that_cannot_be_loaded_is_named(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = rebuilt(built, tmp_path)
    engine = next(record.file for record in Artifact.open(artifact).manifest.engines if record.stage == "fused")
    (artifact / engine).write_bytes(b"not an engine")
    reseal(artifact)
    assert run_verb(parity, artifact, "--samples", "2", "--threads", "1") == 3
    assert engine in capsys.readouterr().err


def test_an_engine_that_no_sample_fits_did_not_pass(built: Built) -> None:
    model, manifest = load_checkpoint(built.checkpoint), Artifact.open(built.artifact).manifest
    specs = specs_of(model, manifest)
    long = Reference.of(model, [Tokens([1] * 30, [0] * 30, 30)])
    passed, skipped = fused_parity(model, specs, long, built.artifact, manifest, choose_backend("cpu"), 1)
    assert passed.figures["engines"] == 2
    assert skipped.status == "SKIPPED" and skipped.reason == "no sample of the gates is short enough for 1x16"
