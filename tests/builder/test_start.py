"""What a build starts with is read once, and refused before anything is computed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from calib import data
from pipeline import build
from pipeline.builder import baseline, steps, subject
from pipeline.builder.config import BuildConfig
from pipeline.builder.start import Start
from pipeline.model import checkpoint
from tests.gates.builds import classifier, model_of, run_verb


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_build_reads_its_data_and_every_checkpoint_once(
    precision: str, tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, reads = classifier(tiny_tokenizer), Counter[str]()
    examples, weights, start = data.read_examples, checkpoint.read_weights, Start.of

    def counting(name: str, function):  # type: ignore[no-untyped-def]
        def counted(*arguments: object, **more: object) -> object:
            reads[f"{name} {Path(str(arguments[0])).parent.name if name == 'weights' else ''}".strip()] += 1
            return function(*arguments, **more)

        return counted

    texts = tmp_path / "texts.tsv"
    texts.write_text(built.data.read_text("utf-8") * 2, "utf-8")  # INT8 wants more texts than the tests' set has
    monkeypatch.setattr(subject, "read_examples", counting("data", examples))
    monkeypatch.setattr(checkpoint, "read_weights", counting("weights", weights))
    monkeypatch.setattr(Start, "of", counting("starts", start))
    arguments = (*model_of(built), "--data", texts, "--dense", built.dense, "--precision", precision)
    assert run_verb(build, *arguments, "--max-drop", 100, "--out", tmp_path / "artifact") == 0
    # Two builds, that of the dense model in front of the other.
    assert reads == {"data": 1, "weights ltp": 1, "weights dense": 1, "starts": 2}


@pytest.mark.parametrize(("module", "verb"), [(steps, steps.build), (baseline, baseline.build_against_dense)])
def test_a_build_reads_the_columns_that_are_named(
    module: ModuleType, verb: Callable, tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"stars": label, "review": f"w5 w{number}"} for number, label in enumerate(["no", "yes", "maybe"], 6)]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    monkeypatch.setattr(module, "in_fastest_precision", lambda config, _, start_of, build: start_of(config.settled))
    checkpoint = classifier(tiny_tokenizer).checkpoint
    config = BuildConfig(checkpoint=checkpoint, data=str(texts), label="stars", text="review", out=tmp_path / "out")
    start = verb(config, Console(quiet=True))
    assert [example.text for example in start.subject.examples] == [row["review"] for row in rows]
