"""Task heads: classification and regression read the first token, question answering and tagging every token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.model.config import EncoderConfig, HeadConfig


class Head(nn.Module):
    """States [B, S, D] to float32 logits: [B, classes], or [B, S, classes] for a token-level head.

    A sequence head is dense, tanh, linear: BERT's pooler and classifier, and RoBERTa's classification head.
    """

    def __init__(self, config: HeadConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.token_level = config.token_level
        self.pooler = None if self.token_level else nn.Linear(encoder.hidden_size, encoder.hidden_size)
        self.classifier = nn.Linear(encoder.hidden_size, len(config.labels))

    def forward(self, hidden: Tensor) -> Tensor:
        if self.pooler is not None:
            hidden = torch.tanh(self.pooler(hidden[:, 0]))
        return self.classifier(hidden).float()
