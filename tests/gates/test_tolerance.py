"""PyTorch's own error in a narrower precision: the largest one, and never less than storing a number may cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.gates.tolerance import own_error


def pair(found: list[float], expected: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(found, np.float32), np.array(expected, np.float32)


def test_it_is_the_largest_error_over_all_outputs() -> None:
    pairs = [pair([1.0, 2.5], [1.0, 2.0]), pair([0.25], [0.0]), (np.array([9]), np.array([0]))]
    assert own_error(torch.float16, pairs) == 0.5
    assert own_error(torch.float16, []) == 0.0


@pytest.mark.parametrize(("precision", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_a_lucky_hit_allows_what_rounding_the_largest_number_costs(precision: torch.dtype, bits: int) -> None:
    """Half of the distance to the next number: 1.0 and what lies a little less above it become the same."""
    allowed = own_error(precision, [pair([-1.0, 0.5], [-1.0, 0.5])])
    assert allowed == 2.0**-bits
    assert float(torch.tensor(1 + 0.99 * allowed).to(precision)) == 1.0
    assert float(torch.tensor(1 + 1.01 * allowed).to(precision)) > 1.0
