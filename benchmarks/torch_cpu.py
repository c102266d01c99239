"""The target torch against the target cpu (OpenVINO): the same models and texts, in turns; answers and sizes too.

python -m benchmarks.torch_cpu TORCH_ARTIFACT CPU_ARTIFACT [TORCH_ARTIFACT CPU_ARTIFACT ...] [--json FILE]
python -m benchmarks.torch_cpu --table    # prints the table of docs/torch.md
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from calib.data import read_examples
from engines.artifact import Artifact
from engines.backends.torch_file import read_engine
from engines.errors import InputError
from engines.files import content_of
from engines.machine import machine_record
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.builder.measure import alternate
from pipeline.cli import main_of
from pipeline.report.markdown import table

TARGETS = ("torch", "cpu")
RESULTS = Path(__file__).resolve().parent / "results" / "torch-cpu.json"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.torch_cpu", description=(__doc__ or "").splitlines()[0])
    p.add_argument("artifacts", type=Path, nargs="*", help="pairs: of a model for the target torch, then for cpu")
    p.add_argument("--reviews", type=int, default=64, help="held-out reviews that are timed (default 64)")
    p.add_argument("--rounds", type=int, default=5, help="times that every chunk is timed (default 5)")
    p.add_argument("--threads", type=int, default=1, help="of both targets (default 1)")
    p.add_argument("--json", type=Path, metavar="FILE", help="where the record is written")
    p.add_argument("--table", action="store_true", help="print the table of the committed results")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints, and writes, times, answers and sizes of every pair at batch 1 and 8."""
    if args.table:
        print(markdown_table(json.loads(RESULTS.read_bytes())))
        return 0
    if len(args.artifacts) % 2 or not args.artifacts:
        raise InputError(f"artifacts: expected pairs, found {len(args.artifacts)}")
    texts = [example.content for example in read_examples("movie-reviews", "test")[: args.reviews]]
    pairs = list(zip(args.artifacts[::2], args.artifacts[1::2], strict=True))
    rows = [compare(pair, texts, batch, args) for pair in pairs for batch in (1, 8)]
    for row in rows:
        times = row["milliseconds"]
        print(
            f"{row['method']} {row['precision']}, batch {row['batch']}: torch {times['torch']:.2f} ms a text, OpenVINO "
            f"{times['cpu']:.2f} ms, {row['ratio']:.2f} times as fast; same labels {row['same_labels']:.3f}, largest "
            f"difference of a logit {row['logits']:.2g}; engines are {row['size']:.3f} times their weights"
        )
    if args.json is not None:
        record = {**machine_record(), "threads": args.threads, "texts": len(texts), "rounds": args.rounds, "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return 0


def compare(pair: tuple[Path, Path], texts: Sequence[Text], batch: int, args: argparse.Namespace) -> dict:
    """Milliseconds a text of both targets, the median ratio of the chunks of texts, and what the answers differ by."""
    ways: dict[str, Callable[[Sequence[Text]], object]] = {}
    answers = {}
    for target, path in zip(TARGETS, pair, strict=True):
        runner = Runner(path, target, threads=args.threads, max_batch=batch, truncate=True)
        runner.warm_up()
        answers[target] = runner(list(texts))
        ways[target] = runner
    chunks = alternate(ways, texts, args.rounds)
    manifest = Artifact.open(pair[0], verify=False).manifest
    both = list(zip(*(answers[target] for target in TARGETS), strict=True))
    return {
        "method": manifest.method,
        "precision": manifest.engines[0].precision,
        "batch": batch,
        "milliseconds": {target: 1e3 * sum(seconds) / len(texts) for target, seconds in chunks.items()},
        "ratio": statistics.median(cpu / ours for ours, cpu in zip(*(chunks[name] for name in TARGETS), strict=True)),
        "same_tokens": sum(ours.retention == theirs.retention for ours, theirs in both) / len(both),
        "same_labels": sum(ours.label == theirs.label for ours, theirs in both) / len(both),
        "logits": max(float(np.abs(np.subtract(ours.logits, theirs.logits)).max()) for ours, theirs in both),
        "size": _size_over_weights(pair[0]),
    }


def markdown_table(record: dict) -> str:
    """The table of docs/torch.md."""
    head = [
        "model",
        "precision",
        "batch",
        "torch, ms",
        "OpenVINO, ms",
        "OpenVINO / torch",
        "same tokens",
        "same labels",
    ]
    head += ["logits differ by", "engines / weights"]
    rows = [
        [
            row["method"],
            row["precision"],
            str(row["batch"]),
            *(f"{row['milliseconds'][target]:.2f}" for target in TARGETS),
            f"{row['ratio']:.2f}",
            *(f"{100 * row[name]:.1f} %" for name in ("same_tokens", "same_labels")),
            f"{row['logits']:.1e}",
            f"{row['size']:.3f}",
        ]
        for row in record["rows"]
    ]
    tools = record["versions"]
    note = (
        f"Milliseconds a text, texts in, labels out, of {record['texts']} reviews; {record['threads']} thread; "
        f"both targets in turns, medians of {record['rounds']} rounds; {record['machine']['processor']}; PyTorch "
        f"{tools['torch']}, OpenVINO {tools['openvino']}. Other work ran on the machine, so only the ratios count."
    )
    return table(head, rows, note, names=2)


def _size_over_weights(artifact: Path) -> float:
    """Bytes of an artifact's engines over those of the weights in them."""
    files = [artifact / engine.file for engine in Artifact.open(artifact, verify=False).manifest.engines]
    weights = [stored.values.nbytes for file in files for stored in read_engine(file, content_of(file))[1].values()]
    return sum(file.stat().st_size for file in files) / sum(weights)


if __name__ == "__main__":
    main_of(parser, run)
