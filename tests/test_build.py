"""python -m pipeline.build: from a checkpoint to an artifact that works."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from calib.data import read_examples
from calib.retention import RetentionStatistics
from engines import Runner
from engines.artifact import Artifact
from engines.backends import Backend, Engine
from engines.backends.openvino import OpenVinoBackend
from engines.binding import Binding
from engines.buckets import format_buckets
from engines.manifest import EngineRecord
from pipeline import build, inspect
from pipeline import run as run_module
from pipeline.builder import baseline
from pipeline.builder.config import BuildConfig
from pipeline.builder.start import Start
from pipeline.builder.subject import Subject
from pipeline.builder.target import BuildTarget
from pipeline.graph import once as stage_graphs
from pipeline.graph.stages import Stage
from pipeline.model.reference import run_batch
from tests.conftest import LABELS
from tests.gates.builds import BUCKETS, Built, classifier, model_of, run_verb, tagger
from tests.graph.small import small_model


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The classifier of the session."""
    return classifier(tiny_tokenizer)


def test_a_build_traces_every_stage_once_and_loads_every_engine_once(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The costs are measured on stages that are built as well, and several gates run the same engines."""
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path))
    exported, loaded = [], []
    export, load = stage_graphs.export_stage, OpenVinoBackend.load

    def exporting(stage: Stage, *more) -> None:
        exported.append(stage.spec.steps)
        export(stage, *more)

    def loading(backend: Backend, file: Path, *more) -> Engine:
        loaded.append(file)
        return load(backend, file, *more)

    monkeypatch.setattr(stage_graphs, "export_stage", exporting)
    monkeypatch.setattr(OpenVinoBackend, "load", loading)
    out = tmp_path / "out"
    arguments = (
        "--checkpoint",
        built.checkpoint,
        "--data",
        built.data,
        "--samples",
        12,
        "--threads",
        1,
        "--precision",
        "fp32",
    )
    assert run_verb(build, *arguments, "--max-drop", 100, "--max-profiles", 4, "--out", out) == 0
    assert len(exported) == len(set(exported)) > 1
    engines = [file.name for file in loaded if "engines" in file.parts]
    assert sorted(engines) == sorted(Path(record.file).name for record in Artifact.open(out).manifest.engines)


def test_the_artifact_says_what_it_is(built: Built) -> None:
    artifact = Artifact.open(built.artifact)
    manifest = artifact.manifest
    assert manifest.method == "ltp" and manifest.head.labels == LABELS["classification"]
    assert [stage.steps for stage in manifest.plan.stages] == [
        ["attend 0", "decide 0", "feed 0", "attend 1", "decide 1"],
        ["feed 1"],
    ]
    assert format_buckets(manifest.plan.buckets) == BUCKETS
    assert not any(stage.milliseconds for stage in manifest.plan.stages), "nothing was planned, so nothing is expected"
    assert sum(len(e.profiles) for e in manifest.engines) == 6 and len(manifest.engines) == 2
    assert {(e.target, e.precision) for e in manifest.engines} == {("cpu", "fp32")}
    assert manifest.data is not None and manifest.data.count == 24
    assert manifest.checkpoint.path == str(built.checkpoint)


def test_every_gate_was_made_and_is_written_down_twice(built: Built) -> None:
    gates = Artifact.open(built.artifact).manifest.gates
    names = ["reference", "provenance", "numeric: graphs", "numeric: engines (cpu)", "decisions", "task metric"]
    assert [(gate.name, gate.status) for gate in gates] == [(name, "PASSED") for name in names]
    assert gates[-1].figures["dense_metric"] == 1 and gates[-1].figures["examples"] == 24
    written = json.loads((built.artifact / "parity.json").read_text("utf-8"))
    assert written == [gate.model_dump() for gate in gates]


def test_rows_of_every_text_of_the_gates_are_written_down(built: Built) -> None:
    written = RetentionStatistics.read(built.artifact / "retention.json")
    manifest = Artifact.open(built.artifact).manifest
    assert (written.data, written.checkpoint_sha256) == (str(built.data), manifest.checkpoint.sha256)
    samples = Subject.load(built.checkpoint, str(built.data), len(written.rows)).samples
    results = Runner(built.artifact).run_tokens(samples)
    ends = [[len(sample), *result.carried] for sample, result in zip(samples, results, strict=True)]
    assert [[row[0], row[-1]] for row in written.rows] == ends, "the one cut is behind the last decision"
    assert not (built.artifact.with_name("artifact-dense") / "retention.json").exists(), "a dense model keeps all"


def test_the_dense_model_is_built_and_timed_beside_it(built: Built) -> None:
    dense = Artifact.open(built.artifact.with_name("artifact-dense")).manifest
    assert dense.method == "dense" and len(dense.plan.stages) == 1
    assert dense.plan.buckets == Artifact.open(built.artifact).manifest.plan.buckets
    bench = json.loads((built.artifact / "bench.json").read_text("utf-8"))
    assert bench["flops_ratio"] > 0
    timed = {(t["name"], t["batch"]) for t in bench["timings"] if t["seconds"] > 0}
    assert timed == {("pruned", 1), ("dense", 1), ("pruned", 2), ("dense", 2)}


def test_the_dense_model_of_another_machine_is_not_compared_with(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same build, but has no engine that runs here; building it again adds them."""
    assert built.dense is not None
    settings = {"data": str(built.data), "stages": "auto", "buckets": BUCKETS, "samples": 12}
    config = BuildConfig(checkpoint=built.dense, out=built.artifact.with_name("artifact-dense"), **settings)
    assert baseline._is_current(Start.of(config))
    here = Binding(library="tensorrt", version="11.4", compute_capabilities=("9.0",), gpu="NVIDIA H100")
    target = replace(BuildTarget.of(config), binding=here)
    monkeypatch.setattr(BuildTarget, "of", lambda config: target)
    assert not baseline._is_current(Start.of(config))


def test_nothing_but_artifacts_is_left(built: Built) -> None:
    left = {path.name for path in built.artifact.parent.iterdir() if not path.name.endswith(".lock")}
    assert left == {"artifact", "artifact-dense", "ltp", "dense", "data.tsv"}


def test_it_gives_the_models_answers(built: Built) -> None:
    runner, model = Runner(built.artifact, threads=1), small_model("ltp", layers=2)
    texts = [example.content for example in read_examples(str(built.data))]
    for answer, tokens in zip(runner(texts), runner._encode(texts), strict=True):
        expected = run_batch(model, [tokens], "masked")
        assert answer.logits == pytest.approx(expected.logits[0].tolist(), abs=1e-4)
        assert answer.label == LABELS["classification"][int(expected.logits[0].argmax())]
        assert answer.retention == [int(expected.alive[1].sum())] * 2


def test_the_other_verbs_read_it(capsys: pytest.CaptureFixture[str], built: Built) -> None:
    capsys.readouterr()
    assert run_verb(inspect, built.artifact, "--json") == 0
    assert json.loads(capsys.readouterr().out)["method"] == "ltp"
    assert run_verb(run_module, built.artifact, "--text", "w5 w9 w30") == 0
    assert json.loads(capsys.readouterr().out)["label"] in LABELS["classification"]


def test_a_token_level_head_is_an_engine_of_its_own(tiny_tokenizer: Path) -> None:
    built, model = tagger(tiny_tokenizer), small_model("transkimmer", head="tagging")
    manifest = Artifact.open(built.artifact).manifest
    assert manifest.plan.head_graph == "stages/head.onnx"
    assert [stage.steps for stage in manifest.plan.stages] == [["decide 0"], ["attend 0", "feed 0"]]
    (head,) = (record for record in manifest.engines if record.stage == "head")
    assert isinstance(head, EngineRecord) and len(head.profiles) == 3
    statuses = {gate.name: gate.status for gate in manifest.gates}
    assert statuses.pop("task metric") == "SKIPPED" and set(statuses.values()) == {"PASSED"}
    runner = Runner(built.artifact, threads=1)
    texts = [example.content for example in read_examples(str(built.data))]
    for answer, tokens in zip(runner(texts), runner._encode(texts), strict=True):
        expected = run_batch(model, [tokens], "masked").logits[0]
        torch.testing.assert_close(torch.tensor(answer.logits), expected, atol=1e-4, rtol=0)


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from pipeline import build
from pipeline.graph import once as stage_graphs
from pipeline.cli import main_of
from pipeline.builder.publish import Publisher
graphs = Path(sys.argv.pop(1))
stage_graphs.export_stage = lambda *call: shutil.copyfile(graphs / call[2].name, call[2])
mark, marked = Publisher.mark, []
def mark_and_die(self, step):
    mark(self, step)
    marked.append(step)
    if len(marked) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
Publisher.mark = mark_and_die
main_of(build.parser, build.run)
"""


def test_a_killed_build_goes_on_where_it_stopped(
    capsys: pytest.CaptureFixture[str], built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()  # of the build of the session
    out, graphs = tmp_path / "artifact", built.artifact / "stages"
    arguments = [*map(str, model_of(built)), "--out", str(out), "--json"]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(graphs), *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not out.exists()

    compiled = []
    compile_one = OpenVinoBackend.build
    monkeypatch.setattr(OpenVinoBackend, "build", lambda *call: (compiled.append(call[3].name), compile_one(*call))[1])
    exported = []  # gate 5 exports the stages to compare them, and the build none of its own again

    def export(*call: Any) -> None:
        exported.append(call[2])
        shutil.copyfile(graphs / f"stage_{call[0].spec.index}.onnx", call[2])

    monkeypatch.setattr(stage_graphs, "export_stage", export)
    assert run_verb(build, *arguments) == 0
    # The plan, two graphs and one engine were done; the other one is left.
    assert compiled == ["stage_1.onnx"]
    assert len(exported) == 2 and not [path for path in exported if path.is_relative_to(tmp_path)]
    result = json.loads(capsys.readouterr().out)
    assert result["artifact"] == str(out) and result["bench"] is None
    assert {gate["name"]: gate["status"] for gate in result["gates"]}["task metric"] == "SKIPPED"
    ours, theirs = (Artifact.open(path).manifest for path in (out, built.artifact))
    for engine in ours.engines:  # the same inputs give the same engines, to the byte
        assert ours.files[engine.file] == theirs.files[engine.file]


def test_without_stages_and_buckets_the_planner_chooses(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path))
    out = tmp_path / "artifact"
    arguments = (
        "--checkpoint",
        built.checkpoint,
        "--data",
        built.data,
        "--samples",
        "12",
        "--threads",
        "1",
        "--precision",
        "fp32",
    )
    assert run_verb(build, *arguments, "--out", out, "--max-profiles", "8", "--explain") == 0
    printed = capsys.readouterr().out
    assert "no cut" in printed and "every cut" in printed
    manifest = Artifact.open(out).manifest
    assert set(manifest.plan.expected_ms) == {1, 8} and all(value > 0 for value in manifest.plan.expected_ms.values())
    assert sum(len(engine.profiles) for engine in manifest.engines) <= 8
    for unit in range(len(manifest.plan.stages)):
        held = {bucket for engine in manifest.engines if engine.stage == unit for bucket in engine.profiles}
        assert held == set(manifest.plan.buckets_of(unit))
        assert max(bucket.length for bucket in held) == manifest.max_length
        assert len(manifest.plan.stages[unit].milliseconds) == len(held)
    larger = ("--max-profiles", "12", "--token-budget", "512")
    assert run_verb(build, *arguments, "--out", out, "--force", *larger) == 0
    manifest = Artifact.open(out).manifest
    assert sum(len(engine.profiles) for engine in manifest.engines) <= 12
    for unit in range(len(manifest.plan.stages)):
        for bucket in manifest.plan.buckets_of(unit):
            assert bucket.batch in (1, 8) or bucket.batch * bucket.length <= 512
        assert len(manifest.plan.stages[unit].milliseconds) == len(manifest.plan.buckets_of(unit))
    assert max(bucket.batch for engine in manifest.engines for bucket in engine.profiles) > 8
    assert len(Runner(out)(["a film"] * 40)) == 40
    assert run_verb(build, *arguments, "--out", out, "--device", "abacus") == 2
