"""OpenVINO against ONNX Runtime on the demo's engines: the same artifact, the same texts, in turns.

python -m benchmarks.cpu_backends demo/output/dense demo/output/transkimmer [--reviews 128] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from calib.data import read_examples
from engines.machine import machine_record
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.builder.measure import alternate
from pipeline.cli import main_of

PROVIDERS = ("openvino", "onnxruntime")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.cpu_backends", description=(__doc__ or "").splitlines()[0])
    p.add_argument("artifacts", type=Path, nargs="+", help="artifacts for the target cpu")
    p.add_argument("--reviews", type=int, default=128, help="held-out reviews that are timed (default 128)")
    p.add_argument("--rounds", type=int, default=5, help="times that every chunk is timed (default 5)")
    p.add_argument("--json", type=Path, metavar="FILE", help="where the record is written")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints, and writes, seconds and the ratio of medians for every artifact and batch size."""
    texts = [example.content for example in read_examples("movie-reviews", "test")[: args.reviews]]
    rows = [compare(path, texts, batch, args.rounds) for path in args.artifacts for batch in (1, 8)]
    for row in rows:
        print(
            f"{row['artifact']}, batch {row['batch']}: OpenVINO {row['milliseconds']['openvino']:.2f} ms a text, ONNX "
            f"Runtime {row['milliseconds']['onnxruntime']:.2f} ms; OpenVINO is {row['ratio']:.2f} times as fast"
        )
    if args.json is not None:
        args.json.write_text(json.dumps({**machine_record(), "rows": rows}, indent=1) + "\n", "utf-8")
    return 0


def compare(path: Path, texts: Sequence[Text], batch: int, rounds: int) -> dict:
    """Milliseconds a text of both providers, and the median ratio of the chunks of texts."""
    ways: dict[str, Callable[[Sequence[Text]], object]] = {}
    for provider in PROVIDERS:
        runner = Runner(path, "cpu", provider=provider, max_batch=batch, truncate=True)
        runner.warm_up()
        ways[provider] = runner
    chunks = alternate(ways, texts, rounds)
    ratio = statistics.median(ort / ours for ours, ort in zip(*(chunks[name] for name in PROVIDERS), strict=True))
    return {
        "artifact": path.name,
        "batch": batch,
        "milliseconds": {name: 1e3 * sum(seconds) / len(texts) for name, seconds in chunks.items()},
        "ratio": ratio,
    }


if __name__ == "__main__":
    main_of(parser, run)
