"""What attention knows of where rows stand: masks, biases and rotations, all from a row's place in the original text.

Nothing here reads the index of a row. So rows that have moved, because others were removed, attend as they did.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.config import EncoderConfig
from pipeline.model.parts import Disentangled, RelativeBias

_FILL, _FILL_FP16 = -1e30, -3e4


def mask_fill(dtype: torch.dtype) -> float:
    """What is added to the logits of dead keys, which leaves them a probability of exactly zero.

    Finite, so that a row without a living key is not NaN. No logit comes near it; in fp16, whose largest number is
    65504, logits of up to 14,000 either way are removed and none overflows.
    """
    return _FILL_FP16 if dtype == torch.float16 else _FILL


Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of the angle by which each pair of a head turns, both [B, 1, S, D / H] fp32."""


class LayerNorm(nn.LayerNorm):
    """Layer norm in float32, rounded to the type that it was given."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


class Positions(nn.Module):
    """The encoder's weights and constants for positions that all layers share; `at` gives what they make of a run.

    Buckets are tables of whole numbers by distance: computed anew, logarithms would fall on another side of a step in
    another runtime.
    """

    buckets: Tensor
    slopes: Tensor
    turns: Tensor
    local_turns: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.longest, self.local = config.longest_input, config.local
        self.bias = self.embedding = self.norm = None
        distances = torch.arange(1 - self.longest, self.longest)  # query - key
        buckets = torch.zeros(0, dtype=torch.int64)
        if config.relative_bias is not None:
            self.bias = nn.Embedding(config.relative_bias.buckets, config.heads)
            buckets = bias_buckets(distances, config.relative_bias)
        if config.disentangled is not None:
            self.embedding = nn.Embedding(2 * config.disentangled.span, config.hidden_size)
            if config.disentangled.normalised:
                self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            buckets = disentangled_rows(distances, config.disentangled)
        self.register_buffer("buckets", buckets, persistent=False)
        slopes = torch.tensor(alibi_slopes(config.heads) if config.alibi else [])
        self.register_buffer("slopes", slopes, persistent=False)
        width, rope = config.hidden_size // config.heads, config.rope
        thetas = [] if rope is None else [rope.theta, rope.local_theta or rope.theta]
        for name, theta in zip(("turns", "local_turns"), thetas, strict=False):
            steps = torch.arange(0, width, 2, dtype=torch.float32) / width
            self.register_buffer(name, 1 / theta**steps, persistent=False)
        self.rotary = rope is not None

    def at(self, position: Tensor, dtype: torch.dtype) -> Geometry:
        """What holds for rows at these positions, [B, S] int32, for attention in `dtype`."""
        return Geometry(self, position, dtype)


class Geometry:
    """What the attentions of consecutive layers share, computed when the first of them asks for it."""

    def __init__(self, parts: Positions, position: Tensor, dtype: torch.dtype) -> None:
        self.parts, self.position, self.dtype = parts, position, dtype
        self._masks: tuple[Tensor, dict[bool, Tensor]] | None = None

    def mask(self, alive: Tensor, local: bool) -> Tensor:
        """What is added to the logits, [B, 1 or H, 1 or S, S]: the fill where a key is not seen, and the bias."""
        if self._masks is None or self._masks[0] is not alive:
            self._masks = alive, {}
        masks = self._masks[1]
        if local not in masks:
            seen = alive[:, None, None, :]
            if local:
                seen = seen * self._near[:, None]
            fill = ((1 - seen) * mask_fill(self.dtype)).to(self.dtype)
            masks[local] = fill if self._bias is None else fill + self._bias
        return masks[local]

    def rotation(self, local: bool) -> Rotation | None:
        """How queries and keys turn in a global or a local layer; None without rotary positions."""
        if not self.parts.rotary:
            return None
        return self._local_rotation if local else self._rotation

    @cached_property
    def table(self) -> Tensor:
        """The embeddings of disentangled positions, [2 * span, D]."""
        assert self.parts.embedding is not None
        rows = self.parts.embedding.weight
        return rows if self.parts.norm is None else self.parts.norm(rows)

    @cached_property
    def rows(self) -> Tensor:
        """The row of `table` for each query and key, [B, S, S] int64."""
        return self._of_distance(self.parts.buckets[:, None]).squeeze(-1)

    @cached_property
    def _distance(self) -> Tensor:
        """From query to key, [B, S, S] int32."""
        return self.position[:, :, None] - self.position[:, None, :]

    def _of_distance(self, table: Tensor) -> Tensor:
        """table [2 * longest - 1, K] by distance from query to key: [B, S, S, K]."""
        return F.embedding(self._distance + (self.parts.longest - 1), table)  # one Gather in a graph, as indexing isn't

    @cached_property
    def _bias(self) -> Tensor | None:
        """What distances add to the logits, [B, H, S, S]; None: nothing."""
        if self.parts.bias is not None:
            by_distance = self.parts.bias(self.parts.buckets)  # [2 * longest - 1, H]
            return self._of_distance(by_distance).permute(0, 3, 1, 2)
        if not len(self.parts.slopes):
            return None
        # The product is rounded once: narrow types do not hold every distance.
        return (-self.parts.slopes[:, None, None] * self._distance.abs()[:, None]).to(self.dtype)

    @cached_property
    def _near(self) -> Tensor:
        assert self.parts.local is not None
        return (self._distance.abs() <= self.parts.local.distance).to(torch.int32)

    @cached_property
    def _rotation(self) -> Rotation:
        return self._turned(self.parts.turns)

    @cached_property
    def _local_rotation(self) -> Rotation:
        return self._turned(self.parts.local_turns)

    def _turned(self, turns: Tensor) -> Rotation:
        angle = self.position[:, :, None].float() * turns  # [B, S, D / H / 2]
        angle = torch.cat([angle, angle], dim=-1)[:, None]
        return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns the pairs (i, i + D / H / 2) of x [B, H, S, D / H], in float32."""
    wide, (cosine, sine) = x.float(), rotation
    first, second = wide.chunk(2, dim=-1)
    return (wide * cosine + torch.cat([-second, first], dim=-1) * sine).to(x.dtype)


