"""How much arithmetic a sample costs, from the number of rows that each layer works on.

One multiply-add counts as two FLOPs. Counted are the matrix products: projections (that of narrow embeddings is one),
attention, feed-forward (a gated one has three), the pruner's predictors and translators, and the head; not counted are
look-ups, layer norms, softmax and activations (as in LTP's code).

A query of a local layer counts the keys that its span can hold, though an engine that masks computes all of them: so
neither the dense figure nor the savings grow by keys that nobody looks at. Disentangled attention multiplies queries,
or keys, with every row of the table of distances; the table's projections do not depend on the text and are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.model.config import CheckpointConfig, EncoderConfig
from pipeline.model.pruners import make_pruner


@dataclass(frozen=True)
class Flops:
    """FLOPs per sample, each [B]."""

    projections: Tensor
    attention: Tensor
    feed_forward: Tensor
    predictor: Tensor
    head: Tensor

    @property
    def total(self) -> Tensor:
        """All of it, [B]."""
        return self.projections + self.attention + self.feed_forward + self.predictor + self.head


def count_flops(
    config: CheckpointConfig,
    lengths: Tensor,
    counts: Tensor,
    padded: Callable[[Tensor], Tensor] | None = None,
) -> Flops:
    """FLOPs of samples of real length `lengths` [B] whose layers carry `counts` [layers, B] rows after their decision.

    `padded` rounds row counts up to what an engine computes (a bucket's length, a batch's maximum); None counts real
    rows. Everything is differentiable in `counts`, which may be fractional.
    """
    encoder = config.encoder
    with torch.device("meta"):  # no weights are needed, and none may be drawn from the random state
        pruner = make_pruner(config.pruner, encoder)
    width, inner = encoder.hidden_size, encoder.intermediate_size
    rounded = padded or (lambda rows: rows)
    zero = torch.zeros(lengths.shape, dtype=torch.float64, device=lengths.device)
    attention, feed_forward, predictor = zero, zero, zero
    before = rounded(lengths).double()
    projections = 2 * (encoder.embedding_size or 0) * width * before
    for layer in range(encoder.layers):
        after = rounded(counts[layer]).double()
        attended = after if pruner.where == "before_attention" else before
        projections = projections + 8 * width**2 * attended
        attention = attention + 4 * width * attended * _keys(encoder, layer, attended)
        if encoder.disentangled is not None:
            relative = 2 * encoder.disentangled.span * encoder.disentangled.products
            attention = attention + 2 * width * relative * attended
        feed_forward = feed_forward + 2 * encoder.feed_forward_products * width * inner * after
        predictor = predictor + 2 * pruner.multiply_adds(layer, width) * before
        before = after
    rows = rounded(lengths).double() if config.head.token_level else torch.ones_like(zero)
    pooler = width * (config.head.size or width) if config.head.has_dense else 0
    head = 2 * rows * (pooler + width * len(config.head.labels))
    predictor = predictor + 2 * width**2 * len(pruner.translators or ())  # each maps a sum
    return Flops(projections, attention, feed_forward, predictor, head)


def _keys(encoder: EncoderConfig, layer: int, rows: Tensor) -> Tensor:
    """The most keys that a query of a layer sees among N rows."""
    if encoder.local is None or layer not in encoder.local_layers:
        return rows
    return rows.clamp_max(2 * encoder.local.distance + 1)


def flops_ratio(config: CheckpointConfig, rows: Tensor, dense: CheckpointConfig | None = None) -> float:
    """Dense FLOPs over pruned FLOPs of all samples together, padding not counted.

    rows:  [samples, 1 + layers], the real length, then the rows behind each layer's decision.
    dense: the model to compare with, on the same tokens; None: the same encoder without a pruner.
    """
    lengths, counts = rows[:, 0], rows[:, 1:].T
    compared = dense_flops(dense or config, lengths)
    return float(compared.total.sum() / count_flops(config, lengths, counts).total.sum())


def dense_flops(config: CheckpointConfig, lengths: Tensor, padded: Callable[[Tensor], Tensor] | None = None) -> Flops:
    """FLOPs of the same encoder without a pruner."""
    dense = config.model_copy(update={"pruner": config.pruner.model_copy(update={"method": "dense"})})
    return count_flops(dense, lengths, lengths.expand(config.encoder.layers, -1), padded)
