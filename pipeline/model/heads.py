"""Task heads: those for tokens read every state, the others the first token's or the mean of all."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.config import EncoderConfig, HeadConfig
from pipeline.model.encoder import activate, make_norm


class Head(nn.Module):
    """States [B, S, D] to float32 logits: [B, outputs], or [B, S, outputs] for a token-level head.

    Where there is a dense layer, it, its activation and perhaps a layer norm stand before the classifier: BERT's
    pooler, the classification heads of RoBERTa and ELECTRA, ModernBERT's prediction head. An embedding has no
    classifier: its numbers are what is pooled, or what a dense layer makes of that.
    """

    def __init__(self, config: HeadConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.token_level, self.activation, self.output = config.token_level, config.activation, config.output
        self.pools, self.normalise, width = config.pools, config.normalise, encoder.hidden_size
        self.pooler = nn.Linear(width, config.size or width, bias=config.dense_bias) if config.has_dense else None
        self.norm = make_norm(encoder) if config.norm else None
        self.classifier = None if config.size else nn.Linear(width, len(config.labels))

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """States of every token to logits; mask [B, S], 1 on real tokens, is needed for a mean."""
        if self.token_level:
            return self.read(hidden)
        if not self.pools:
            return self.read(hidden[:, 0])
        assert mask is not None
        share = mask.float() / mask.sum(-1, keepdim=True).clamp_min(1)
        return self.read(row_sums(hidden, mask != 0, share), hidden.dtype)

    def read(self, pooled: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """What was pooled, [..., D], to logits; `dtype` is that of the layers, where it is given in another one."""
        if dtype is not None and (self.pooler is not None or self.classifier is not None):
            pooled = pooled.to(dtype)
        if self.pooler is not None:
            pooled = activate(self.pooler(pooled), self.activation)
        if self.norm is not None:
            pooled = self.norm(pooled)
        logits = (pooled if self.classifier is None else self.classifier(pooled)).float()
        if self.normalise:
            return F.normalize(logits, dim=-1)
        return torch.sigmoid(logits) if self.output == "sigmoid" else logits


def row_sums(hidden: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    """[B, D] fp32: the sum of these rows, [B, S] bool, of hidden [B, S, D], each times share [B, S] or [B, 1]."""
    # Chosen, not multiplied by 0: what is in a row that nobody reads may be infinite.
    chosen = torch.where(rows[:, :, None], hidden.float(), torch.zeros((), device=hidden.device))
    return (chosen * share[:, :, None]).sum(1)
