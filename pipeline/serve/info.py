"""What a service says of itself: its artifact, in short, and its limits."""

from __future__ import annotations

from typing import Any

from engines.runner import Runner
from engines.version import __version__
from pipeline.serve.settings import Settings


def info_of(runner: Runner, settings: Settings) -> dict[str, Any]:
    """The artifact as `inspect --json` has it, in short, what runs it, and the limits of a request."""
    manifest, backend = runner.manifest, runner.backend
    head = manifest.head.model_dump(exclude_none=True, exclude={"no_answer"})
    return {
        "model_id": settings.artifact.resolve().name,
        "version": __version__,
        "method": manifest.method,
        "head": head,
        "max_length": manifest.max_length,
        "truncate": settings.truncate,
        "checkpoint_sha256": manifest.checkpoint.sha256,
        "created": manifest.created,
        "target": backend.target,
        "provider": backend.provider,
        "precisions": sorted(manifest.built[backend.target]),
        "stages": [stage.steps for stage in manifest.plan.stages],
        "gates": {gate.name: gate.status for gate in manifest.gates},
        "limits": {
            "texts": settings.texts,
            "bytes": settings.size,
            "batch": settings.batch,
            "queue": settings.queue,
            "max_wait_ms": 1000 * settings.max_wait,
            "timeout_s": settings.timeout,
            "replicas": settings.replicas,
        },
    }
