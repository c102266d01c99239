"""What loaded engines take of a machine's memory, estimated from their files and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engines.artifact import EngineRecord, Manifest

_COPIES = {"cpu": 2.0}
"""Of the weights: a CPU library repacks them for its kernels, beside the file that it maps."""
_ACTIVATIONS = 8
"""Arrays as wide as the hidden states that are in use at a time, an inner feed-forward of four times among them."""
_PROFILE = 1 << 20
"""Kernels and buffers of a profile, whatever its shape."""


def memory_bytes(manifest: Manifest, engines: Sequence[EngineRecord], sizes: Mapping[str, int]) -> int:
    """Bytes that these engines take with all their profiles in use: weights, activations, attention probabilities.

    Profiles of an engine run one after another, so activations are those of the largest. sizes: of files, in bytes.
    """
    encoder, total = manifest.encoder, 0.0
    width = 2 if manifest.plan.precision in ("fp16", "bf16") else 4
    for engine in engines:
        weights = sum(sizes[name] for name in (engine.file, engine.weights) if name is not None)
        rows = max(bucket.batch * bucket.length for bucket in engine.profiles)
        scores = max(bucket.batch * bucket.length**2 for bucket in engine.profiles)
        activations = width * (rows * encoder.hidden_size * _ACTIVATIONS + scores * encoder.heads)
        total += weights * _COPIES.get(engine.target, 1.0) + activations + _PROFILE * len(engine.profiles)
    return round(total)
