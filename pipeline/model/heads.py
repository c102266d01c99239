"""Task heads: classification and regression read the first token, question answering and tagging every token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.model.config import EncoderConfig, HeadConfig
from pipeline.model.encoder import activate, make_norm


class Head(nn.Module):
    """States [B, S, D] to float32 logits: [B, classes], or [B, S, classes] for a token-level head.

    Where there is a dense layer, it, its activation and perhaps a layer norm stand before the classifier: BERT's
    pooler, the classification heads of RoBERTa and ELECTRA, ModernBERT's prediction head.
    """

    def __init__(self, config: HeadConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.token_level, self.activation, self.output = config.token_level, config.activation, config.output
        width = encoder.hidden_size
        self.pooler = nn.Linear(width, width, bias=config.dense_bias) if config.has_dense else None
        self.norm = make_norm(encoder) if config.norm else None
        self.classifier = nn.Linear(width, len(config.labels))

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.token_level:
            hidden = hidden[:, 0]
        if self.pooler is not None:
            hidden = activate(self.pooler(hidden), self.activation)
        if self.norm is not None:
            hidden = self.norm(hidden)
        logits = self.classifier(hidden).float()
        return torch.sigmoid(logits) if self.output == "sigmoid" else logits
