"""Histograms of what reaches each linear layer, and the ranges that four methods choose from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib.int8.ranges import PERCENTILE, Histogram, choose_ranges, collect_histograms
from calib.int8.scheme import LEVELS, quantizable_layers
from engines.errors import InputError
from engines.tokenization import Tokens
from pipeline.gates import Reference
from tests.graph.small import random_samples, small_model

METHODS = ("minmax", "percentile", "entropy", "mse")


def histogram(*values: torch.Tensor) -> Histogram:
    """A histogram of these tensors, added one by one."""
    found = Histogram()
    for value in values:
        found.add(value[:, None])  # one channel
    return found


def range_of(values: torch.Tensor, method: str) -> float:
    """The range that a method chooses for one tensor."""
    return choose_ranges({"layer": histogram(values)}, method).ranges["layer"]


def error(values: torch.Tensor, range_: float) -> float:
    """Mean squared error of quantising to a range."""
    scale = range_ / LEVELS
    return float(((values / scale).round().clamp(-LEVELS, LEVELS) * scale - values).square().mean())


NORMAL = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
OUTLIER = torch.cat([NORMAL, torch.tensor([60.0])])


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30), st.integers(1, 29))
def test_a_histogram_counts_every_value_in_any_order_of_arrival(values: list[float], cut: int) -> None:
    parts = [torch.tensor(part) for part in (values[:cut], values[cut:]) if part]
    found = histogram(*parts)
    assert found.counts.sum() == len(values)
    assert found.largest == max(abs(np.float32(v)) for v in values)
    for value in values:  # the range below a value does not clip less than those above it
        assert found.clipped(abs(value)) <= np.mean(np.abs(values) >= abs(value)) + 1e-9


def test_growing_keeps_bins_where_they_were() -> None:
    found = histogram(torch.full((10,), 1.0), torch.full((5,), 7.5), torch.full((3,), 0.3))
    places = {
        round(float((index + 0.5) * found.width), 1): int(found.counts[index]) for index in found.counts.nonzero()[0]
    }
    assert places == {1.0: 10, 7.5: 5, 0.3: 3}


def test_minmax_takes_the_largest_magnitude() -> None:
    assert range_of(torch.tensor([0.5, -3.0, 2.0]), "minmax") == 3.0


def test_percentile_leaves_out_what_it_says() -> None:
    range_ = range_of(OUTLIER, "percentile")
    expected = float(np.percentile(OUTLIER.abs().numpy(), PERCENTILE))
    assert range_ == pytest.approx(expected, abs=2 * 64 / 4096)
    assert 0 < histogram(OUTLIER).clipped(range_) <= 1 - PERCENTILE / 100 + 1e-6


def test_mse_has_the_smallest_error_of_all_methods() -> None:
    for values in (NORMAL, OUTLIER, NORMAL.relu()):
        errors = {method: error(values, range_of(values, method)) for method in METHODS}
        assert errors["mse"] <= min(errors.values()) * 1.02


def test_entropy_ignores_a_lone_outlier_and_keeps_what_needs_no_clipping() -> None:
    assert range_of(OUTLIER, "minmax") == 60.0
    assert 2.5 < range_of(OUTLIER, "entropy") < 10
    uniform = torch.linspace(-1, 1, 100_001)
    assert range_of(uniform, "entropy") == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_sees_nothing_but_zeros_gets_a_positive_range(method: str) -> None:
    assert 0 < range_of(torch.zeros(100), method) < 1e-30


def test_values_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(InputError, match="expected finite activations"):
        histogram(torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize("method", ["ltp", "transkimmer", "dense"])
def test_only_rows_that_reach_a_layer_are_counted(method: str) -> None:
    model, samples = small_model(method, layers=2), random_samples(5)
    found = collect_histograms(model, samples)
    assert set(found) == set(quantizable_layers(model)) and len(found) == 12
    assert not any(name.startswith(("pruner", "head")) for name in found)
    counts = torch.stack(Reference.of(model, samples).counts).sum(0).tolist()  # rows behind each decision
    width, inner = 32, 64
    entered = [sum(len(s) for s in samples), *counts]
    before_attention = method == "transkimmer"
    for layer in range(2):
        attended = entered[layer + 1] if before_attention else entered[layer]
        for leaf in ("query", "key", "value", "output"):
            assert found[f"attention.{layer}.{leaf}"].counts.sum() == attended * width
        assert found[f"feed_forward.{layer}.up"].counts.sum() == counts[layer] * width
        assert found[f"feed_forward.{layer}.down"].counts.sum() == counts[layer] * inner


def test_the_model_is_left_as_it_was() -> None:
    model = small_model("ltp", layers=2)
    sample = Tokens([2, 4, 5, 3], [0] * 4, 4)
    collect_histograms(model, [sample])
    assert not any(module._forward_pre_hooks for module in model.modules())
