"""Activation ranges: a histogram of every linear layer's input over the rows that really reach it, and four methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from calib.int8.scheme import LEVELS, QuantizationScheme, groups, quantizable_layers
from engines.errors import InputError
from engines.tokenization import Tokens
from pipeline.model.reference import run_batch
from pipeline.model.transformer import PrunedTransformer

Method = Literal["minmax", "percentile", "entropy", "mse"]
"""One range for all channels as they are."""
_BINS = 4096
PERCENTILE = 99.99
"""Percentage of the magnitudes that the percentile method represents."""


class Histogram:
    """Magnitudes of a tensor in 4096 equal bins from 0 to `limit`, which doubles when a larger value comes.

    channels: [K], the largest magnitude of each channel, the last dimension.
    """

    channels: Tensor | None = None

    def __init__(self) -> None:
        self.counts, self.limit, self.largest = np.zeros(_BINS, np.int64), 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Counts every element. Raises InputError where one is not finite."""
        magnitudes = values.detach().float().abs()
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            raise InputError("calibration: expected finite activations, found NaN or infinity; run pipeline.parity")
        self.largest = max(self.largest, largest)
        channels = magnitudes.reshape(-1, magnitudes.shape[-1]).amax(0)
        self.channels = channels if self.channels is None else torch.maximum(self.channels, channels)
        if self.limit == 0:
            self.limit = largest
        while self.limit < largest:  # two old bins make one new one, so nothing is counted wrongly
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(_BINS // 2, np.int64)])
            self.limit *= 2
        bins = (_BINS * (magnitudes.flatten() / (self.limit or 1.0))).clamp_max(_BINS - 1).to(torch.int32)
        self.counts += torch.bincount(bins, minlength=_BINS).numpy()  # several times faster than torch.histc

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.limit / _BINS

    def clipped(self, range_: float) -> float:
        """Returns the share of the values above a range, to the accuracy of a bin."""
        above = int(np.ceil(range_ / self.width)) if self.width else _BINS
        return float(self.counts[above:].sum() / max(1, self.counts.sum()))


def collect_histograms(model: PrunedTransformer, samples: Sequence[Tokens]) -> dict[str, Histogram]:
    """Runs the model compacted, one sample at a time, so that neither padding nor a dropped token is counted."""
    layers = quantizable_layers(model)
    histograms: dict[str, Histogram] = {}
    handles = []

    def hook(histogram: Histogram) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: histogram.add(inputs[0])

    for names in groups(layers).values():  # layers of a group read the same tensor
        histogram = Histogram()
        histograms |= dict.fromkeys(names, histogram)
        handles.append(layers[names[0]].register_forward_pre_hook(hook(histogram)))
    try:
        for sample in samples:
            run_batch(model, [sample], "compacted")
    finally:
        for handle in handles:
            handle.remove()
    return histograms


def choose_ranges(histograms: dict[str, Histogram], method: Method) -> QuantizationScheme:
    """The scheme that quantises every layer with the ranges of a method.

    minmax: the largest magnitude seen; percentile: PERCENTILE of the magnitudes; entropy: least Kullback-Leibler
    divergence of the quantised histogram (Migacz, "8-bit Inference with TensorRT", GTC 2017); mse: least squared error.
    """
    choose = {"minmax": _minmax, "percentile": _percentile, "entropy": _entropy, "mse": _mse}[method]
    tiny = float(np.finfo(np.float32).tiny) * LEVELS
    return QuantizationScheme(ranges={n: max(tiny, choose(h)) for n, h in histograms.items()})


def _minmax(histogram: Histogram) -> float:
    return histogram.largest


def _percentile(histogram: Histogram) -> float:
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    last = int(np.searchsorted(share, PERCENTILE / 100))
    return min(histogram.largest, (last + 1) * histogram.width)


def _mse(histogram: Histogram) -> float:
    """Error of rounding a value in the middle of each bin, and of clipping it."""
    centres = (np.arange(_BINS) + 0.5) * histogram.width
    candidates = histogram.largest * np.arange(20, 201) / 200
    errors = []
    for range_ in candidates:
        scale = range_ / LEVELS
        quantised = np.minimum(np.round(centres / scale), LEVELS) * scale if scale else 0 * centres
        errors.append(float((histogram.counts * (centres - quantised) ** 2).sum()))
    return float(candidates[int(np.argmin(errors))])


def _entropy(histogram: Histogram) -> float:
    """Over ranges of a whole number of bins: p is the histogram with the clipped mass in its last bin, q what 128
    levels leave of the unclipped one, each level's mass spread over its non-empty bins."""
    levels, counts = LEVELS + 1, histogram.counts.astype(np.float64)
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1
    best, best_bins = np.inf, used
    for bins in range(min(levels, used), used + 1, max(1, used // 256)):
        p = counts[:bins].copy()
        level = np.arange(bins) * levels // bins
        filled = p > 0
        mass, share = np.bincount(level, p), np.bincount(level, filled)
        q = np.where(filled, mass[level] / np.maximum(1, share[level]), 0)
        p[-1] += counts[bins:].sum()
        divergence = _kullback_leibler(p, q)
        if divergence <= best:
            best, best_bins = divergence, bins
    return min(histogram.largest, best_bins * histogram.width)


def _kullback_leibler(p: np.ndarray, q: np.ndarray) -> float:
    """In nats; infinite where q is empty and p is not."""
    if q.sum() == 0 or bool(((p > 0) & (q == 0)).any()):
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
