"""The gate on what the library planned: attention is one kernel wherever no score reads its probabilities."""

from __future__ import annotations

from collections.abc import Mapping

from engines.artifact import Gate

_SHOWN = 5


def attention_gate(name: str, precision: str, found: Mapping[str, tuple[int, int]]) -> Gate:
    """name: of the gate. found: fusible and fused attentions of every engine, by its file.

    An LTP score reads the probabilities, which a fused kernel never writes; there the products stay kernels of their
    own. In fp32 the libraries have no fused kernel.
    """
    figures: dict[str, float | int | str] = {
        "engines": len(found),
        "fusible": sum(fusible for fusible, _ in found.values()),
        "fused": sum(fused for _, fused in found.values()),
    }
    if precision == "fp32" or not figures["fusible"]:
        reason = "every attention feeds a score" if precision != "fp32" else "no library fuses attention in fp32"
        return Gate(name=name, status="SKIPPED", reason=reason, figures=figures)
    apart = [f"{file}: {fused} of {fusible}" for file, (fusible, fused) in found.items() if fused < fusible]
    if apart:
        rest = f"; and {len(apart) - _SHOWN} more" if len(apart) > _SHOWN else ""
        return Gate(name=name, status="FAILED", reason="; ".join(apart[:_SHOWN]) + rest, figures=figures)
    return Gate(name=name, status="PASSED", figures=figures)
