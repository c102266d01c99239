"""`column_mass` as one kernel in Triton, which PyTorch for GPUs brings along. Runs in Triton's interpreter too."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64
_NARROWEST = 16
"""Columns that a product of Triton has at least."""


def by_triton(query: Tensor, key: Tensor, log_sums: Tensor, starts: Tensor, longest: int, scale: float) -> Tensor:
    """As `column_mass`."""
    total, heads, width = query.shape
    mass = torch.zeros_like(log_sums)
    grid = (len(starts) - 1, heads, triton.cdiv(longest, _BLOCK))
    sizes = {"width": width, "WIDTH": max(_NARROWEST, triton.next_power_of_2(width)), "BLOCK": _BLOCK}
    tensors = (query.contiguous(), key.contiguous(), log_sums.contiguous(), starts, mass)
    _column_mass[grid](*tensors, total, heads, scale, **sizes)
    return mass.sum(0)


@triton.jit
def _column_mass(  # type: ignore[no-untyped-def]
    query, key, log_sums, starts, mass, total, heads, scale, width, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """A program for each text, head and block of keys; it goes over all queries of the text, and nobody else adds."""
    head = tl.program_id(1)
    begin, end = tl.load(starts + tl.program_id(0)), tl.load(starts + tl.program_id(0) + 1)
    keys = begin + tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, WIDTH)
    inside = (keys < end)[:, None] & (dims < width)[None, :]
    k = tl.load(key + (keys[:, None] * heads + head) * width + dims[None, :], mask=inside, other=0.0)
    found = tl.zeros([BLOCK], tl.float32)
    for first in range(begin, end, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        known = (rows < end)[:, None] & (dims < width)[None, :]
        q = tl.load(query + (rows[:, None] * heads + head) * width + dims[None, :], mask=known, other=0.0)
        # Rows behind the text weigh nothing: their log-sum is infinite.
        log_sum = tl.load(log_sums + head * total + rows, mask=rows < end, other=float("inf"))
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        found += tl.sum(tl.exp(logits - log_sum[:, None]), 0)
    tl.store(mass + head * total + keys, found, mask=keys < end)
