"""The planner's artifact against the plan without a cost model: the same checkpoint and texts, in turns.

python -m benchmarks.plans --checkpoint demo/checkpoints/transkimmer --work /tmp/plans [--json FILE]

Without a cost model a plan is cut wherever enough tokens have died, and every stage has the default buckets.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console

from calib.data import read_examples
from engines.artifact import Artifact
from engines.buckets import default_buckets, format_buckets
from pipeline.builder.config import BuildConfig
from pipeline.builder.measure import as_record, measure
from pipeline.builder.steps import build
from pipeline.cli import main_of
from pipeline.model import load_checkpoint


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.plans", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--checkpoint", type=Path, required=True, help="the model")
    p.add_argument("--work", type=Path, required=True, help="directory for the two artifacts")
    p.add_argument("--reviews", type=int, default=512, help="held-out reviews that are timed (default 512)")
    p.add_argument("--rounds", type=int, default=5, help="times that every chunk is timed (default 5)")
    p.add_argument("--reuse", action="store_true", help="time the artifacts that are already in --work as they are")
    p.add_argument("--json", type=Path, metavar="FILE", help="where the record is written")
    return p


def run(args: argparse.Namespace) -> int:
    """Builds both, times them in turns, prints and writes the figures."""
    args.work.mkdir(parents=True, exist_ok=True)
    simple = format_buckets(default_buckets(load_checkpoint(args.checkpoint).config.max_length))
    artifacts = {}
    for name, buckets in {"planned": None, "simple": simple}.items():
        if args.reuse and (args.work / name).is_dir():
            artifacts[name] = Artifact.open(args.work / name)
            continue
        config = BuildConfig(
            checkpoint=args.checkpoint, buckets=buckets, out=args.work / name, samples=32, max_drop=100, force=True
        )
        artifacts[name] = build(config, Console())
    texts = [example.content for example in read_examples("movie-reviews", "test")[: args.reviews]]
    timings = measure({name: artifact.path for name, artifact in artifacts.items()}, texts, (1, 8), args.rounds)
    rows = []
    for batch in (1, 8):
        planned, simply = (next(t for t in timings if (t.name, t.batch) == (name, batch)) for name in artifacts)
        rows.append(
            {
                "batch": batch,
                "ratio": statistics.median(b / a for a, b in zip(planned.chunks, simply.chunks, strict=True)),
                "expected_milliseconds": artifacts["planned"].manifest.plan.expected_ms[batch],
                "measured_milliseconds": 1e3 * planned.seconds / len(texts),
            }
        )
        print(
            f"batch {batch}: the planned artifact is {rows[-1]['ratio']:.3f} times as fast as the simple one; expected "
            f"{rows[-1]['expected_milliseconds']:.2f} ms a text, measured {rows[-1]['measured_milliseconds']:.2f}"
        )
    if args.json is not None:
        engines = {name: len(artifact.manifest.engines) for name, artifact in artifacts.items()}
        record = {"checkpoint": args.checkpoint.name, "engines": engines, "rows": rows, **as_record(timings)}
        args.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    main_of(parser, run)
