"""What INT8 costs by layer, and layers left wide until a budget holds (row 27 of the faults)."""

from __future__ import annotations

import math

import pytest
import torch

from calib.int8.ranges import choose_ranges, collect_histograms
from calib.int8.scheme import QuantizationScheme
from calib.int8.sensitivity import LayerCost, changed_share, divergence, hold_budget, sensitivity_table
from calib.metric import drop_points
from pipeline.gates import Reference
from pipeline.model.config import HeadConfig
from tests.conftest import LABELS
from tests.graph.small import random_samples, small_model

COSTS = {"attention.0.qkv": 4.0, "feed_forward.0.up": 2.0, "feed_forward.0.down": 0.5}
LAYERS = {group: [f"{group}.{n}" for n in range(2)] for group in COSTS}
SCHEME = QuantizationScheme(ranges={layer: 1.0 for layers in LAYERS.values() for layer in layers})
TABLE = [LayerCost(group=g, layers=LAYERS[g], divergence=cost, changed=0) for g, cost in COSTS.items()]


def drop_of(scheme: QuantizationScheme) -> float:
    """Costs add up."""
    return sum(cost for group, cost in COSTS.items() if set(LAYERS[group]) <= set(scheme.ranges))


@pytest.mark.parametrize(
    ("budget", "left", "drops"),
    [
        (7.0, [], [6.5]),
        (6.5, [], [6.5]),
        (3.0, ["attention.0.qkv"], [6.5, 2.5]),
        (0.5, ["attention.0.qkv", "feed_forward.0.up"], [6.5, 2.5, 0.5]),
    ],
)
def test_the_costliest_layers_are_left_wide_until_the_budget_holds(
    budget: float, left: list[str], drops: list[float]
) -> None:
    kept = hold_budget(SCHEME, TABLE, drop_of, budget)
    assert (kept.left_wide, kept.drops, kept.within_budget) == (left, drops, True)
    assert set(kept.scheme.ranges) == {layer for group in LAYERS for layer in LAYERS[group] if group not in left}


def test_no_layer_is_left_where_none_would_hold_the_budget() -> None:
    kept = hold_budget(SCHEME, TABLE, drop_of, 0.1)
    assert not kept.scheme.ranges and not kept.within_budget
    assert kept.left_wide == list(COSTS) and kept.drops == [6.5, 2.5, 0.5]


def test_a_drop_that_is_no_number_holds_no_budget() -> None:
    kept = hold_budget(SCHEME, TABLE, lambda scheme: math.nan, 1.0)
    assert not kept.within_budget


def test_a_layer_with_a_bad_range_is_the_costliest() -> None:
    model, samples = small_model("ltp", layers=2), random_samples(8)
    scheme = choose_ranges(collect_histograms(model, samples), "minmax")
    bad = scheme.model_copy(update={"ranges": {**scheme.ranges, "feed_forward.1.down": 1e-3}})
    table = sensitivity_table(model, bad, Reference.of(model, samples))
    assert table[0].group == "feed_forward.1.down" and table[0].divergence > 3 * table[1].divergence
    assert [row.divergence for row in table] == sorted((row.divergence for row in table), reverse=True)
    assert len(table) == 8 and sorted(layer for row in table for layer in row.layers) == sorted(scheme.ranges)


@pytest.mark.parametrize("kind", sorted(LABELS))
def test_equal_answers_do_not_diverge_and_others_do(kind: str) -> None:
    head = HeadConfig(kind=kind, labels=LABELS[kind])
    generator = torch.Generator().manual_seed(0)
    shape = (5, len(head.labels)) if head.token_level else (len(head.labels),)
    expected = [torch.randn(shape, generator=generator) for _ in range(6)]
    other = [value.flip(0) if value.dim() > 1 or len(value) > 1 else value + 0.1 for value in expected]
    assert divergence(head, expected, expected) == pytest.approx(0, abs=1e-7)
    assert changed_share(head, expected, expected) == 0
    assert divergence(head, expected, other) > 1e-3
    assert 0 < changed_share(head, expected, other) <= 1


def test_divergence_is_kullback_leiblers_in_nats() -> None:
    head = HeadConfig(labels=["no", "yes"])
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(head, [p], [q]) == pytest.approx(expected)


def test_a_drop_is_compared_as_it_is_written() -> None:
    assert drop_points(0.879, 0.869) == 1.0 and 100 * (0.879 - 0.869) > 1.0
