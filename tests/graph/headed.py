"""Small models with every kind of head, whose stages the target torch compiles."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.model import PrunedTransformer
from pipeline.model.config import CheckpointConfig, HeadConfig
from tests.conftest import WIDTH
from tests.graph.small import small_model

SEPARATOR = 3
HEADS: dict[str, dict[str, Any]] = {
    "embedding": {"size": WIDTH, "pooling": "mean", "normalise": True},
    "multi_label": {"labels": ["four", "five"], "thresholds": [0.4, 0.6]},
    "tagging": {"labels": ["O", "B-ONE", "I-ONE"]},
    "question_answering": {"labels": ["start", "end"], "no_answer": True},
    "ranking": {"labels": ["value"], "output": "sigmoid"},
}
"""What each kind says beside its name."""


def headed_model(kind: str, layers: int = 2) -> PrunedTransformer:
    """Transkimmer with such a head, which decides in front of every layer; a ranking one protects its query, an
    embedding has translators."""
    small = small_model("transkimmer", layers)
    special = {"protect_until": SEPARATOR if kind == "ranking" else None, "translated": kind == "embedding"}
    pruner = small.config.pruner.model_copy(update=special)
    fields = {"head": HeadConfig(kind=kind, **HEADS[kind]), "pruner": pruner}  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = PrunedTransformer(CheckpointConfig(**{**dict(small.config), **fields}))
    encoder = {n: v for n, v in small.state_dict().items() if not n.startswith("head.")}
    lacking = model.load_state_dict(encoder, strict=False)
    new = ("head.", "pruner.translators.")
    assert not lacking.unexpected_keys and all(name.startswith(new) for name in lacking.missing_keys)
    for name, parameter in model.named_parameters():
        if name.startswith("pruner.translators."):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()
