"""The gates on what the library planned: attention is one kernel, and quantised products are computed in INT8."""

from __future__ import annotations

from collections.abc import Mapping

from engines.manifest import Figures, Gate
from pipeline.gates.verdict import verdict

_NARROWEST = 12
"""Columns of a head from which TensorRT-RTX 1.7.1 has a fused kernel; it was tried from 4 to 128."""


def attention_gate(name: str, precision: str, counted: Mapping[str, tuple[int, int]], head_size: int) -> Gate:
    """name: of the gate. counted: fusible and fused attentions of every profile, by its name.

    An LTP score reads the probabilities, which a fused kernel never writes; there the products stay kernels of their
    own. In fp32, and for heads of a few columns, the libraries have no fused kernel.
    """
    nothing = "every attention feeds a score"
    if precision == "fp32":
        nothing = "no library fuses attention in fp32"
    elif head_size < _NARROWEST:
        nothing = f"no library fuses attention with heads of {head_size} columns"
    return _gate(name, ("fusible", "fused"), counted, nothing, precision == "fp32" or head_size < _NARROWEST)


def int8_products_gate(name: str, counted: Mapping[str, tuple[int, int]]) -> Gate:
    """name: of the gate. counted: by profile, linear layers that are INT8 in the graph, and that are computed so."""
    return _gate(name, ("linear_layers", "in_int8"), counted, "the graphs have no linear layer in INT8")


def _gate(
    name: str, words: tuple[str, str], counted: Mapping[str, tuple[int, int]], nothing: str, skipped: bool = False
) -> Gate:
    """PASSED if of every profile as many are planned as can be; SKIPPED, because of `nothing`, if none can be."""
    wanted, planned = (sum(counts[part] for counts in counted.values()) for part in (0, 1))
    figures: Figures = {"profiles": len(counted), words[0]: wanted, words[1]: planned}
    if skipped or not wanted:
        return verdict(name, figures, [], nothing)
    short = [f"{file}: {planned} of {wanted}" for file, (wanted, planned) in counted.items() if planned < wanted]
    return verdict(name, figures, short)
