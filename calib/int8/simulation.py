"""The PyTorch counterpart of a quantised model: the same ranges, simulated by rounding to INT8 and back."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calib.int8.scheme import LEVELS, QuantizationScheme, quantizable_layers, weight_scales
from engines.errors import InputError
from pipeline.model.transformer import PrunedTransformer


class QuantizedLinear(nn.Module):
    """A linear layer whose input and weight are rounded to INT8 and back; [..., K] to [..., N].

    Scales and results have the type of the layer, as in its graph; products are summed in float32, in which sums of
    INT8 products are all but exact.
    """

    def __init__(self, linear: nn.Linear, scale: float, factors: np.ndarray | None = None) -> None:
        super().__init__()
        divisors = torch.ones(linear.in_features) if factors is None else torch.from_numpy(factors)
        weight = linear.weight.detach() * divisors.to(linear.weight.dtype)  # powers of two, so nothing is rounded
        scales = weight_scales(weight).float()
        self.divisors = None if factors is None else divisors
        self._wide = (linear,)  # in a tuple, so that it is no part of the simulated model
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        self.scale, self.bias = scale, None if linear.bias is None else linear.bias.detach().float()
        self.weight = torch.fake_quantize_per_channel_affine(weight.float(), scales, zeros, 0, -LEVELS, LEVELS)

    @property
    def wide(self) -> nn.Linear:
        """The layer that is simulated, as it is."""
        return self._wide[0]

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if self.divisors is None else x.float() / self.divisors
        rounded = torch.fake_quantize_per_tensor_affine(wide, self.scale, 0, -LEVELS - 1, LEVELS)
        return F.linear(rounded, self.weight, self.bias).to(x.dtype)


def simulate(model: PrunedTransformer, scheme: QuantizationScheme) -> PrunedTransformer:
    """A copy of the model, in its precision, whose layers named by the scheme compute as INT8 does.

    Raises InputError for a scheme of another model.
    """
    layers = quantizable_layers(model)
    unknown = sorted(set(scheme.ranges) - set(layers))
    if unknown:
        raise InputError(f"quantisation scheme: expected layers of the model, found {', '.join(unknown)}")
    # Replaced layers need no copy of their own weights; what is shared is never written to.
    simulated = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    for name in scheme.ranges:
        block, _, leaf = name.rpartition(".")
        scale = scheme.scale(name, layers[name].weight.dtype)
        setattr(simulated.get_submodule(block), leaf, QuantizedLinear(layers[name], scale, scheme.factors(name)))
    return simulated.eval()
