"""A reranker all the way: trained, pruned, built against the dense one with its gates, checked again, and asked."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import reranking
from calib.data import read_examples
from calib.ranking import ndcg, queries_of
from engines.artifact import Artifact
from engines.runner import Runner
from pipeline import build, parity, run, train
from pipeline.model import load_checkpoint
from tests.conftest import LONGEST
from tests.gates.builds import run_verb

PASSAGES = 4
"""Of each query, one of them relevant."""


def write_pairs(path: Path, queries: int, seed: int) -> Path:
    """Queries of three words that only their relevant passage repeats; passages of 8 to 24 words."""
    chance, rows = random.Random(seed), []
    for number in range(queries):
        query = [f"w{word}" for word in chance.sample(range(4, 20), 3)]
        for place in range(PASSAGES):
            passage = [f"w{chance.randrange(20, 60)}" for _ in range(chance.randint(5, 21))]
            if relevant := place == number % PASSAGES:
                passage += query
            rows.append({"text": " ".join(query), "text_b": " ".join(passage), "label": int(relevant)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_reranker_goes_all_the_way(tmp_path: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, test = write_pairs(tmp_path / "train.jsonl", 24, 1), write_pairs(tmp_path / "test.jsonl", 12, 2)
    common = ("--data", data, "--dev-data", test, "--max-length", LONGEST, "--batch-tokens", 512, "--evaluations", 1)
    dense, pruned, out = tmp_path / "dense", tmp_path / "ltp", tmp_path / "artifact"
    fresh = ("--method", "dense", "--task", "ranking", "--backbone", tiny_backbone, "--adapter-rank", 4)
    assert run_verb(train, *fresh, *common, "--out", dense) == 0
    learnt = ("--method", "ltp", "--init", dense, "--adapter-rank", 4, "--decide-at", 1, "--phases", "hard")
    assert run_verb(train, *learnt, *common, "--flops-ratio", 1.3, "--out", pruned) == 0

    against = ("--dense", dense, "--data", test, "--samples", 48, "--max-drop", 100, "--threads", 1)
    shapes = ("--buckets", f"1x{LONGEST},8x16,8x{LONGEST}", "--stages", 2, "--precision", "fp32")
    assert run_verb(build, "--checkpoint", pruned, *against, *shapes, "--out", out) == 0
    manifest = Artifact.open(out).manifest
    assert manifest.head.kind == "ranking" and len(manifest.plan.stages) == 2
    assert {gate.status for gate in manifest.gates} == {"PASSED"}
    excused = [int(gate.figures.get("within_rounding_of_threshold", 0)) for gate in manifest.gates]
    assert max(excused) < 24, "most texts are compared"
    (metric,) = [gate.figures for gate in manifest.gates if gate.name == "task metric"]
    assert metric["metric"] == pytest.approx(metric_of(pruned, test), abs=1e-6)
    assert metric["dense_metric"] == pytest.approx(metric_of(dense, test), abs=1e-6)
    bench = json.loads((out / "bench.json").read_text("utf-8"))
    assert bench["flops_ratio"] > 1.1 and {timing["name"] for timing in bench["timings"]} == {"pruned", "dense"}
    assert run_verb(parity, out, *against, "--provider", "onnxruntime") == 0

    rows = [json.loads(line) for line in test.read_text("utf-8").splitlines()][:PASSAGES]
    query, passages = rows[0]["text"], [row["text_b"] for row in rows]
    found = Runner(out, threads=1).rerank(query, passages)
    expected = {index: score for index, score in enumerate(scores_of(pruned, test)[:PASSAGES])}
    assert [ranked.index for ranked in found] == sorted(expected, key=lambda index: -expected[index])
    for ranked in found:
        assert ranked.score == pytest.approx(expected[ranked.index], abs=1e-4)
        assert set(ranked.context.split()) <= set(passages[ranked.index].split())
        kept = ranked.retention[-1] - len(query.split()) - 2  # [CLS] query [SEP], which all stay
        assert kept - 1 <= len(ranked.context.split()) <= kept, "but for the last [SEP], every row left is a word"
    assert any(ranked.retention[-1] < ranked.tokens for ranked in found), "some word must die"
    capsys.readouterr()
    assert run_verb(run, out, "--text", query, "--text-b", passages[0]) == 0
    assert json.loads(capsys.readouterr().out)["logits"][0] == pytest.approx(expected[0], abs=1e-4)
    asked = (out, "--runs", dense, pruned, "--data", test, "--queries", 1, "--rounds", 1, "--json", tmp_path / "record")
    assert run_verb(reranking, *asked) == 0
    record = json.loads((tmp_path / "record").read_text("utf-8"))
    assert np.mean(record["ranked"]["pruned"]["ndcg@10"]) == pytest.approx(metric["metric"], abs=1e-4)
    assert record["ranked"]["pruned"]["flops_ratio"] == pytest.approx(bench["flops_ratio"], abs=1e-3)
    assert record["ranked"]["dense"]["flops_ratio"] == 1


def metric_of(checkpoint: Path, data: Path) -> float:
    """nDCG@10 of a model in PyTorch."""
    examples = read_examples(str(data))
    relevance = [float(example.label) for example in examples]
    return ndcg(scores_of(checkpoint, data), relevance, queries_of(examples))


def scores_of(checkpoint: Path, data: Path) -> list[float]:
    """The scores that PyTorch gives each pair alone."""
    from engines.tokenization import TextEncoder

    model, examples = load_checkpoint(checkpoint), read_examples(str(data))
    scores = []
    for sample in TextEncoder(checkpoint / "tokenizer.json", LONGEST)([example.content for example in examples]):
        ids = torch.tensor([sample.input_ids])
        types = torch.tensor([sample.token_type_ids])
        scores.append(float(model(ids, torch.ones_like(ids), types).logits[0, 0].detach()))
    assert np.ptp(scores) > 0, "a model that scores all alike ranks nothing"
    return scores
