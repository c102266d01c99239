"""What each kind of head is trained with: the loss against labels, and that against a teacher's logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from engines.head import HeadKind
from pipeline.training.batches import Batch
from pipeline.training.ranking_loss import margin_loss, relevance_loss
from pipeline.training.targets import IGNORED

_TEMPERATURE = 2.0
"""Of soft targets, whose loss is scaled by its square (Hinton et al., 2015)."""


def task_loss(kind: HeadKind, logits: Tensor, batch: Batch) -> Tensor:
    """The loss of logits [B, outputs] or [B, S, outputs] against the batch's targets."""
    match kind:
        case "ranking":
            return relevance_loss(logits[:, 0], batch.target)
        case "regression":
            return F.mse_loss(logits[:, 0], batch.target)
        case "multi_label":
            return F.binary_cross_entropy_with_logits(logits, batch.target)
        case "tagging":
            return F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), ignore_index=IGNORED)
        case "question_answering":
            return F.cross_entropy(_by_end(logits, batch.mask), batch.target.flatten())
        case "embedding":
            return logits.sum() * 0  # it has no labels
        case _:
            return F.cross_entropy(logits, batch.target)


def _classes(logits: Tensor, taught: Tensor, batch: Batch) -> Tensor:
    return _divergence(logits, taught)


def _tokens(logits: Tensor, taught: Tensor, batch: Batch) -> Tensor:
    real = batch.mask.bool()
    return _divergence(logits[real], taught[real])


def _ends(logits: Tensor, taught: Tensor, batch: Batch) -> Tensor:
    return _divergence(_by_end(logits, batch.mask), _by_end(taught, batch.mask))


def _labels(logits: Tensor, taught: Tensor, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.sigmoid(taught))


def _margins(logits: Tensor, taught: Tensor, batch: Batch) -> Tensor:
    return margin_loss(logits[:, 0], taught[:, 0], batch.query)


def _distance(logits: Tensor, taught: Tensor, batch: Batch) -> Tensor:
    """Half the squared distance over the squared length: of normalised embeddings, 1 less their cosine."""
    return ((logits - taught).square().sum(-1) / taught.square().sum(-1).clamp_min(1e-12)).mean() / 2


DISTILLED: dict[HeadKind, Callable[[Tensor, Tensor, Batch], Tensor]] = {
    "classification": _classes,
    "multi_label": _labels,
    "ranking": _margins,
    "embedding": _distance,
    "question_answering": _ends,
    "tagging": _tokens,
}
"""The loss of logits against a teacher's of the same shape; a regression has none."""


def _divergence(logits: Tensor, taught: Tensor) -> Tensor:
    """Of distributions [N, choices] at a temperature."""
    t = _TEMPERATURE
    soft, wanted = F.log_softmax(logits / t, -1), F.log_softmax(taught / t, -1)
    return t**2 * F.kl_div(soft, wanted, log_target=True, reduction="batchmean")


def _by_end(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits [B, S, 2] of starts and ends as choices among the real tokens, [2 * B, S]."""
    return torch.where(mask[:, None, :] > 0, logits.transpose(1, 2), -1e4).flatten(0, 1)