def alibi_slopes(heads: int) -> list[float]:
    """How fast the logits of each head fall with the distance, as the authors of ALiBi choose it.

    For a power of two it is a geometric sequence from 2 ** (-8 / heads) to 2 ** -8. Other numbers of heads take that of
    the power of two below, then every other slope of the power of two above.
    """
    whole = 1 << heads.bit_length() - 1
    between = [2 ** (-4 * (2 * head + 1) / whole) for head in range(heads - whole)]
    return [2 ** (-8 * (head + 1) / whole) for head in range(whole)] + between


def bias_buckets(distances: Tensor, config: RelativeBias) -> Tensor:
    """The bucket of each distance from query to key (query - key), as T5 and MPNet make them."""
    half = config.buckets // 2
    behind, near, far = (distances < 0).long() * half, half // 2, distances.abs()
    steps = torch.log(far.float() / near) / math.log(config.max_distance / near) * (half - near)
    return behind + torch.where(far < near, far, (near + steps.clamp_min(0).long()).clamp_max(half - 1))


def disentangled_rows(distances: Tensor, config: Disentangled) -> Tensor:
    """The row of the table for each distance from query to key (query - key), as DeBERTa-v2 makes them."""
    bucket, middle = distances, config.buckets // 2
    if config.buckets:
        far = distances.abs().clamp_min(max(1, middle)).float()
        last = torch.log(torch.tensor((config.max_distance - 1) / middle))
        steps = torch.ceil(torch.log(far / middle) / last * (middle - 1)) + middle
        bucket = torch.where(distances.abs() <= middle, distances, steps.long() * distances.sign())
    return (bucket + config.span).clamp(0, 2 * config.span - 1)
