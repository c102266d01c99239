"""Equalised inputs: exact in float32, finer levels where a channel stands out, and exponents that fp16 holds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from calib.int8.equalise import equalised
from calib.int8.ranges import choose_ranges, collect_histograms
from calib.int8.scheme import LARGEST_SHIFT, QuantizationScheme
from calib.int8.simulation import QuantizedLinear, simulate
from pipeline.gates import Reference
from pipeline.model import PrunedTransformer
from tests.graph.small import random_samples, small_model

SAMPLES = random_samples(6)


def with_outliers(method: str, size: float = 30.0) -> PrunedTransformer:
    """A model whose attention blocks give one channel values far beyond the others'."""
    model = copy.deepcopy(small_model(method, layers=2))
    with torch.no_grad():
        for block in model.attention:
            block.norm.weight[3] = size
    return model


@pytest.mark.parametrize("method", ["dense", "ltp", "transkimmer"])
def test_the_channel_that_stands_out_is_divided_and_the_answers_move_less(method: str) -> None:
    model = with_outliers(method)
    histograms = collect_histograms(model, SAMPLES)
    scheme, plain = equalised(model, histograms), choose_ranges(histograms, "minmax")
    assert set(scheme.ranges) == set(scheme.shifts) == {"feed_forward.0.up", "feed_forward.1.up"}
    for layer, shifts in scheme.shifts.items():
        assert int(np.argmax(shifts)) == 3 and scheme.ranges[layer] < plain.ranges[layer]
    exact = Reference.of(model, SAMPLES).logits
    finer, coarse = (Reference.of(simulate(model, s), SAMPLES).logits for s in (scheme, plain.only(scheme.ranges)))
    ours, theirs = ((torch.stack(found) - torch.stack(exact)).square().sum() for found in (finer, coarse))
    assert ours < theirs


def test_powers_of_two_change_nothing_but_what_is_rounded() -> None:
    torch.manual_seed(0)
    linear, factors = torch.nn.Linear(8, 4), np.exp2(np.arange(-4, 4, dtype=np.float32))
    x = torch.randn(5, 8)
    layer = QuantizedLinear(linear, 1.0, factors)
    assert torch.equal((x / layer.divisors) * (linear.weight * layer.divisors)[0], x * linear.weight[0])
    levels = torch.randint(-127, 128, (5, 8)).float()  # what is on a level is not rounded
    expected = torch.nn.functional.linear(levels, layer.weight, linear.bias)
    assert torch.equal(layer(levels * layer.divisors), expected)


def test_nothing_that_was_seen_is_clipped_and_exponents_are_bounded() -> None:
    model = with_outliers("ltp", 1e6)
    histograms = collect_histograms(model, SAMPLES)
    scheme = equalised(model, histograms)
    for layer, range_ in scheme.ranges.items():
        factors = scheme.factors(layer)
        assert factors is not None and np.log2(factors).max() == LARGEST_SHIFT
        assert range_ == pytest.approx(float((histograms[layer].channels / torch.from_numpy(factors)).max()))
    assert scheme.factors("attention.0.query") is None
    assert QuantizationScheme.model_validate_json(scheme.model_dump_json()) == scheme
