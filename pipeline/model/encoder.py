"""The blocks of an encoder: embeddings, attention, feed-forward. All masking is by removal.

Linear layers and embeddings run in the type of their weights, layer norm and softmax in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.config import EncoderConfig
from pipeline.model.positions import Geometry, LayerNorm, rotate


def activate(x: Tensor, activation: str) -> Tensor:
    """x through one of the activations that checkpoint.json names."""
    match activation:
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
        case "silu":
            return F.silu(x)
        case "identity":
            return x
        case _:
            return torch.tanh(x)


def make_norm(config: EncoderConfig, width: int | None = None) -> LayerNorm:
    """A layer norm of the encoder's kind; of its hidden size if no width is given."""
    return LayerNorm(width or config.hidden_size, eps=config.layer_norm_eps, bias=config.norm_bias)


class Embeddings(nn.Module):
    """Token ids [B, S], segment ids [B, S] and positions [B, S] to hidden states [B, S, D]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.offset = config.position_offset
        self.word = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_positions, width) if config.learned_positions else None
        self.token_type = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.norm = make_norm(config, width)
        self.project = nn.Linear(width, config.hidden_size) if config.embedding_size else None

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, position: Tensor) -> Tensor:
        embedded = self.word(input_ids)
        if self.token_type is not None:
            embedded = embedded + self.token_type(token_type_ids)
        if self.position is not None:
            embedded = embedded + self.position(position + self.offset)
        embedded = self.norm(embedded)
        return embedded if self.project is None else self.project(embedded)


class Attention(nn.Module):
    """Multi-head self-attention with its residual and layer norm."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        self.heads, self.local = config.heads, layer in config.local_layers
        self.before = config.norm == "pre"
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        # The embeddings' own layer norm stands right before the first block.
        self.norm = None if self.before and layer == 0 else make_norm(config)
        self.second_norm = make_norm(config) if config.attention_norms == 2 else None
        self.query_norm = make_norm(config) if config.query_key_norm else None
        self.key_norm = make_norm(config) if config.query_key_norm else None
        self.relative = None if config.disentangled is None else DisentangledLogits(config)
        products = 1 if config.disentangled is None else 1 + config.disentangled.products
        self.scale = (products * width // config.heads) ** -0.5

    def forward(
        self, hidden: Tensor, alive: Tensor, keep: Tensor | None, need_mass: bool, zero_dead: bool, geometry: Geometry
    ) -> tuple[Tensor, Tensor | None]:
        """hidden [B, S, D] to the block's output [B, S, D] and, if asked for, the attention mass [B, S].

        alive:     [B, S], 0 removes a key from the softmax.
        keep:      [B, S] in [0, 1] or None; training's relaxation of `alive`. A key of weight w takes part in the
                   softmax w times, so that 0 and 1 are removal and presence exactly, and gradients reach `keep`.
        need_mass: also return the fp32 column sum of the probabilities over heads and alive queries.
        zero_dead: give dead queries a zero context (what the original LTP does to a dead first token).
        geometry:  of the rows' positions.
        """
        batch, length, width = hidden.shape
        taken = hidden if not self.before or self.norm is None else self.norm(hidden)

        def split(x: Tensor) -> Tensor:  # [B, S, D] -> [B, H, S, D / H]
            return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = self.query(taken), self.key(taken), self.value(taken)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key, value = split(query), split(key), split(value)
        rotation = geometry.rotation(self.local)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        query, mask = query * self.scale, geometry.mask(alive, self.local)
        if self.relative is not None:
            mask = mask + self.relative(query, key * self.scale, (self.query, self.key), geometry)
        probabilities = torch.softmax((query @ key.transpose(-1, -2) + mask).float(), dim=-1)
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
        added = hidden + self.output(context)
        if not self.before and self.norm is not None:
            added = self.norm(added)
        return added if self.second_norm is None else self.second_norm(hidden + added), mass


class DisentangledLogits(nn.Module):
    """DeBERTa's products of content and position; what they are made of does not depend on the text."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        part = config.disentangled
        assert part is not None
        self.heads, width = config.heads, config.hidden_size
        self.to_position, self.to_content = part.content_to_position, part.position_to_content
        self.key = self.query = None
        if not part.shared_projections:
            self.key = nn.Linear(width, width) if self.to_position else None
            self.query = nn.Linear(width, width) if self.to_content else None

    def forward(
        self, query: Tensor, key: Tensor, content: tuple[nn.Module, nn.Module], geometry: Geometry
    ) -> Tensor | float:
        """query and key [B, H, S, D / H], both scaled, to what is added to the logits, [B, H, S, S].

        content: the projections of queries and keys, where positions share them.
        """
        rows = geometry.rows[:, None].expand(-1, self.heads, -1, -1)
        added: Tensor | float = 0.0
        if self.to_position:
            added_by = query @ self._projected(self.key or content[1], geometry.table)
            added = added + added_by.gather(-1, rows)
        if self.to_content:
            added_by = key @ self._projected(self.query or content[0], geometry.table)
            added = added + added_by.gather(-1, rows.transpose(-1, -2)).transpose(-1, -2)
        return added

    def _projected(self, projection: nn.Module, table: Tensor) -> Tensor:
        """[2 * span, D] to [H, D / H, 2 * span]."""
        # The product is a constant of an engine: a layer that INT8 simulates gives its own, wide weights, and it is not
        # called, because the inputs of its calls are counted for its range.
        layer: Any = getattr(projection, "wide", projection)
        projected = F.linear(table, layer.weight, layer.bias)
        return projected.view(table.shape[0], self.heads, -1).permute(1, 2, 0)


class FeedForward(nn.Module):
    """The feed-forward block, plain or gated, with its residual and layer norm; [B, S, D] to [B, S, D]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate = nn.Linear(width, inner, bias=config.up_bias) if config.feed_forward == "gated" else None
        self.up = nn.Linear(width, inner, bias=config.up_bias)
        self.down = nn.Linear(inner, width, bias=config.down_bias)
        self.norm = make_norm(config)
        self.before, self.activation = config.norm == "pre", config.activation

    def forward(self, hidden: Tensor) -> Tensor:
        taken = self.norm(hidden) if self.before else hidden
        if self.gate is None:
            inner = activate(self.up(taken), self.activation)
        else:
            inner = activate(self.gate(taken), self.activation) * self.up(taken)
        added = hidden + self.down(inner)
        return added if self.before else self.norm(added)
