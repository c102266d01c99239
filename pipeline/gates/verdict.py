"""What a gate's findings come to."""

from __future__ import annotations

from collections.abc import Sequence

from engines.manifest import Figures, Gate

_SHOWN = 5
"""Most failures that a reason lists."""


def verdict(name: str, figures: Figures, failures: Sequence[str], nothing: str | None = None) -> Gate:
    """FAILED with the first failures; else SKIPPED because of `nothing`, where nothing was checked; else PASSED."""
    if failures:
        rest = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        return Gate(name=name, status="FAILED", reason="; ".join(failures[:_SHOWN]) + rest, figures=figures)
    if nothing is not None:
        return Gate(name=name, status="SKIPPED", reason=nothing, figures=figures)
    return Gate(name=name, status="PASSED", figures=figures)
