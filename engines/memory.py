"""What loaded engines take of a machine's memory, estimated from their files and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from engines.buckets import Bucket
from engines.manifest import EngineRecord, Manifest

_COPIES = {"cpu": 2.0}
"""Of the weights: a CPU library repacks them for its kernels, beside the file that was read."""
_ACTIVATIONS = 8
"""Arrays as wide as the hidden states that are in use at a time, an inner feed-forward of four times among them."""
PROFILE = 1 << 20
"""Kernels and buffers of a profile, whatever its shape."""


class Widths(Protocol):
    """What activations depend on, of an encoder."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def heads(self) -> int: ...


def engine_bytes(encoder: Widths, target: str, precision: str, weights: int, buckets: Sequence[Bucket]) -> int:
    """Bytes that an engine takes with all its profiles in use: weights, activations, attention probabilities.

    Profiles of an engine run one after another, so activations are those of the largest.
    precision: of the stage graph. weights: bytes of the engine's files.
    """
    width = 2 if precision in ("fp16", "bf16") else 4
    rows = max(bucket.batch * bucket.length for bucket in buckets)
    scores = max(bucket.batch * bucket.length**2 for bucket in buckets)
    activations = width * (rows * encoder.hidden_size * _ACTIVATIONS + scores * encoder.heads)
    return round(weights * _COPIES.get(target, 1.0)) + activations + PROFILE * len(buckets)


def memory_bytes(manifest: Manifest, engines: Sequence[EngineRecord], sizes: Mapping[str, int]) -> int:
    """Bytes that these engines take with all their profiles in use. sizes: of files, in bytes."""
    total = 0
    for engine in engines:
        weights = sum(sizes[name] for name in (engine.file, engine.weights) if name is not None)
        total += engine_bytes(manifest.encoder, engine.target, manifest.plan.precision, weights, engine.profiles)
    return total
