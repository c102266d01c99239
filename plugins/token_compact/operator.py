"""`skimrt::token_compact`, the PyTorch form of the TokenCompact operator: threshold, then a stable partition.

On CUDA it is made of standard operators too, until `use_kernel` puts the kernel of the plugin library in their place.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from plugins.token_compact.binding import Problem, TokenCompact


@torch.library.custom_op("skimrt::token_compact", mutates_args=())
def token_compact(
    hidden: Tensor,
    score: Tensor,
    alive: Tensor,
    position: Tensor,
    threshold: float,
    capacity: int = 0,
    protect_first: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Moves the rows that are carried on to the front of every sample, in order, the others behind them, in order.

    hidden [B, S, D] (fp32, fp16, bf16), score [B, S] fp32, alive [B, S] int32, position [B, S] int32.
    A token stays alive iff it was and score >= threshold; row 0 stays alive without that if `protect_first`. Carried
    are the alive rows and row 0. `capacity` C is the number of output rows; 0 means S.

    Returns packed [B, C, D], packed_alive [B, C] int32, packed_position [B, C] int32 and count [B] int32, the number
    of carried rows, which may exceed C.
    """
    return compacted(hidden, score, alive, position, threshold, capacity, protect_first)


@token_compact.register_fake
def _(
    hidden: Tensor,
    score: Tensor,
    alive: Tensor,
    position: Tensor,
    threshold: float,
    capacity: int = 0,
    protect_first: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, length, width = hidden.shape
    rows = capacity or length
    return (
        hidden.new_empty((batch, rows, width)),
        alive.new_empty((batch, rows)),
        position.new_empty((batch, rows)),
        alive.new_empty((batch,)),
    )


def compacted(
    hidden: Tensor,
    score: Tensor,
    alive: Tensor,
    position: Tensor,
    threshold: float,
    capacity: int,
    protect_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator's body in standard operators; takes and returns what `token_compact` does."""
    keep = surviving(score, alive, threshold, protect_first)
    carried = are_carried(keep)
    order = carried_first(carried)[:, : capacity or hidden.shape[1]]
    packed = torch.gather(hidden, 1, order[:, :, None].expand(-1, -1, hidden.shape[2]))
    return (
        packed,
        torch.gather(keep.to(torch.int32), 1, order),
        torch.gather(position, 1, order),
        carried.sum(dim=1, dtype=torch.int32),
    )


def surviving(score: Tensor, alive: Tensor, threshold: float, protect_first: bool) -> Tensor:
    """The decision alone, [B, S] bool: alive before, and scored at least the threshold or first and protected."""
    passed = score >= threshold
    if protect_first:
        first = torch.arange(score.shape[1], device=score.device) == 0
        passed = passed | first[None, :]
    return (alive != 0) & passed


def are_carried(alive: Tensor) -> Tensor:
    """[..., S] bool: the rows that go on, which are the alive ones and the first, dead or alive."""
    first = torch.arange(alive.shape[-1], device=alive.device) == 0
    return (alive != 0) | first


def carried_first(carried: Tensor) -> Tensor:
    """[B, S] int64: the rows in the order of the stable partition, carried ones first."""
    return torch.argsort((~carried).to(torch.uint8), dim=1, stable=True)


@cache
def use_kernel() -> None:
    """Makes the kernel of the plugin library what the operator is on CUDA. Raises PluginError without the library."""
    kernel = TokenCompact()

    @token_compact.register_kernel("cuda")
    def _(
        hidden: Tensor,
        score: Tensor,
        alive: Tensor,
        position: Tensor,
        threshold: float,
        capacity: int = 0,
        protect_first: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        stream = torch.cuda.current_stream().cuda_stream
        return by_kernel(kernel, (hidden, score, alive, position), threshold, capacity, protect_first, stream)


def by_kernel(
    kernel: TokenCompact,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    threshold: float,
    capacity: int,
    protect_first: bool,
    stream: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator by the kernel's C function, on a stream; `inputs` are hidden, score, alive and position.

    Raises RuntimeError when the kernel refuses the call or cannot be launched.
    """
    hidden, score, alive, position = (tensor.contiguous() for tensor in inputs)
    batch, length, width = hidden.shape
    rows = capacity or length
    packed, count = hidden.new_empty((batch, rows, width)), alive.new_empty((batch,))
    packed_alive, packed_position = (alive.new_empty((batch, rows)) for _ in range(2))
    tensors = (hidden, score, alive, position, packed, packed_alive, packed_position, count)
    sizes = (batch, length, rows, width * hidden.element_size())
    kernel(Problem(*sizes, threshold, protect_first, *(tensor.data_ptr() for tensor in tensors)), stream)
    return packed, packed_alive, packed_position, count
