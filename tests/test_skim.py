"""python -m pipeline.skim: one command from a Hugging Face directory to an artifact, whatever interrupts it."""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
from pathlib import Path

import pytest

from engines import Runner
from engines.artifact import Artifact
from engines.head import HeadKind
from pipeline import build, train
from pipeline.model.config import CheckpointConfig, EncoderConfig, HeadConfig, LocalAttention, Method
from pipeline.training.suited import early_layer
from tests.gates.builds import run_verb
from tests.model.families import make_original
from tests.training.runs import make_examples

skim = importlib.import_module("pipeline.skim.__main__")


@pytest.fixture
def own(tmp_path: Path, tiny_tokenizer: Path) -> Path:
    """A fine-tuned classifier as transformers saves it, with labels in an order of its own, beside texts."""
    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    make_original("bert", num_labels=2, **names).save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "tokenizer.json").write_bytes(tiny_tokenizer.read_bytes())
    examples = make_examples(80, 1)
    rows = {
        "mine": [{"review": e.text, "stars": e.label} for e in examples],
        "bare": [{"text": e.text} for e in examples],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    return tmp_path / "own"


def flags(own: Path, *more: object) -> list[object]:
    given = ["--data", own.parent / "mine.jsonl", "--text", "review", "--label", "stars", *more]
    shapes = ("--buckets", "1x16,1x40,2x40", "--threads", 1)
    return [own, "--out", own.parent / "artifact", "--flops-ratio", 1.3, *given, *shapes, "--max-drop", 100]


def said(output: str) -> dict[str, str]:
    """The summary's lines by their first word."""
    return {line.split()[0]: line for line in output.splitlines() if line.strip()}


def test_one_command_trains_builds_checks_and_reports_and_goes_on_where_it_stopped(
    own: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out, work = own.parent / "artifact", own.parent / "artifact-work"
    with monkeypatch.context() as patched:
        patched.setattr(build, "run", stop)
        assert run_verb(skim, *flags(own)) == 130
    assert (work / "checkpoint" / "run.json").is_file() and not out.exists()
    assert {path.name for path in work.glob("*.jsonl")} == {"train.jsonl", "dev.jsonl", "test.jsonl"}
    with monkeypatch.context() as patched:
        patched.setattr(train, "run", stop)
        patched.setattr(skim, "write_artifact_report", stop)
        assert run_verb(skim, *flags(own)) == 130
    capsys.readouterr()
    with monkeypatch.context() as patched:
        for verb in (train, build, skim.parity):
            patched.setattr(verb, "run", stop)
        assert run_verb(skim, *flags(own)) == 0
    printed = capsys.readouterr().out
    assert all(f"{step}: done before" in printed for step in ("1/4 train", "2/4 build", "3/4 parity"))
    lines = said(printed)
    assert str(out) in lines["artifact"] and "points less" in lines["accuracy"] and "fewer FLOPs" in lines["speed"]
    assert f"pipeline.run {out} --text" in lines["next"]
    assert own.parent.joinpath("artifact.report.html").is_file()
    runner = Runner(out, truncate=True)
    assert runner.manifest.head.labels == ["good", "bad"] and runner.manifest.max_length == 40
    assert not Artifact.open(out).manifest.failed


@pytest.mark.slow
def test_texts_without_labels_are_taught_by_the_model_alone(own: Path, capsys: pytest.CaptureFixture) -> None:
    given = [own, "--data", own.parent / "bare.jsonl", "--out", own.parent / "bare", "--flops-ratio", 1.3]
    assert run_verb(skim, *given, "--buckets", "1x40,2x40", "--threads", 1, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert 0 <= printed["agreement"] <= 1 and "metric" not in printed
    record = json.loads((own.parent / "bare-work" / "checkpoint" / "run.json").read_text("utf-8"))
    assert record["config"]["distil"] == 1.0
    gate = next(gate for gate in Artifact.open(own.parent / "bare").manifest.gates if gate.name == "task metric")
    assert gate.status == "SKIPPED" and gate.reason.endswith("test.jsonl has no labels")


def test_what_cannot_be_published_is_refused_before_the_training(
    own: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "run", None)
    out = own.parent / "artifact"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert run_verb(skim, *flags(own)) == 2
    assert "holds something else already" in capsys.readouterr().err
    shutil.rmtree(out)
    work = own.parent / "artifact-work"
    (work / "checkpoint").mkdir(parents=True)
    (work / "checkpoint" / "training_state.safetensors").touch()
    (work / "skim.json").write_text('{"--epochs": "[9.0]"}')
    assert run_verb(skim, *flags(own)) == 2
    error = capsys.readouterr().err
    assert "the work of a run with another" in error and "--epochs" in error and "--max-drop" not in error


@pytest.mark.slow
def test_a_gate_that_fails_says_what_to_do(
    own: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_verb(skim, *[part if part != 100 else -100 for part in flags(own)]) == 3
    error = capsys.readouterr().err
    assert "task metric" in error and "--epochs" in error and not (own.parent / "artifact").exists()
    monkeypatch.setattr(train, "run", None)  # with a wider budget nothing is trained again
    assert run_verb(skim, *flags(own)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_narrower_precision_is_built_checked_and_gone_on_with(
    own: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    out = own.parent / "artifact"
    assert run_verb(skim, *flags(own), "--precision", precision) == 0
    manifest = Artifact.open(out).manifest
    not_passed = [gate for gate in manifest.gates if gate.status != "PASSED"]
    assert all(gate.status == "SKIPPED" and "INT8 is not used" in gate.reason for gate in not_passed)
    if precision == "int8":
        assert "calibration.json" in manifest.files
        assert "int8" in {gate.name for gate in manifest.gates}
    else:
        assert {found.precision for found in manifest.compared} == {"fp32", "bf16", "int8"}
    capsys.readouterr()
    for verb in (train, build, skim.parity):
        monkeypatch.setattr(verb, "run", None)
    assert run_verb(skim, *flags(own), "--precision", precision) == 0
    assert "3/4 parity: done before" in capsys.readouterr().out


def test_too_few_texts_for_int8_are_refused_before_the_training(
    own: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "run", None)
    few = own.parent / "few.jsonl"
    few.write_text("\n".join((own.parent / "bare.jsonl").read_text("utf-8").splitlines()[:36]) + "\n", "utf-8")
    assert run_verb(skim, own, "--data", few, "--out", own.parent / "few", "--precision", "int8") == 2
    assert "--precision int8: expected at least 32 texts to train on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("ForSequenceClassification", [], ["ltp", "0", "hard"]),
        ("ForTokenClassification", [], ["transkimmer", "1", None]),
        ("ForTokenClassification", ["--method", "ltp", "--decide-at", 0], ["ltp", "0", "hard"]),
    ],
)
def test_the_method_suits_the_head(
    own: Path, monkeypatch: pytest.MonkeyPatch, kind: str, more: list[object], expected: list[str | None]
) -> None:
    make_original("bert", kind, num_labels=2, id2label={0: "O", 1: "B-X"}).save_pretrained(own)
    rows: list[dict[str, object]] = []
    for number, example in enumerate(make_examples(40, 1)):
        words = example.text.split()
        if kind == "ForTokenClassification":
            rows.append({"text": words, "label": ["B-X"] * len(words)})
        else:
            rows.append({"text": example.text, "label": ("O", "B-X")[number % 2]})
    data = own.parent / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    asked: list[list[str | None]] = []

    def stop(args: argparse.Namespace) -> None:
        asked.append([args.method, *map(str, args.decide_at), *(args.phases or [None])])
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", stop)
    assert run_verb(skim, own, "--data", data, "--out", own.parent / "out", *more) == 130
    assert asked == [expected]


def test_one_early_global_layer_decides() -> None:
    def chosen(layers: int, kind: HeadKind = "classification", method: Method = "ltp", **parts: object) -> int:
        sizes = {"vocab_size": 9, "hidden_size": 8, "heads": 2, "intermediate_size": 8, "max_positions": 9}
        encoder = EncoderConfig(family="bert", layers=layers, **sizes, **parts)
        head = HeadConfig(kind=kind, labels=["a", "b"])
        return early_layer(CheckpointConfig(encoder=encoder, head=head, max_length=9), method)

    assert [chosen(layers) for layers in (2, 6, 12, 24)] == [0, 1, 2, 4]
    assert [chosen(layers, method="transkimmer") for layers in (2, 6, 12, 24)] == [1, 2, 3, 5]
    assert [chosen(layers, "tagging", "transkimmer") for layers in (2, 6, 12, 24)] == [0, 2, 4, 8]
    assert chosen(22, local=LocalAttention(distance=4, global_layers=list(range(0, 22, 3)))) == 3
