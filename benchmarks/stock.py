"""Artifacts against the dense model in stock OpenVINO: one dynamic model, everything by the library's defaults.

python -m benchmarks.stock demo/output/dense demo/output/ltp demo/output/transkimmer [--threads 1] [--processor-time]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from calib.data import read_examples
from engines.artifact import Artifact
from engines.machine import machine_record
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.builder.measure import alternate, common_length
from pipeline.builder.stock import NAME, StockModel
from pipeline.cli import main_of

_CHUNK = 64


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.stock", description=(__doc__ or "").splitlines()[0])
    p.add_argument("dense", type=Path, help="artifact of the dense model, whose graph stock OpenVINO runs")
    p.add_argument("artifacts", type=Path, nargs="+", help="artifacts of the pruned models")
    p.add_argument("--reviews", type=int, default=128, help="texts that are timed (default 128)")
    p.add_argument("--rounds", type=int, default=5, help="times that every chunk is timed (default 5)")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument(
        "--processor-time", action="store_true", help="instead of wall-clock time, where the machine is busy"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints, and writes, how many times as fast as stock OpenVINO every artifact is."""
    texts = [example.content for example in read_examples("movie-reviews", "test")[: args.reviews]]
    clock = time.process_time if args.processor_time else time.perf_counter
    artifacts = {path.name: path for path in (args.dense, *args.artifacts)}
    rows = []
    for batch in (1, 8):
        ways, precision = _ways(args.dense, artifacts, batch, args.threads)
        for way in ways.values():
            way(texts)
        chunks = [
            alternate(ways, texts[at : at + _CHUNK], args.rounds, clock=clock) for at in range(0, len(texts), _CHUNK)
        ]
        seconds = {name: [sum(found[name]) for found in chunks] for name in ways}
        over = {
            name: round(statistics.median(s / own for s, own in zip(seconds[NAME], seconds[name], strict=True)), 3)
            for name in ways
        }
        milliseconds = {name: round(1e3 * sum(found) / len(texts), 3) for name, found in seconds.items()}
        rows.append({"batch": batch, "stock_precision": precision, "milliseconds": milliseconds, "over_stock": over})
        print(
            f"batch {batch} (stock in {precision}): "
            + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in over.items())
        )
    if args.json is not None:
        precisions = {n: sorted(Artifact.open(p, verify=False).manifest.built["cpu"]) for n, p in artifacts.items()}
        record = {**machine_record(), "threads": args.threads, "reviews": len(texts), "precisions": precisions}
        record["seconds"] = "of the processor" if args.processor_time else "of the clock"
        args.json.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n", "utf-8")
    return 0


def _ways(
    dense: Path, artifacts: dict[str, Path], batch: int, threads: int | None
) -> tuple[dict[str, Callable[[Sequence[Text]], object]], str]:
    """Every way of running texts, and the precision that stock OpenVINO takes."""
    length = common_length(artifacts.values())
    stock = StockModel(dense, batch, length, threads)
    ways: dict[str, Callable[[Sequence[Text]], object]] = {NAME: stock}
    for name, path in artifacts.items():
        runner = Runner(path, threads=threads, max_batch=batch, truncate=True, verify=False, max_length=length)
        runner.warm_up()
        ways[name] = runner
    return ways, stock.precision


if __name__ == "__main__":
    main_of(parser, run)
