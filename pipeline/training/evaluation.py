"""Evaluates a model on a set: its metric, its cost, and whether that is small enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from calib.metric import measure
from calib.ranking import mrr, ndcg
from engines.head import Head
from engines.tokenization import Tokens
from pipeline.model.flops import count_flops, dense_flops, flops_ratio
from pipeline.model.retention import carried_rows, undecided
from pipeline.model.transformer import PrunedTransformer
from pipeline.training.batches import TokenisedSet
from pipeline.training.config import TrainConfig

LEARN_THEIR_RATIO = ("ltp", "transkimmer")
"""Methods whose FLOPs ratio is an outcome of training."""
REACHED = 0.97
"""A state has reached the wanted FLOPs ratio from this share of it on."""


@dataclass
class Evaluation:
    """Figures of a whole set: the metric (that of `calib.metric`, but of a regression minus the mean squared error),
    FLOPs ratio, rows carried per layer, and further figures by name.
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
    ours = dense = 0.0
    rows, lengths = torch.zeros(model.config.encoder.layers, dtype=torch.float64), 0
    answers: dict[int, Tensor] = {}
    for batch in data.batches(max_tokens):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(batch.input_ids, batch.mask, batch.token_type_ids, execution="compacted")
        real = batch.mask.sum(-1)
        ours += float(count_flops(model.config, real, out.counts).total.sum())
        dense += float(dense_flops(model.config, real).total.sum())
        rows += out.counts.sum(1)
        lengths += int(real.sum())
        for index, row, length in zip(batch.index.tolist(), out.logits.float(), real.tolist(), strict=True):
            answers[index] = row[:length] if row.dim() == 2 else row
    model.train(was_training)
    keep = [round(float(r) / lengths, 4) for r in rows]
    metric, further = _metric(model.config.head, data, [answers[index] for index in range(len(data))])
    return Evaluation(metric, dense / ours, keep, further)


def _metric(head: Head, data: TokenisedSet, logits: Sequence[Tensor]) -> tuple[float, dict[str, float]]:
    """The figure that a state is chosen by, and others by name."""
    found = [answer.numpy() for answer in logits]
    if head.kind == "classification":
        right = [int(answer.argmax()) == int(target) for answer, target in zip(logits, data.targets, strict=True)]
        return sum(right) / len(right), {}
    if head.one_value:
        ours, theirs = torch.cat(list(logits)), torch.stack(list(data.targets))
        if head.kind == "ranking":
            ranked = ours.tolist(), theirs.tolist(), data.queries.tolist()
            return ndcg(*ranked), {"mrr@10": round(mrr(*ranked), 4)}
        correlations = measure(head, found, data.examples)
        known = {name: round(value, 4) for name, value in correlations.items() if math.isfinite(value)}
        return -float((ours - theirs).square().mean()), known
    figures = measure(head, found, data.examples, data.tokens, data.against)
    return next(iter(figures.values())), {name: round(value, 4) for name, value in figures.items()}


def ratio_on(model: PrunedTransformer, samples: Sequence[Tokens]) -> Callable[[], float]:
    """Measures dense over pruned FLOPs at every call, while nothing of the model changes but its decisions.

    What stands in front of the first decision is computed once, and nothing behind the last one.
    """
    before = list(undecided(model, samples))
    return lambda: flops_ratio(model.config, carried_rows(model, samples, before))


def reaches_ratio(config: TrainConfig, evaluation: Evaluation) -> bool:
    """Whether a model has the FLOPs ratio that was asked for; always, where the method does not learn its ratio."""
    return config.method not in LEARN_THEIR_RATIO or evaluation.flops_ratio >= REACHED * config.flops_ratio
