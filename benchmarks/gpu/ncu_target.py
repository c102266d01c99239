"""Calls TokenCompact and Regroup a few times for a profiler, each compared with PyTorch first.

ncu ... python -m benchmarks.gpu.ncu_target
"""

from __future__ import annotations

import argparse

import torch

from engines.backends.plugin import use_kernel
from engines.errors import GateError
from pipeline.cli import main_of
from plugins.library import open_library
from plugins.regroup.binding import Regroup, Source, Target
from plugins.token_compact.operator import token_compact

SHAPES = ((1, 128, 384), (8, 256, 384), (32, 256, 384), (32, 512, 768), (128, 512, 768))
_THRESHOLD = 0.55
"""Of scores that are spread evenly from 0 to 1."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.ncu_target", description=(__doc__ or "").splitlines()[0]
    )


def run(args: argparse.Namespace) -> int:
    """Calls both kernels in every shape. Raises GateError where one is wrong."""
    use_kernel()
    regroup = Regroup(open_library())
    torch.manual_seed(0)
    for shape in SHAPES:
        call_both(shape, regroup)
    return 0


def call_both(shape: tuple[int, int, int], regroup: Regroup) -> None:
    """Compacts random rows [batch, length, width], then regroups half of each sample, last sample first."""
    batch, length, width = shape
    hidden = torch.randn(batch, length, width, device="cuda", dtype=torch.float16)
    score = torch.rand(batch, length, device="cuda")
    alive = torch.ones(batch, length, device="cuda", dtype=torch.int32)
    position = torch.arange(length, device="cuda", dtype=torch.int32).expand(batch, -1).contiguous()
    found = token_compact(hidden, score, alive, position, _THRESHOLD)
    on_host = token_compact(*(tensor.cpu() for tensor in (hidden, score, alive, position)), _THRESHOLD)
    if not all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(found, on_host, strict=True)):
        raise GateError(f"TokenCompact of {shape}: expected what PyTorch finds on the CPU, found something else")

    packed, packed_alive, packed_position, count = found
    rows = length // 2
    target = [torch.empty(batch, rows, width, device="cuda", dtype=torch.float16)]
    target += [torch.empty(batch, rows, device="cuda", dtype=torch.int32) for _ in range(2)]
    addresses = packed.data_ptr(), packed_alive.data_ptr(), packed_position.data_ptr()
    sources = [Source(*addresses, sample=index, length=length) for index in reversed(range(batch))]
    into = Target(*(tensor.data_ptr() for tensor in target), batch=batch, length=rows, row_bytes=2 * width)
    regroup(sources, into, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    expected = [tensor.flip(0)[:, :rows] for tensor in (packed, packed_alive, packed_position)]
    if not all(torch.equal(ours, theirs) for ours, theirs in zip(target, expected, strict=True)):
        raise GateError(f"Regroup of {shape}: expected the samples in the other order, found something else")
    print(f"{batch} x {length} x {width}: {int(count.sum())} of {batch * length} rows carried, both kernels right")


if __name__ == "__main__":
    main_of(parser, run)
