"""Regroup on this machine's GPU: microseconds of one call, as one of many in a CUDA graph.

python -m benchmarks.regroup_gpu [--json FILE]

Needs a CUDA device and the build (cmake --build build). The rows are in the level-2 cache as far as they fit, as they
are in a run, where the call in front has just written them: more than it holds move at the memory's speed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.gpu_results import Regroup
from engines.backends.cuda_device import cuda_device
from engines.backends.device import Device, Tensor
from engines.backends.gpu import find_gpu
from engines.buckets import Bucket
from engines.device_rows import Resident, Rows
from pipeline.cli import main_of

_BATCH, _REPLAYED = 8, 100
LENGTHS, WIDTHS = (32, 64, 128, 256, 512), (384, 768)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.regroup_gpu", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--json", type=Path, metavar="FILE", help="where the record is written")
    return p


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes the figures. Raises TargetError without a GPU."""
    costs = [cost for width in WIDTHS for cost in regroup_costs(cuda_device(), LENGTHS, width)]
    for cost in costs:
        shape = f"{cost.batch} x {cost.length} rows of {cost.row_bytes} bytes"
        print(f"{shape}: {cost.microseconds:.2f} us, {cost.gigabytes_per_second:.0f} GB/s")
    if args.json is not None:
        record = {"gpu": str(find_gpu()), "regroup": [cost.model_dump() for cost in costs]}
        args.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return 0


def regroup_costs(device: Device, lengths: Sequence[int] = (32, 128, 256), width: int = 384) -> list[Regroup]:
    """Time of one regroup of 8 fp16 samples, as one of many in a CUDA graph, so that no launch is counted."""
    return [_regroup_cost(device, Bucket(batch=_BATCH, length=length), width) for length in lengths]


def _regroup_cost(device: Device, bucket: Bucket, width: int) -> Regroup:
    shape = (bucket.batch, bucket.length)
    tensors = (Tensor((*shape, width), np.dtype(np.float16)), *[Tensor(shape, np.dtype(np.int32))] * 2)
    source, target = (Rows(*(device.array(tensor) for tensor in tensors)) for _ in range(2))
    sources = [Resident(source, index, bucket.length).source for index in range(bucket.batch)]
    stream = device.stream()
    stream.regroup(sources, target.target)
    stream.synchronize()

    def replayed() -> None:
        for _ in range(_REPLAYED):
            stream.regroup(sources, target.target)

    graph = stream.capture(replayed)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        stream.launch(graph)
        stream.synchronize()
        times.append((time.perf_counter() - started) / _REPLAYED)
    return Regroup(
        batch=bucket.batch, length=bucket.length, row_bytes=2 * width, microseconds=1e6 * float(np.median(times))
    )


if __name__ == "__main__":
    main_of(parser, run)
