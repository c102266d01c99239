"""The dense model of a comparison: at its own length for accuracy, at one length for time and FLOPs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calib.data import read_examples
from engines.artifact import Artifact
from engines.errors import InputError
from engines.runner import Runner
from engines.tokenization import TextEncoder
from pipeline import build, parity
from pipeline.builder.baseline import dense_config
from pipeline.builder.config import BuildConfig
from pipeline.builder.dense import DenseModel
from pipeline.builder.measure import common_length
from pipeline.gates.metric import int8_metric
from pipeline.model import save_checkpoint
from pipeline.model.flops import flops_ratio
from pipeline.model.reference import Reference
from pipeline.model.retention import carried_rows
from tests.gates.builds import Built, classifier, run_verb
from tests.graph.small import random_samples, small_model

SHORT = 5
"""Tokens at which the small dense model gives some of the texts another label."""


@pytest.fixture(scope="module")
def short(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A dense model cut at 5 tokens, built against itself at its own 32, whose answers are the labels."""
    folder, model = tmp_path_factory.mktemp("short"), small_model("dense", layers=2)
    for name, length in (("whole", model.config.max_length), ("cut", SHORT)):
        config = model.config.model_copy(update={"max_length": length})
        save_checkpoint(config, dict(model.state_dict()), folder / name, tiny_tokenizer)
    texts = [" ".join(f"w{word}" for word in sample.input_ids[2:]) for sample in random_samples(24)]
    logits = Reference.of(model, TextEncoder(tiny_tokenizer, model.config.max_length)(texts)).logits
    labels = [model.config.head.labels[int(row.argmax())] for row in logits]
    data = folder / "data.tsv"
    data.write_text("".join(f"{label}\t{text}\n" for label, text in zip(labels, texts, strict=True)), "utf-8")
    built = Built(folder / "artifact", folder / "cut", data, folder / "whole")
    model_of = ("--checkpoint", built.checkpoint, "--dense", built.dense, "--data", built.data)
    shapes = ("--buckets", f"1x{SHORT},2x{SHORT}", "--stages", 1)
    given = (*model_of, *shapes, "--samples", 12, "--threads", 1, "--precision", "fp32", "--max-drop", 100)
    assert run_verb(build, *given, "--out", built.artifact) == 0
    return built


def test_a_model_cut_shorter_than_its_dense_one_loses_what_it_does_not_read(short: Built) -> None:
    (gate,) = (gate for gate in Artifact.open(short.artifact).manifest.gates if gate.name == "task metric")
    assert gate.figures["dense_metric"] == 1, "the labels are what it says of the whole texts"
    assert gate.figures["drop_points"] == pytest.approx(100 * (1 - float(gate.figures["metric"])), abs=1e-3)
    assert gate.figures["drop_points"] > 0
    assert (gate.figures["max_length"], gate.figures["dense_max_length"]) == (SHORT, 32)


def test_both_are_timed_at_the_shorter_length(short: Built) -> None:
    bench = json.loads((short.artifact / "bench.json").read_text("utf-8"))
    assert bench["max_length"] == SHORT == common_length([short.artifact, short.artifact.with_name("artifact-dense")])
    assert bench["flops_ratio"] == 1, "the same weights on the same tokens"
    lengths = {
        bucket.length for bucket in Artifact.open(short.artifact.with_name("artifact-dense")).manifest.plan.buckets
    }
    assert lengths == {SHORT, 32}


def test_other_lengths_are_warned_of(short: Built, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    warning = DenseModel(short.dense).length_warning(SHORT)
    assert warning is not None and "it takes 32 tokens, the model 5" in warning and "of both at 5" in warning
    assert DenseModel(short.dense).length_warning(32) is None
    capsys.readouterr()
    model_of = ("--checkpoint", short.checkpoint, "--dense", short.dense, "--data", short.data, "--stages", 1)
    given = ("--buckets", f"1x{SHORT}", "--samples", 4, "--threads", 1, "--max-drop", 1)
    assert run_verb(build, *model_of, *given, "--out", tmp_path / "a") == 3, "the same weights, fewer tokens"
    said = capsys.readouterr()
    assert "it takes 32 tokens, the model 5" in said.out and "task metric" in said.err
    assert run_verb(parity, short.artifact, "--dense", short.dense, "--samples", 24, "--threads", 1) == 3


def test_a_runner_cuts_at_the_length_that_it_is_given(short: Built) -> None:
    texts = [example.content for example in read_examples(str(short.data))]
    dense = short.artifact.with_name("artifact-dense")
    ours, theirs = (Runner(path, threads=1, truncate=True, max_length=SHORT)(texts) for path in (short.artifact, dense))
    assert [a.label for a in ours] == [b.label for b in theirs]
    with pytest.raises(InputError, match="tokens, the model takes 5"):
        Runner(dense, threads=1, max_length=SHORT)(texts)
    with pytest.raises(InputError, match="max_length: expected at least 1"):
        Runner(dense, max_length=0)


@pytest.mark.parametrize("buckets", [None, "1x5,4x5"])
def test_the_dense_model_gets_buckets_for_what_it_takes(buckets: str | None) -> None:
    asked = BuildConfig(checkpoint=Path("mine"), dense=Path("dense"), stages="1", buckets=buckets)
    found = dense_config(asked, SHORT, 32).buckets
    assert found == ("1x5,1x32,4x5,4x32" if buckets else "1x5,1x32,8x5,8x32")
    assert dense_config(asked, SHORT, SHORT).buckets == (buckets or "1x5,8x5")


def test_a_model_that_skips_is_no_dense_one(tiny_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = classifier(tiny_tokenizer)
    with pytest.raises(
        InputError, match=r"expected a dense model to compare with, found one that skips tokens \(ltp\)"
    ):
        DenseModel(built.checkpoint).refuse_for(built.checkpoint)
    for verb in ((build, "--checkpoint", built.checkpoint, "--out", "x"), (parity, built.artifact)):
        assert run_verb(*verb, "--dense", built.checkpoint, "--data", built.data) == 2
        assert "expected a dense model" in capsys.readouterr().err


def test_flops_are_counted_against_the_model_that_is_named() -> None:
    model, half = small_model("ltp", layers=2), small_model("dense", layers=1)
    rows = carried_rows(model, random_samples(6))
    against_itself, against_half = flops_ratio(model.config, rows), flops_ratio(model.config, rows, half.config)
    assert against_half == pytest.approx(against_itself / 2, rel=0.05), "but for the head"


def test_what_int8_costs_the_dense_model_refuses_nothing() -> None:
    asked = BuildConfig(checkpoint=Path("mine"), dense=Path("dense"), precision="int8", max_drop=0.5)
    assert dense_config(asked, SHORT, SHORT).max_drop == 100
    gate = int8_metric(ours=0.0, wide=1.0, count=8, max_drop=100)
    assert gate.status == "PASSED" and gate.figures["drop_points"] == 100
