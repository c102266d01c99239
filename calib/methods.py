"""Which method sets the ranges of which layers: what one kind of tensor can clip is what another one lives by.

On the demo's dense model, any clipping of what queries, keys and values are computed from costs 36 to 150 times what
`minmax` costs there, and `minmax` inside the feed-forward costs 6 times what `mse` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from calib.ranges import Method
from calib.scheme import QuantizationScheme, kinds


def best_by_kind(
    schemes: Mapping[Method, QuantizationScheme], divergence: Callable[[QuantizationScheme], float]
) -> tuple[QuantizationScheme, dict[str, dict[Method, float]]]:
    """The scheme in which each kind of layers has the ranges of its best method, and what decided.

    schemes:    the same layers with the ranges of each method.
    divergence: of the answers under a scheme; a kind is judged with nothing else quantised.
    """
    ranges: dict[str, float] = {}
    found: dict[str, dict[Method, float]] = {}
    for kind, layers in kinds(next(iter(schemes.values())).ranges).items():
        costs = {method: divergence(scheme.only(layers)) for method, scheme in schemes.items()}
        found[kind] = costs
        ranges |= schemes[min(costs, key=lambda method: costs[method])].only(layers).ranges
    return QuantizationScheme(ranges=ranges), found
