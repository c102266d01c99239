"""Training a reranker: its losses, batches by query, what the verb makes of it, and the query that it protects."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path

import pytest
import torch

from pipeline import train
from pipeline.model.checkpoint import read_config
from pipeline.training.batches import TokenisedSet
from pipeline.training.ranking_loss import margin_loss, relevance_loss
from tests.gates.builds import run_verb
from tests.training.runs import make_examples


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """12 queries of 4 passages each; the relevant passage begins as the query does."""
    generator = random.Random(0)
    vocabulary = [word for example in make_examples(24, 1) for word in example.text.split()]
    for name in ("train", "dev"):
        rows = []
        for number in range(12):
            query = " ".join(generator.choices(vocabulary, k=3)) + f" {name[0]} {number}"
            for place in range(4):
                passage = " ".join(generator.choices(vocabulary, k=8))
                passage = f"{query} {passage}" if place == number % 4 else passage
                rows.append({"text": query, "text_b": passage, "label": int(place == number % 4)})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    return tmp_path


def test_margins_are_those_of_all_pairs_of_a_query() -> None:
    torch.manual_seed(0)
    scores, taught = torch.randn(7), torch.randn(7)
    query = torch.tensor([0, 0, 0, 1, 2, 2, 3])
    expected = [
        float(((scores[i] - scores[j]) - (taught[i] - taught[j])) ** 2)
        for i, j in combinations(range(7), 2)
        if query[i] == query[j]
    ]
    assert len(expected) == 4
    assert float(margin_loss(scores, taught, query)) == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert float(margin_loss(taught + 3, taught, query)) == pytest.approx(0, abs=1e-9)
    assert float(margin_loss(scores, taught, torch.arange(7))) == 0


def test_relevance_above_1_is_certain() -> None:
    scores = torch.tensor([2.0, -1.0])
    assert relevance_loss(scores, torch.tensor([3.0, 0.0])) == relevance_loss(scores, torch.tensor([1.0, 0.0]))


def test_the_pairs_of_a_query_share_a_batch(tiny_backbone: Path, data: Path) -> None:
    from calib.data import read_examples
    from engines.tokenization import TextEncoder

    examples = read_examples(str(data / "train.jsonl"))
    random.Random(1).shuffle(examples)
    encoder = TextEncoder(tiny_backbone / "tokenizer.json", 32)
    ranking = TokenisedSet(examples, encoder, None, 0, "ranking")
    seen: list[int] = []
    for batch in ranking.batches(256, torch.Generator().manual_seed(0)):
        assert batch.mask.numel() <= 256 or len(batch.index) == 4
        seen += batch.index.tolist()
        for number in batch.query.unique():
            assert (batch.query == number).sum() == 4
    assert sorted(seen) == list(range(48))


def test_a_reranker_is_trained_distilled_and_protects_its_query(
    tiny_backbone: Path, data: Path, capsys: pytest.CaptureFixture
) -> None:
    common = ("--data", data / "train.jsonl", "--dev-data", data / "dev.jsonl", "--max-length", 32, "--evaluations", 1)
    dense = ("--method", "dense", "--task", "ranking", "--backbone", tiny_backbone, "--out", data / "dense")
    assert run_verb(train, *dense, *common) == 0
    pruned = ("--method", "ltp", "--init", data / "dense", "--out", data / "ltp", "--flops-ratio", 1.2)
    assert run_verb(train, *pruned, *common) == 0
    config = read_config(data / "ltp")
    assert (config.head.kind, config.head.labels) == ("ranking", ["value"])
    from engines.tokenization import TextEncoder

    encoder = TextEncoder(data / "ltp" / "tokenizer.json", 32)
    assert config.pruner.protect_until == encoder.separator is not None
    history = json.loads((data / "ltp" / "run.json").read_text("utf-8"))["history"]
    assert all(0 <= entry["dev_metric"] <= 1 and 0 <= entry["dev_mrr@10"] <= 1 for entry in history)
    free = ("--method", "ltp", "--init", data / "ltp", "--out", data / "free", "--no-protect-segment")
    assert run_verb(train, *free, *common) == 0
    assert read_config(data / "free").pruner.protect_until is None
    capsys.readouterr()
    classes = ("--method", "ltp", "--init", data / "ltp", "--task", "classification", "--out", data / "wrong")
    assert run_verb(train, *classes, *common) == 2
    assert "expected that of --init" in capsys.readouterr().err
