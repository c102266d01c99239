"""By how much an engine may differ from PyTorch in float32."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

FP32_TOLERANCE = 1e-4
"""Largest difference of an fp32 engine."""
ERROR_RATIO = 2.0
"""Of an engine in a narrower precision: its error over PyTorch's own in that precision, both against fp32."""
ERROR_SAMPLES = 32
"""Samples from which PyTorch's own error is taken beside those that are compared: of a few numbers, such as the logits
of one text, the largest error is a matter of luck."""


def own_error(precision: torch.dtype, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """PyTorch's largest error in a narrower precision, and no less than rounding the largest number to it may cost.

    pairs: an output in the narrower precision, and the same in float32; integers are left out.
    """
    half_ulp = torch.finfo(precision).eps / 2
    floats = [pair for pair in pairs if np.issubdtype(pair[1].dtype, np.floating)]
    return max((float(max(np.abs(a - b).max(), half_ulp * np.abs(b).max())) for a, b in floats), default=0.0)
