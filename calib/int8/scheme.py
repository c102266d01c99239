"""A quantisation scheme: which linear layers run in INT8, and the range of each one's input."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

LEVELS = 127
"""Positive levels of symmetric INT8: scale = range / 127, zero point 0, as TensorRT demands."""
LARGEST_SHIFT = 6
"""Largest exponent in `shifts`: keeps quotients and weights within fp16."""
_QUANTISED = ("attention.", "feed_forward.")
"""Modules whose linear layers may be quantised; predictors, pooler and classifier stay in the wider precision, and the
projections of disentangled positions, which are constants of an engine."""


class QuantizationScheme(BaseModel):
    """Symmetric INT8 of linear layers: inputs per tensor, weights per output channel.

    ranges: the layer's name in the model, such as "attention.0.query", to the largest magnitude of its input that INT8
            represents; layers that are not named stay in the wider precision. Layers that read the same tensor (query,
            key and value) have the same range.
    shifts: the layer's name to one exponent per channel of its input, which is divided by that power of two before it
            is quantised, as its weights are multiplied by it (`equalise.py`); the range is that of the quotients.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranges: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    shifts: dict[str, list[Annotated[int, Field(ge=-LARGEST_SHIFT, le=LARGEST_SHIFT)]]] = {}

    def scale(self, layer: str, dtype: torch.dtype = torch.float32) -> float:
        """Input scale of a layer: the range and the scale are rounded to the type of what is scaled."""
        range_ = torch.tensor(self.ranges[layer], dtype=dtype)
        return float((range_.double() / LEVELS).to(dtype))

    def without(self, layers: Collection[str]) -> QuantizationScheme:
        """Returns the scheme without these layers, which stay in the wider precision."""
        return self.only([layer for layer in self.ranges if layer not in layers])

    def only(self, layers: Collection[str]) -> QuantizationScheme:
        """Returns the scheme restricted to these layers."""
        ranges = {k: v for k, v in self.ranges.items() if k in layers}
        return QuantizationScheme(ranges=ranges, shifts={k: v for k, v in self.shifts.items() if k in ranges})

    def factors(self, layer: str) -> np.ndarray | None:
        """[K] float32, powers of two that the channels of a layer's input are divided by; None: by nothing."""
        return np.exp2(np.asarray(self.shifts[layer], np.float32)) if layer in self.shifts else None


def quantizable_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that a scheme may quantise, by name: those of the attention and feed-forward blocks."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(_QUANTISED) and ".relative." not in name
    }


def groups(layers: Collection[str]) -> dict[str, list[str]]:
    """Layers that are quantised together or not at all, by name: query, key and value share one input tensor, and so
    do the two of a gated feed-forward."""
    grouped: dict[str, list[str]] = {}
    for layer in layers:
        block, leaf = layer.rsplit(".", 1)
        shared = {"query": "qkv", "key": "qkv", "value": "qkv", "gate": "up"}.get(leaf, leaf)
        grouped.setdefault(f"{block}.{shared}", []).append(layer)
    return grouped


def kinds(layers: Collection[str]) -> dict[str, list[str]]:
    """Layers that read the same kind of tensor, of all blocks: qkv, output, up and down."""
    grouped: dict[str, list[str]] = {}
    for group, names in groups(layers).items():
        grouped.setdefault(group.rsplit(".", 1)[1], []).extend(names)
    return grouped


def weight_scales(weight: torch.Tensor) -> torch.Tensor:
    """[N], in the weight's type: one scale per output channel of a weight [N, K]."""
    return weight.abs().amax(1).clamp_min(torch.finfo(weight.dtype).tiny) / LEVELS
