"""Times an encoder on this GPU by batch and length, in fp16, as one CUDA graph a call: where pruning can pay.

python -m benchmarks.gpu.stage_times --out stage-times.json [--mode compile]

Weights are random, because times do not depend on them. A time is of a call of the device engine: the inputs' copies
up, all kernels, the results' copies down. --host is the rehearsal without a GPU, whose times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.gpu.internals import seconds_of_call, stand_in_device, versions
from benchmarks.gpu.torch_cuda import MODES, TorchBackend
from engines.backends.device import Device
from engines.backends.device_engine import DeviceProfile, Lane
from engines.buckets import Bucket
from pipeline.cli import main_of
from pipeline.graph.precision import Precision
from pipeline.graph.stages import Stage, cut_stages
from pipeline.model import CheckpointConfig, PrunedTransformer
from pipeline.model.config import EncoderConfig, HeadConfig, PrunerConfig

MODELS = {"minilm": (6, 384, 12, 1536), "base": (12, 768, 12, 3072), "tiny": (1, 32, 2, 64)}
"""Layers, width, heads and inner width. `tiny` is for the rehearsal."""
_LONGEST, _REPEATS = 512, 30


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.stage_times", description=(__doc__ or "").splitlines()[0]
    )
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the record is written")
    p.add_argument("--mode", choices=MODES[:2], default="eager", help="PyTorch as it is, or torch.compile")
    p.add_argument("--models", default="minilm,base", help=f"of {', '.join(MODELS)} (default minilm,base)")
    p.add_argument("--batches", default="1,8,32,128", help="(default 1,8,32,128)")
    p.add_argument("--lengths", default="16,32,64,128,256,512", help="(default 16,32,64,128,256,512)")
    p.add_argument("--seconds", type=float, default=200, help="no bucket is started behind so many (default 200)")
    p.add_argument("--host", action="store_true", help="the rehearsal without a GPU")
    return p


def run(args: argparse.Namespace) -> int:
    """Times, prints a table a model, and writes every figure as it comes; 3 where one failed."""
    host = stand_in_device() if args.host else None
    results = {**versions(), "mode": args.mode, "precision": "fp32" if args.host else "fp16", "times": [], "failed": []}
    ended = time.perf_counter() + args.seconds
    for name in args.models.split(","):
        backend = backend_of(name, args.mode, host)
        lane = Lane(backend.device())
        print(f"{name}: microseconds of a call; columns are lengths {args.lengths}")
        for batch in map(int, args.batches.split(",")):
            print(f"  batch {batch:4}:", end="", flush=True)
            for length in map(int, args.lengths.split(",")):
                if time.perf_counter() > ended:
                    print("   not run", end="")
                    continue
                cell = {"model": name, "batch": batch, "length": length}
                try:
                    engine = DeviceProfile(
                        backend.device(), backend.executable("stage_0", Bucket(batch=batch, length=length))
                    )
                    microseconds = 1e6 * seconds_of_call(engine, lane, 1 if args.host else _REPEATS)
                except Exception as error:  # such as too little memory: the others are timed all the same
                    results["failed"].append({**cell, "error": f"{type(error).__name__}: {error}"[:600]})
                    print("    FAILED", end="")
                else:
                    results["times"].append({**cell, "microseconds": round(microseconds, 1)})
                    print(f" {microseconds:9.0f}", end="", flush=True)
                args.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
            print()
    for failed in results["failed"]:
        print(f"FAILED {failed}")
    return 3 if results["failed"] else 0


def backend_of(name: str, mode: str, host: Device | None) -> TorchBackend:
    """A dense classifier of a size, as one stage."""
    layers, width, heads, inner = MODELS[name]
    encoder = EncoderConfig(
        family="bert",
        vocab_size=30522,
        hidden_size=width,
        layers=layers,
        heads=heads,
        intermediate_size=inner,
        max_positions=_LONGEST,
    )
    head = HeadConfig(kind="classification", labels=["no", "yes"])
    pruner = PrunerConfig(method="dense")
    config = CheckpointConfig(encoder=encoder, head=head, pruner=pruner, max_length=_LONGEST)
    torch.manual_seed(0)
    model = PrunedTransformer(config).eval()
    (spec,) = cut_stages(model, [])
    precision: Precision = "fp16" if host is None else "fp32"
    return TorchBackend({"stage_0": Stage(model, spec)}, config, precision, mode, host)


if __name__ == "__main__":
    main_of(parser, run)
