"""Every kind of head for the target torch, compiled by AOTInductor itself: it answers as the target cpu does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.artifact import Artifact
from engines.runner import Runner
from engines.tokenization import Text
from pipeline import build
from pipeline.model import save_checkpoint
from tests.gates.builds import run_verb
from tests.graph.headed import headed_model

pytestmark = pytest.mark.slow


def words(number: int, count: int) -> str:
    return " ".join(f"w{4 + (number * 7 + place * 5) % 50}" for place in range(count))


def embedding(number: int) -> dict[str, Any]:
    return {"text": words(number, 3 + number % 9)}


def multi_label(number: int) -> dict[str, Any]:
    return {**embedding(number), "label": ["four", "five"][: number % 3]}


def question_answering(number: int) -> dict[str, Any]:
    first, *_ = (context := words(number, 4 + number % 8)).split()
    return {"text": "w5 w9", "text_b": context, "label": {"text": [first], "answer_start": [0]}}


def ranking(number: int) -> dict[str, Any]:
    return {"text": words(number // 4, 2), "text_b": words(number, 3 + number % 8), "label": int(number % 4 == 0)}


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "embedding": embedding,
    "multi_label": multi_label,
    "question_answering": question_answering,
    "ranking": ranking,
}


def text_of(row: dict[str, Any]) -> Text:
    return (row["text"], row["text_b"]) if "text_b" in row else row["text"]


@pytest.mark.parametrize("kind", ROWS)
def test_a_head_answers_as_it_does_on_the_target_cpu(kind: str, tiny_tokenizer: Path, tmp_path: Path) -> None:
    model, rows = headed_model(kind, layers=1), [ROWS[kind](number) for number in range(16)]
    save_checkpoint(model.config, dict(model.state_dict()), tmp_path / "model", tiny_tokenizer)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    given: tuple[object, ...] = (
        "--checkpoint",
        tmp_path / "model",
        "--data",
        tmp_path / "data.jsonl",
        "--precision",
        "fp32",
    )
    stages = "auto" if model.config.head.token_level else 2  # such a head is cut at every decision as it is
    given += ("--buckets", "1x32,4x32", "--stages", stages, "--samples", 8, "--threads", 1)
    for target in (("torch", "--device", "cpu", "--jobs", 2), ("cpu",)):
        assert run_verb(build, *given, "--target", *target, "--out", tmp_path / target[0]) == 0
    manifest = Artifact.open(tmp_path / "torch").manifest
    gates = {gate.name: gate.status for gate in manifest.gates if gate.name != "task metric"}
    assert set(gates.values()) == {"PASSED"} and "numeric: engines (torch)" in gates
    assert len(manifest.plan.stages) == 2 and manifest.head.kind == kind
    texts = [text_of(row) for row in rows]
    ours, theirs = (Runner(tmp_path / target, threads=1)(texts) for target in ("torch", "cpu"))
    assert any(answer.retention[-1] < answer.tokens for answer in theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.retention == other.retention and mine.label == other.label
        assert np.allclose(mine.logits, other.logits, atol=1e-4)
        assert [answer.text for answer in mine.answers or []] == [answer.text for answer in other.answers or []]
        if kind == "embedding":
            assert mine.embedding is not None and other.embedding is not None
            assert np.allclose(mine.embedding, other.embedding, atol=1e-5)
