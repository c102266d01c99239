"""The blocks of a BERT-family encoder: embeddings, attention, feed-forward. All masking is by removal.

Linear layers and embeddings run in the type of their weights, layer norm and softmax in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.config import EncoderConfig

MASK_FILL = -1e4
"""Added to the logits of dead keys. Finite, so that a row without a living key is not NaN, and representable in
fp16; after the softmax it is exactly zero, because exp underflows more than 9,000 below the row's maximum."""


class LayerNorm(nn.LayerNorm):
    """Layer norm in float32, rounded to the type that it was given."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


class Embeddings(nn.Module):
    """Token ids [B, S] and segment ids [B, S] to hidden states [B, S, D]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.offset = config.position_offset
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_positions, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, position: Tensor) -> Tensor:
        embedded = self.word(input_ids) + self.token_type(token_type_ids) + self.position(position + self.offset)
        return self.norm(embedded)


class Attention(nn.Module):
    """Multi-head self-attention with its residual and layer norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = (config.hidden_size // config.heads) ** -0.5
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, hidden: Tensor, alive: Tensor, keep: Tensor | None, need_mass: bool, zero_dead: bool
    ) -> tuple[Tensor, Tensor | None]:
        """hidden [B, S, D] to the block's output [B, S, D] and, if asked for, the attention mass [B, S].

        alive:     [B, S], 0 removes a key from the softmax.
        keep:      [B, S] in [0, 1] or None; training's relaxation of `alive`. A key of weight w takes part in the
                   softmax w times, so that 0 and 1 are removal and presence exactly, and gradients reach `keep`.
        need_mass: also return the fp32 column sum of the probabilities over heads and alive queries.
        zero_dead: give dead queries a zero context (what the original LTP does to a dead first token).
        """
        batch, length, width = hidden.shape

        def split(x: Tensor) -> Tensor:  # [B, S, D] -> [B, H, S, D / H]
            return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = (split(layer(hidden)) for layer in (self.query, self.key, self.value))
        bias = ((1 - alive) * MASK_FILL).to(hidden.dtype)[:, None, None, :]  # [B, 1, 1, S]
        probabilities = torch.softmax(((query * self.scale) @ key.transpose(-1, -2) + bias).float(), dim=-1)
        if keep is not None:
            weighted = probabilities * keep[:, None, None, :]
            probabilities = weighted / weighted.sum(-1, keepdim=True).clamp_min(1e-9)
        context = (probabilities.to(value.dtype) @ value).transpose(1, 2).reshape(batch, length, width)
        weight = alive if keep is None else alive * keep
        if zero_dead:
            context = context * weight[:, :, None].to(context.dtype)
        mass = None
        if need_mass:
            mass = (weight.float()[:, None, None, :] @ probabilities).sum(dim=(1, 2))
        return self.norm(hidden + self.output(context)), mass


class FeedForward(nn.Module):
    """The two-layer feed-forward block with its residual and layer norm; [B, S, D] to [B, S, D]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = config.activation

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.up(hidden)
        if self.activation == "relu":
            inner = F.relu(inner)
        else:
            inner = F.gelu(inner, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.norm(hidden + self.down(inner))
