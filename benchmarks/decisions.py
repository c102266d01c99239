"""Compares few sharp decisions with many mild ones: how much of the FLOPs ratio becomes speedup, for any checkpoints.

python -m benchmarks.decisions --dense demo/checkpoints/dense demo/checkpoints/transkimmer runs/every-layer --json FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from calib.data import examples_digest
from engines.artifact import Artifact
from engines.errors import InputError
from pipeline.builder.config import DEMO, BuildConfig
from pipeline.builder.measure import as_record, measure, speedups
from pipeline.builder.progress import progress_bars
from pipeline.builder.steps import build
from pipeline.builder.subject import Subject
from pipeline.cli import main_of
from pipeline.graph.stages import decision_layers
from pipeline.model import load_checkpoint
from pipeline.model.checkpoint import checkpoint_digest
from pipeline.model.flops import flops_ratio
from pipeline.model.retention import carried_rows

BATCHES = (1, 8)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.decisions", description=(__doc__ or "").splitlines()[0])
    p.add_argument("checkpoints", type=Path, nargs="+", help="pruned models")
    p.add_argument("--dense", type=Path, default=DEMO / "dense", help="the dense model (default: the demo's)")
    p.add_argument("--timed", type=int, default=512, help="held-out reviews that are timed (default 512)")
    p.add_argument("--rounds", type=int, default=3, help="times that every chunk is timed (default 3)")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument("--out", type=Path, default=Path("demo/output/decisions"), help="directory of the artifacts")
    p.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the record is written")
    return p


def run(args: argparse.Namespace) -> int:
    """Builds the missing artifacts, times all in turns, prints and writes the figures."""
    console, artifacts = Console(), {}
    for checkpoint in (args.dense, *args.checkpoints):
        if checkpoint.name in artifacts:
            raise InputError(f"{checkpoint}: expected checkpoints of different names, found two {checkpoint.name}")
        artifacts[checkpoint.name] = out = args.out / checkpoint.name
        if not _is_of(out, checkpoint):
            console.rule(checkpoint.name)
            config = BuildConfig(
                checkpoint=checkpoint, samples=32, max_drop=100, threads=args.threads, out=out, force=True
            )
            build(config, console)
    subject = Subject.load(args.dense, "movie-reviews", args.timed)
    texts = [example.content for example in subject.examples]
    with progress_bars(console) as progress:
        timings = measure(artifacts, texts, BATCHES, args.rounds, progress, args.threads)
    models = {}
    for checkpoint in args.checkpoints:
        model = load_checkpoint(checkpoint)
        ratio = flops_ratio(model.config, carried_rows(model, subject.samples))
        faster = speedups(timings, checkpoint.name, args.dense.name)
        models[checkpoint.name] = {
            "method": model.config.pruner.method,
            "decides_at": decision_layers(model),
            "flops_ratio": ratio,
            "speedup": faster,
            "share": {batch: faster[batch] / ratio for batch in BATCHES},
        }
        shown = ", ".join(f"{faster[b]:.2f}x at batch {b} ({faster[b] / ratio:.2f} of it)" for b in BATCHES)
        layers = ", ".join(map(str, decision_layers(model)))
        console.print(f"{checkpoint.name}: decides at {layers}; {ratio:.2f}x fewer FLOPs, {shown}", highlight=False)
    record = {"timed": len(texts), "data": examples_digest(subject.examples), "models": models, **as_record(timings)}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return 0


def _is_of(out: Path, checkpoint: Path) -> bool:
    """Returns whether there is an artifact of the checkpoint as it is now."""
    try:
        return Artifact.open(out, verify=False).manifest.checkpoint.sha256 == checkpoint_digest(checkpoint)
    except InputError:
        return False


if __name__ == "__main__":
    main_of(parser, run)
