"""Which method sets the ranges of which layers: what one kind of tensor can clip is what another one lives by.

In the demo's models any clipping of what queries, keys and values are computed from costs many times what `minmax`
costs there, and `minmax` inside the feed-forward costs several times what clipping does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from calib.int8.ranges import Method
from calib.int8.scheme import QuantizationScheme, kinds

Choice = Literal[Method, "equalised"]
"""A method, or `calib.int8.equalise`."""


def best_by_kind(
    schemes: Mapping[Choice, QuantizationScheme], divergence: Callable[[QuantizationScheme], float]
) -> tuple[QuantizationScheme, dict[str, dict[Choice, float]]]:
    """Returns the scheme that gives each kind of layers its best method, and what decided.

    schemes:    one per choice. A choice may leave out kinds, but some choice has every layer.
    divergence: of the answers under a scheme; each kind is judged with nothing else quantised.
    """
    best = QuantizationScheme(ranges={})
    divergences: dict[str, dict[Choice, float]] = {}
    for kind, layers in kinds(dict.fromkeys(layer for scheme in schemes.values() for layer in scheme.ranges)).items():
        parts = {choice: scheme.only(layers) for choice, scheme in schemes.items()}
        costs = {choice: divergence(part) for choice, part in parts.items() if part.ranges}
        divergences[kind] = costs
        part = parts[min(costs, key=lambda choice: costs[choice])]
        best = QuantizationScheme(ranges=best.ranges | part.ranges, shifts=best.shifts | part.shifts)
    return best, divergences
