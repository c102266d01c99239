"""Equalised inputs: channels that set the range alone are divided by powers of two, their weights multiplied by them.

A layer norm gives a few channels values ten times those of all others, so that one range leaves the others few levels.
The idea is SmoothQuant's (Xiao et al., 2023). There the divisors go into the layer norm; here the residual stream and
the pruner read its result as well, so the division is an operator of its own in front of QuantizeLinear; OpenVINO puts
both into the kernel of the layer norm's scale. Powers of two round nothing: only what is quantised changes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from calib.int8.ranges import Histogram
from calib.int8.scheme import LARGEST_SHIFT, QuantizationScheme, kinds, quantizable_layers
from pipeline.model.transformer import PrunedTransformer

KIND = "up"
"""The layers whose input is equalised. For queries, keys and values it gains little, and it makes `down` worse."""
_SMALLEST = 1e-6


def equalised(model: PrunedTransformer, histograms: Mapping[str, Histogram]) -> QuantizationScheme:
    """The scheme of the first feed-forward layers with equalised inputs; nothing that was seen is clipped.

    Exponents are those of sqrt(largest input / largest weight) of each channel, over their geometric mean.
    """
    layers, ranges, shifts = quantizable_layers(model), {}, {}
    for name in kinds(histograms)[KIND]:
        inputs = histograms[name].channels
        assert inputs is not None
        weights = layers[name].weight.detach().float().abs().amax(0)
        exponents = (inputs.clamp_min(_SMALLEST).log2() - weights.clamp_min(_SMALLEST).log2()) / 2
        exponents = (exponents - exponents.mean()).round().clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
        shifts[name] = [int(exponent) for exponent in exponents]
        ranges[name] = max(_SMALLEST, float((inputs / torch.exp2(exponents)).max()))
    return QuantizationScheme(ranges=ranges, shifts=shifts)
