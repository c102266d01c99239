"""python -m pipeline.bench: the same texts through every way, a file that the report reads, and what is refused."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from calib.data import read_examples
from engines import Runner
from engines.head import Head
from engines.tokenization import Text
from pipeline.bench import measuring
from pipeline.bench.dense import dense_of
from pipeline.bench.measuring import timed
from pipeline.builder import measure
from pipeline.report.artifact import Bench
from tests.gates.builds import Built, classifier, run_verb

bench = importlib.import_module("pipeline.bench.__main__")


@pytest.fixture(scope="module")
def built(tiny_tokenizer: Path) -> Built:
    return classifier(tiny_tokenizer)


def test_every_way_is_timed_and_written_in_the_reports_form(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    flags = ("--texts", 10, "--rounds", 1, "--batch", 1, 4, "--threads", 1, "--json", out)
    assert run_verb(bench, built.artifact, "--against", "torch,onnxruntime,openvino,skimrt", *flags) == 0
    record = json.loads(out.read_text("utf-8"))
    read = Bench.model_validate(record)
    names = ["pruned", *(f"dense, {engine}" for engine in ("torch", "onnxruntime", "openvino", "skimrt"))]
    assert [(one.name, one.batch) for one in read.timings] == [(name, batch) for batch in (1, 4) for name in names]
    assert [(one["name"], one["batch"]) for one in record["latencies"]] == [(t.name, t.batch) for t in read.timings]
    assert all(0 < one["median"] <= one["p95"] for one in record["latencies"])
    assert record["precisions"].keys() == set(names) and record["precisions"]["dense, torch"] == "fp32"
    predictions = Runner(built.artifact, threads=1)([e.content for e in read_examples(str(built.data), "test")][:10])
    tokens = sum(one.tokens for one in predictions)
    assert record["kept"] == [sum(one.retention[stage] for one in predictions) / tokens for stage in range(2)]
    assert record["flops_ratio"] > 0 and record["texts"] == 10
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
    assert "requests of 4 texts" in printed and printed.count("x as fast") == 8


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino", "openvino-fp32", "skimrt"])
def test_every_engine_gives_the_dense_models_answers(built: Built, engine: str) -> None:
    artifact = built.artifact.with_name("artifact-dense")
    texts, expected = answered(built)
    with dense_of(built.artifact, Runner(built.artifact).manifest, artifact) as dense:
        way, precision = dense.way(engine, 3, dense.max_length, 1)
        compare(way(texts), expected, precision)


def test_a_checkpoint_is_as_good_as_its_artifact(built: Built) -> None:
    texts, expected = answered(built)
    with dense_of(built.artifact, Runner(built.artifact).manifest, built.dense) as dense:
        way, precision = dense.way("onnxruntime", 3, dense.max_length, 1)
        compare(way(texts), expected, precision)
        with pytest.raises(ValueError, match="expected a dense artifact in --dense, found a checkpoint"):
            dense.refuse(["skimrt"])


def answered(built: Built) -> tuple[list[Text], np.ndarray]:
    """Texts, and what the dense artifact says of them."""
    texts = [example.content for example in read_examples(str(built.data), "test")][:7]
    predictions = Runner(built.artifact.with_name("artifact-dense"), threads=1)(texts)
    return texts, np.array([one.logits for one in predictions])


def compare(found: object, expected: np.ndarray, precision: str) -> None:
    """Checks logits, which are those of a library or of predictions, as closely as a precision allows."""
    assert isinstance(found, Sequence)
    logits = np.array([getattr(one, "logits", one) for one in found])
    tolerance = 1e-4 if precision == "fp32" else 0.05 * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, atol=tolerance)


def test_the_dense_model_is_found_where_the_build_left_it(built: Built, tmp_path: Path) -> None:
    manifest = Runner(built.artifact).manifest
    with dense_of(built.artifact, manifest, None) as dense:
        assert dense.artifact == built.artifact.resolve().with_name("artifact-dense")
    moved = tmp_path / "artifact"
    moved.mkdir()
    with dense_of(moved, manifest, None) as dense:  # what the build was told of is still there
        assert dense.artifact is None and dense.checkpoint == built.dense
    lost = manifest.model_copy(update={"build_arguments": ["--dense", str(tmp_path / "gone")]})
    with pytest.raises(ValueError, match=r"dense model: expected it as .*artifact-dense"), dense_of(moved, lost, None):
        pass


def test_requests_and_all_texts_at_once_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def way(texts: Sequence[Text]) -> None:
        calls.append(len(texts))
        clock[0] += {1: 1.0, 2: 3.0}.get(len(texts), 4.0)

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measuring, "_WARMING", 1)
    (latency,), (timing,) = timed({"pruned": way}, ["a", "b", "c", "d", "e"], 2, 1, Progress(disable=True))
    assert calls == [2, 2, 2, 2, 1, 5]  # warming twice, three requests, all at once
    assert (latency.median, latency.p95) == (1500.0, 1500.0) and (timing.seconds, timing.texts_per_second) == (
        4.0,
        1.25,
    )
    calls.clear()
    _, (timing,) = timed({"pruned": way}, ["a", "b"], 1, 1, Progress(disable=True))
    assert timing.seconds == 2.0 and len(timing.chunks) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--texts", 0, "--rounds", -1), "--texts: expected at least 1, found 0"),
        (
            ("--against", "abacus,torch"),
            "--against: expected some of torch, torch-compile, onnxruntime",
        ),
        (("--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--dense", "ITSELF"), "expected a dense model, found one that skips tokens (ltp)"),
        (("--dense", "/nowhere"), "name an artifact of it or its checkpoint with --dense"),
    ],
)
def test_what_cannot_be_used_is_refused(
    built: Built, capsys: pytest.CaptureFixture[str], flags: tuple, message: str
) -> None:
    given = [built.artifact if flag == "ITSELF" else flag for flag in flags]
    assert run_verb(bench, built.artifact, *given) == 2
    assert message in capsys.readouterr().err


def test_a_dense_model_of_another_head_is_refused(built: Built) -> None:
    manifest = Runner(built.artifact).manifest
    other = manifest.model_copy(update={"head": Head(kind="regression", labels=["value"])})
    message = r"expected a regression model with 1 output\(s\), found a classification model with 3"
    with pytest.raises(ValueError, match=message), dense_of(built.artifact, other, built.dense):
        pass


def test_a_library_that_is_missing_is_named(
    built: Built, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.bench.dense.StockOnnxRuntime.missing", lambda: "the package onnxruntime is not there")
    assert run_verb(bench, built.artifact, "--against", "onnxruntime") == 4
    assert "onnxruntime: the package onnxruntime is not there" in capsys.readouterr().err
