"""Methods by kind of layers: each kind is judged by itself and gets the ranges that cost it least."""

from __future__ import annotations

import pytest

from calib.int8.methods import best_by_kind
from calib.int8.scheme import QuantizationScheme

LAYERS = [
    f"{block}.{n}.{leaf}"
    for n in range(2)
    for block, leaves in (("attention", ("query", "key", "value", "output")), ("feed_forward", ("up", "down")))
    for leaf in leaves
]
BEST = {"qkv": 3.0, "output": 1.0, "up": 1.0, "down": 2.0}
"""The range that costs nothing."""
SCHEMES = {
    method: QuantizationScheme(ranges=dict.fromkeys(LAYERS, range_))
    for method, range_ in {"minmax": 3.0, "percentile": 1.0, "mse": 2.0}.items()
}


def kind_of(layer: str) -> str:
    leaf = layer.rsplit(".", 1)[1]
    return "qkv" if leaf in ("query", "key", "value") else leaf


def test_each_kind_has_the_ranges_that_cost_it_least() -> None:
    asked: list[set[str]] = []

    def divergence(scheme: QuantizationScheme) -> float:
        asked.append({kind_of(layer) for layer in scheme.ranges})
        return sum(abs(range_ - BEST[kind_of(layer)]) for layer, range_ in scheme.ranges.items())

    scheme, found = best_by_kind(SCHEMES, divergence)
    assert scheme.ranges == {layer: BEST[kind_of(layer)] for layer in LAYERS}
    assert all(len(kinds) == 1 for kinds in asked) and len(asked) == 12
    assert found["down"] == pytest.approx({"minmax": 2.0, "percentile": 2.0, "mse": 0.0})


def test_a_choice_that_holds_some_kinds_only_is_one_for_these() -> None:
    shifts = {layer: [1, 0] for layer in LAYERS if layer.endswith("up")}
    some = QuantizationScheme(ranges=dict.fromkeys(shifts, 0.5), shifts=shifts)
    scheme, found = best_by_kind({"mse": SCHEMES["mse"], "equalised": some}, lambda scheme: sum(scheme.ranges.values()))
    assert {kind for kind, costs in found.items() if "equalised" in costs} == {"up"}
    assert scheme.shifts == shifts and scheme.only(shifts) == some
    assert scheme.without(shifts) == SCHEMES["mse"].without(shifts)


def test_one_method_is_taken_for_all() -> None:
    scheme, found = best_by_kind({"mse": SCHEMES["mse"]}, lambda scheme: 1.0)
    assert scheme == SCHEMES["mse"] and set(found) == set(BEST)
