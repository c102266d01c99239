"""Computes the key of an engine from everything that it depends on: the same key means the same engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from engines.buckets import Bucket, format_buckets
from engines.files import digest_of
from engines.machine import tool_versions
from engines.manifest import SCHEMA_VERSION
from engines.version import __version__
from pipeline.builder.target import BuildTarget


def engine_key(graph_sha256: str, buckets: Sequence[Bucket], target: BuildTarget) -> str:
    """SHA-256 over everything that an engine is made from.

    graph_sha256: digest of the stage graph, which holds the weights, the number formats and, in INT8, the calibrated
                  ranges and which layers are left out.
    target:       its binding names the library, the GPU, CUDA, the driver and the digest of the plugin library.
    """
    depends = {
        "graph": graph_sha256,
        "buckets": format_buckets(buckets),
        "target": target.backend.target,
        "provider": target.backend.provider,
        "precision": target.precision,
        "binding": None if target.binding is None else target.binding.model_dump(),
        "options": asdict(target.options),
        "version": __version__,
        "schema": SCHEMA_VERSION,
        "tools": tool_versions(),
    }
    return digest_of(depends)
