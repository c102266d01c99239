"""What a reranker is trained with: relevance as a probability, and a teacher's margins between a query's passages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def relevance_loss(scores: Tensor, relevance: Tensor) -> Tensor:
    """Binary cross-entropy of scores [B] (logits); the target is the relevance [B], at most 1."""
    return F.binary_cross_entropy_with_logits(scores, relevance.clamp(0, 1).to(scores.dtype))


def margin_loss(scores: Tensor, taught: Tensor, query: Tensor) -> Tensor:
    """MarginMSE (Hofstätter et al., 2020): mean squared difference of the scores' margins from the teacher's, both [B].

    Over all pairs of passages of one query, which `query` [B] numbers; 0 where no query has two.
    """
    same = query[:, None] == query[None, :]
    pairs = torch.triu(same, diagonal=1)
    error = scores - taught
    margins = (error[:, None] - error[None, :])[pairs]
    return margins.square().mean() if margins.numel() else scores.sum() * 0
