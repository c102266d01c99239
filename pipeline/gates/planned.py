"""The gates on what the library planned: attention is one kernel, and quantised products are computed in INT8."""

from __future__ import annotations

from collections.abc import Mapping

from engines.artifact import Figures, Gate
from pipeline.gates.verdict import verdict


def attention_gate(name: str, precision: str, found: Mapping[str, tuple[int, int]]) -> Gate:
    """name: of the gate. found: fusible and fused attentions of every profile, by its name.

    An LTP score reads the probabilities, which a fused kernel never writes; there the products stay kernels of their
    own. In fp32 the libraries have no fused kernel.
    """
    nothing = "every attention feeds a score" if precision != "fp32" else "no library fuses attention in fp32"
    return _gate(name, ("fusible", "fused"), found, nothing, skipped=precision == "fp32")


def int8_products_gate(name: str, found: Mapping[str, tuple[int, int]]) -> Gate:
    """name: of the gate. found: by profile, linear layers that are INT8 in the graph, and that are computed so."""
    return _gate(name, ("linear_layers", "in_int8"), found, "the graphs have no linear layer in INT8")


def _gate(
    name: str, words: tuple[str, str], found: Mapping[str, tuple[int, int]], nothing: str, skipped: bool = False
) -> Gate:
    """PASSED if of every profile as many are planned as can be; SKIPPED, because of `nothing`, if none can be."""
    wanted, planned = (sum(counts[place] for counts in found.values()) for place in (0, 1))
    figures: Figures = {"profiles": len(found), words[0]: wanted, words[1]: planned}
    if skipped or not wanted:
        return verdict(name, figures, [], nothing)
    short = [f"{file}: {planned} of {wanted}" for file, (wanted, planned) in found.items() if planned < wanted]
    return verdict(name, figures, short)
