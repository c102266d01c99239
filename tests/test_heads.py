"""Every kind of head from labelled rows to answers: trained, built with its gates, run, and checked again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.artifact import Artifact
from engines.runner import Runner
from pipeline import build, parity, run, train
from tests.conftest import write_backbone
from tests.engines.driving import INNER
from tests.engines.host_device import HostDevice, HostDeviceBackend, plain_regroup
from tests.gates.builds import run_verb
from tests.graph.small import small_model

Row = dict[str, Any]


def words(chance: random.Random) -> list[str]:
    """A text in which w4 and w5 mean something."""
    return [f"w{chance.choice([4, 4, 5, 5, *range(6, 20)])}" for _ in range(chance.randint(3, 9))]


def multi_label(chance: random.Random) -> Row:
    text = words(chance)
    return {"text": " ".join(text), "label": [name for name, word in (("four", "w4"), ("five", "w5")) if word in text]}


def regression(chance: random.Random) -> Row:
    text = words(chance)
    return {"text": " ".join(text), "label": text.count("w4") / len(text) + 0.01 * chance.random()}


def tagging(chance: random.Random) -> Row:
    text = words(chance)
    return {"text": text, "label": [{"w4": "B-ONE", "w5": "B-TWO"}.get(word, "O") for word in text]}


def question_answering(chance: random.Random) -> Row:
    text, asked = words(chance), f"w{chance.choice([4, 5])}"
    context = " ".join(text)
    places = [len(" ".join(text[:n])) + (n > 0) for n, word in enumerate(text) if word == asked]
    return {
        "text": asked,
        "text_b": context,
        "label": {"text": [asked] * len(places), "answer_start": places},
    }


def embedding(chance: random.Random) -> Row:
    return {"text": " ".join(words(chance))}


ROWS: dict[str, Callable[[random.Random], Row]] = {
    "multi_label": multi_label,
    "regression": regression,
    "tagging": tagging,
    "question_answering": question_answering,
    "embedding": embedding,
}
FIGURES = {
    "multi_label": {"metric", "macro_f1"},
    "regression": {"metric", "spearman"},
    "tagging": {"metric"},
    "question_answering": {"metric", "exact_match"},
    "embedding": {"metric", "least_cosine"},
}


def write(path: Path, kind: str, count: int, seed: int) -> Path:
    chance = random.Random(seed)
    path.write_text("".join(json.dumps(ROWS[kind](chance)) + "\n" for _ in range(count)), "utf-8")
    return path


def embedder(folder: Path, backbone: Path) -> Path:
    """The backbone with sentence-transformers' mean and norm behind it."""
    shutil.copytree(backbone, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}', "utf-8")
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    return folder


def check_answer(kind: str, found: Row, labels: list[str]) -> None:
    """What people expect of the head, and no more."""
    common = {"tokens", "retention"}
    if kind == "embedding":
        assert found.keys() == {"embedding", *common} and np.linalg.norm(found["embedding"]) == pytest.approx(1)
    elif kind == "tagging":
        assert found.keys() == {"entities", *common}
        for entity in found["entities"]:
            assert entity.keys() == {"label", "probability", "start", "end", "text"}
            assert "w7 w4 w5"[entity["start"] : entity["end"]] == entity["text"]
    elif kind == "question_answering":
        assert found.keys() == {"answer", "probability", "start", "end", "others", *common}
        assert "w7 w4 w5"[found["start"] : found["end"]] == found["answer"]
    elif kind == "multi_label":
        assert found.keys() == {"label", "probability", "probabilities", "logits", *common}
        assert list(found["probabilities"]) == labels
        assert found["label"] == [name for name, share in found["probabilities"].items() if share >= 0.5]
    else:
        assert found["label"] is None and len(found["logits"]) == 1


def device() -> HostDeviceBackend:
    """The same engines with their rows on a device, to which the means' parts go and come back."""
    return HostDeviceBackend(INNER, HostDevice(plain_regroup))


QUICK = ("embedding", "question_answering")
"""One head whose stages carry a mean, and one that reads every row; the others take as long again."""
EVERY_ROW = ("question_answering", "tagging")
"""Heads that read every row: their models are cut at every decision."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """An encoder of two layers: half of the time of a build here is tracing, layer by layer."""
    return write_backbone(tmp_path_factory.mktemp("backbone"), small_model("dense", layers=2), tiny_tokenizer)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in ROWS]
)
def test_a_head_goes_all_the_way(kind: str, tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, dev = write(tmp_path / "train.jsonl", kind, 48, 1), write(tmp_path / "dev.jsonl", kind, 24, 2)
    common = ("--data", data, "--dev-data", dev, "--max-length", 24, "--batch-tokens", 256, "--evaluations", 1)
    if kind == "embedding":
        dense = embedder(tmp_path / "embedder", backbone)
    else:
        dense = tmp_path / "dense"
        assert run_verb(train, "--method", "dense", "--backbone", backbone, *common, "--out", dense) == 0
    pruned = ("--method", "topk", "--init", dense, "--keep-rate", 0.8, "--out", tmp_path / "topk")
    assert run_verb(train, *pruned, *common) == 0
    kept = json.loads((tmp_path / "topk" / "run.json").read_text("utf-8"))["dev"]
    assert kept["flops_ratio"] > 1 and min(kept["keep"]) < 1
    out = tmp_path / "artifact"
    settings = ("--samples", 12, "--threads", 1, "--dense", dense, "--max-drop", 100, "--data", dev)
    model = ("--checkpoint", tmp_path / "topk", "--precision", "fp32", "--out", out)
    shapes = ("--stages", "auto" if kind in EVERY_ROW else 2, "--buckets", "1x24,2x24")
    assert run_verb(build, *settings, *model, *shapes) == 0
    manifest = Artifact.open(out).manifest
    assert manifest.head.kind == kind and {gate.status for gate in manifest.gates} == {"PASSED"}
    (metric,) = [gate.figures for gate in manifest.gates if gate.name == "task metric"]
    assert FIGURES[kind] <= metric.keys()
    assert len(manifest.plan.stages) > 1
    assert run_verb(parity, out, *settings, "--provider", "onnxruntime") == 0
    capsys.readouterr()
    text = ("--text", "w4", "--text-b", "w7 w4 w5") if kind == "question_answering" else ("--text", "w7 w4 w5")
    assert run_verb(run, out, *text, "--answers", 2) == 0
    check_answer(kind, json.loads(capsys.readouterr().out), manifest.head.labels)
    if kind == "embedding":
        texts = [" ".join(words(random.Random(seed))) for seed in range(9)]
        on_host, on_device = (Runner(out, target)(texts) for target in ("auto", device()))
        for ours, theirs in zip(on_host, on_device, strict=True):
            assert isinstance(ours.embedding, np.ndarray) and ours.embedding.dtype == np.float32
            assert theirs.embedding is not None and np.abs(ours.embedding - theirs.embedding).max() < 1e-6
            assert ours.retention == theirs.retention
