"""Attention over packed texts, and what every token receives in it, which is LTP's score.

Flash attention keeps no probabilities, but it can return the logarithm of every query's sum. With that a probability is
exp(q . k - log-sum), so a second pass over queries and keys sums them by key, and no matrix is ever in memory.

Queries, keys and values are [T, H, D / H]: the rows of all texts, one text behind the other. starts [B + 1] int32 says
where each begins, and where the last one ends; rows behind that are padding.
"""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor

_BLOCK = 64


def attend(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float
) -> tuple[Tensor, Tensor]:
    """The context [T, H, D / H] and the log-sum of every query [H, T] fp32, by PyTorch's flash attention on a GPU.

    longest: rows of the longest text. What padding rows get means nothing.
    """
    if query.device.type == "cpu":
        return attend_plainly(query, key, value, starts, scale)
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    aux = AuxRequest(lse=True)
    found = varlen_attn(query, key, value, starts, starts, longest, longest, return_aux=aux, scale=scale)
    return cast("tuple[Tensor, Tensor]", found)


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The same, text by text, in standard operators."""
    context = torch.zeros_like(query)
    log_sums = query.new_zeros(query.shape[1], query.shape[0], dtype=torch.float32)
    for rows in _texts(starts):
        logits = scale * torch.einsum("qhd,khd->hqk", query[rows].float(), key[rows].float())
        log_sums[:, rows] = logits.logsumexp(-1)
        context[rows] = torch.einsum("hqk,khd->qhd", logits.softmax(-1).to(value.dtype), value[rows])
    return context, log_sums


def column_mass(query: Tensor, key: Tensor, log_sums: Tensor, starts: Tensor, longest: int, scale: float) -> Tensor:
    """[T] fp32: the probabilities that each key gets from all queries of its text and all heads; 0 for padding."""
    if query.device.type != "cpu":
        from benchmarks.gpu.column_mass_triton import by_triton

        return by_triton(query, key, log_sums, starts, longest, scale)
    mass = query.new_zeros(query.shape[:2], dtype=torch.float32)
    for rows in _texts(starts):
        for at in range(rows.start, rows.stop, _BLOCK):
            block = slice(at, min(at + _BLOCK, rows.stop))
            logits = scale * torch.einsum("qhd,khd->qhk", query[block].float(), key[rows].float())
            mass[rows] += (logits - log_sums[:, block].T[:, :, None]).exp().sum(0).T
    return mass.sum(1)


def _texts(starts: Tensor) -> list[slice]:
    places = starts.tolist()
    return [slice(begin, end) for begin, end in itertools.pairwise(places)]
