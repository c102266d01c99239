"""Evaluates a model on a set: its metric, its cost, and whether that is small enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from calib.ranking import mrr, ndcg
from engines.tokenization import Tokens
from pipeline.model.flops import count_flops, dense_flops
from pipeline.model.retention import carried_rows
from pipeline.model.transformer import PrunedTransformer
from pipeline.training.batches import TokenisedSet
from pipeline.training.config import TrainConfig

LEARN_THEIR_RATIO = ("ltp", "transkimmer")
"""Methods whose FLOPs ratio is an outcome of training."""
_REACHED = 0.97
"""A state has reached the wanted FLOPs ratio from this share of it on."""


@dataclass
class Evaluation:
    """Figures of a whole set: the metric (accuracy, minus the mean squared error of a regression, nDCG@10 of a
    ranking), FLOPs ratio, rows carried per layer, and further figures by name.
    """

    metric: float
    flops_ratio: float
    keep: list[float]
    further: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def evaluate(model: PrunedTransformer, data: TokenisedSet, max_tokens: int, bf16: bool = False) -> Evaluation:
    """Runs the compacted reference over a set, in eval mode."""
    was_training = model.training
    model.eval()
    right = squared = ours = dense = 0.0
    rows, lengths = torch.zeros(model.config.encoder.layers, dtype=torch.float64), 0
    scores = torch.zeros(len(data))
    for batch in data.batches(max_tokens):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(batch.input_ids, batch.mask, batch.token_type_ids, execution="compacted")
        real = batch.mask.sum(-1)
        ours += float(count_flops(model.config, real, out.counts).total.sum())
        dense += float(dense_flops(model.config, real).total.sum())
        rows += out.counts.sum(1)
        lengths += int(real.sum())
        if model.config.head.kind == "ranking":
            scores[batch.index] = out.logits[:, 0].float()
        elif model.config.head.kind == "regression":
            squared += float((out.logits[:, 0].float() - batch.target).square().sum())
        else:
            right += float((out.logits.argmax(-1) == batch.target).sum())
    model.train(was_training)
    keep = [round(float(r) / lengths, 4) for r in rows]
    if model.config.head.kind == "ranking":
        ranked = scores.tolist(), data.targets.tolist(), data.queries.tolist()
        return Evaluation(ndcg(*ranked), dense / ours, keep, {"mrr@10": round(mrr(*ranked), 4)})
    metric = -squared / len(data) if model.config.head.kind == "regression" else right / len(data)
    return Evaluation(metric, dense / ours, keep)


def flops_ratio(model: PrunedTransformer, samples: Sequence[Tokens]) -> float:
    """Dense over pruned FLOPs; nothing is computed behind the last decision."""
    was_training = model.training
    rows = carried_rows(model.eval(), samples)
    model.train(was_training)
    ours = count_flops(model.config, rows[:, 0], rows[:, 1:].T).total.sum()
    return float(dense_flops(model.config, rows[:, 0]).total.sum() / ours)


def reaches_ratio(config: TrainConfig, evaluation: Evaluation) -> bool:
    """Whether a model has the FLOPs ratio that was asked for; always, where the method does not learn its ratio."""
    return config.method not in LEARN_THEIR_RATIO or evaluation.flops_ratio >= _REACHED * config.flops_ratio
