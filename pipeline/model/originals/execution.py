"""Runs a converted model as the papers' own code runs it, with what SkimRT does otherwise: to measure, not to serve.

Both keep every row to the end and mask. Rows are those of BERT or RoBERTa: norms behind the blocks, learned positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import InputError
from pipeline.model.encoder import Attention
from pipeline.model.positions import mask_fill
from pipeline.model.retention import PaddedBatch
from pipeline.model.transformer import PrunedTransformer


@dataclass(frozen=True)
class Run:
    """logits [B, classes] or [B, S, classes]; states [B, S, D], the last ones; alive [layers, B, S] bool and score
    [layers, B, S], NaN where a layer has none, both of padding too."""

    logits: Tensor
    states: Tensor
    alive: Tensor
    score: Tensor


def is_run(model: PrunedTransformer) -> bool:
    """Whether a model is of the kind that the papers' code has."""
    encoder = model.config.encoder
    parts = (encoder.relative_bias, encoder.disentangled, encoder.rope, encoder.local, encoder.layer_groups)
    return encoder.norm == "post" and encoder.learned_positions and all(part is None for part in parts)


@torch.no_grad()
def run_ltp(model: PrunedTransformer, batch: PaddedBatch) -> Run:
    """LTP and its baselines: scores are divided by the batch's padded length S; the first token is like any other.

    A dense model is one in which no layer decides. Raises InputError.
    """
    # Padding may be longer than the position table: it stands where the first token does, and nobody reads it.
    state, keep = _embedded(model, batch, batch.mask.cumsum(1).sub(1) * batch.mask), batch.mask.bool()
    rule = _rule(model, batch)
    alive, scores = [], []
    for layer in range(model.config.encoder.layers):
        probabilities = torch.softmax(_logits(model, layer, state) + _fill(keep), dim=-1)
        decided = keep
        if model.pruner.decides(layer):
            # Where no layer decides, dead rows have a context: the padding's before the first decision.
            probabilities = probabilities * keep[:, None, :, None]
            score = probabilities.sum(1).sum(1)
            decided, score = rule(layer, score)
        else:
            score = torch.full(keep.shape, torch.nan)
        state = _block(model, layer, state, probabilities)
        keep = decided
        alive.append(keep)
        scores.append(score)
    return Run(model.head(state, batch.mask), state, torch.stack(alive), torch.stack(scores))


@torch.no_grad()
def run_transkimmer(model: PrunedTransformer, batch: PaddedBatch, noise: torch.Generator | None = None) -> Run:
    """Transkimmer's `master`: dead keys leave after the softmax, which is not normalised again; padding may live.

    noise: draws the Gumbel noise that the published code has at inference; None: the likelier of keep and skim.
    Raises InputError.
    """
    state = _embedded(model, batch, torch.arange(batch.mask.shape[1]).expand_as(batch.mask))
    padding = _fill(batch.mask.bool())
    final, keep = state, torch.ones_like(batch.mask, dtype=torch.bool)
    alive, scores = [], []
    for layer in range(model.config.encoder.layers):
        score = model.pruner.score(layer, state, None, keep)
        # The difference of two Gumbel variables is logistic.
        decided = score > 0 if noise is None else score + torch.logit(torch.rand(score.shape, generator=noise)) > 0
        decided[:, 0] = True
        keep = keep & decided
        probabilities = torch.softmax(_logits(model, layer, state) + padding, dim=-1) * keep[:, None, None, :]
        state = _block(model, layer, state, probabilities)
        final = torch.where(keep[:, :, None], state, final)
        alive.append(keep)
        scores.append(score)
    return Run(model.head(final, batch.mask), final, torch.stack(alive), torch.stack(scores))


Decision = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""(layer, attention received [B, S], summed over heads and living rows) to what lives on and its score, both [B, S]."""


def _rule(model: PrunedTransformer, batch: PaddedBatch) -> Decision:
    pruner = model.config.pruner
    if pruner.method == "topk":
        rates = torch.tensor(pruner.keep_rates, dtype=torch.float64).cumprod(0)
        lengths = batch.mask.sum(1)

        def topk(layer: int, mass: Tensor) -> tuple[Tensor, Tensor]:
            kept = torch.round(lengths * rates[layer].float()).long()
            rank = mass.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            return rank < kept[:, None], mass

        return topk
    normaliser = model.config.encoder.heads * batch.mask.shape[1]

    def threshold(layer: int, mass: Tensor) -> tuple[Tensor, Tensor]:
        score = mass / (normaliser if pruner.method == "ltp" else mass.amax(1, keepdim=True))
        return score >= model.pruner.threshold(layer), score

    return threshold


def _embedded(model: PrunedTransformer, batch: PaddedBatch, place: Tensor) -> Tensor:
    if not is_run(model):
        raise InputError(f"the papers' code knows BERT and RoBERTa, found {model.config.encoder.family}")
    embedded: Tensor = model.embeddings(batch.input_ids, batch.token_type_ids, place)
    return embedded


def _fill(keep: Tensor) -> Tensor:
    return torch.where(keep, 0.0, mask_fill(torch.float32))[:, None, None, :]


def _heads(model: PrunedTransformer, rows: Tensor) -> Tensor:
    return rows.unflatten(-1, (model.config.encoder.heads, -1)).transpose(1, 2)


def _attention(model: PrunedTransformer, layer: int) -> Attention:
    attention = model.attention[layer]
    assert isinstance(attention, Attention)
    return attention


def _logits(model: PrunedTransformer, layer: int, state: Tensor) -> Tensor:
    attention = _attention(model, layer)
    query, key = _heads(model, attention.query(state)), _heads(model, attention.key(state))
    return query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5


def _block(model: PrunedTransformer, layer: int, state: Tensor, probabilities: Tensor) -> Tensor:
    attention = _attention(model, layer)
    assert attention.norm is not None
    context = (probabilities @ _heads(model, attention.value(state))).transpose(1, 2).flatten(2)
    following: Tensor = model.feed_forward[layer](attention.norm(state + attention.output(context)))
    return following
