"""python -m pipeline.bench: times an artifact on your texts, beside the dense model in the libraries of your choice."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt[cpu]"):
    import torch
    from rich.console import Console

    from calib.data import Example, examples_digest
    from engines.artifact import Artifact
    from engines.errors import InputError
    from engines.machine import machine_record
    from engines.manifest import Manifest
    from engines.runner import Runner
    from engines.writing import write_whole
    from pipeline.bench.dense import ENGINES, Dense, dense_of, runner_of
    from pipeline.bench.measuring import ARTIFACT, Latency, timed
    from pipeline.bench.table import bench_table, setting
    from pipeline.builder.measure import Timing
    from pipeline.builder.progress import progress_bars
    from pipeline.builder.subject import Inputs, tokens_of
    from pipeline.cli import add_column_flags, columns_of, figures_table, main_of, printable, standard_output
    from pipeline.model import load_checkpoint
    from pipeline.model.checkpoint import checkpoint_digest
    from pipeline.model.flops import flops_ratio
    from pipeline.model.retention import carried_rows

_EPILOG = """\
example:
  python -m pipeline.bench artifact --data mine.jsonl --against onnxruntime,openvino --json bench.json

Of every way it prints the milliseconds for a text of a request, median and 95th percentile (for requests of one text,
and of --batch texts), the texts a second where all come at once, and how many times as fast the artifact is there.
--against: torch and torch-compile run this project's own PyTorch model, whose attention is written out; onnxruntime and
openvino run its graph by their own defaults, of OpenVINO on many CPUs bf16; skimrt is the dense artifact of the build,
with planned buckets and the same regrouping.

exit codes: 0 timed, 2 bad usage or input, 4 a library is missing"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=program("bench"),
        description="Says where the speedup is: times an artifact on texts of yours, end to end from text to answer, "
        "beside the dense model in other libraries, in one process and in turns.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote")
    p.add_argument("--against", default="onnxruntime,openvino", help=f"of {','.join(ENGINES)} (default %(default)s)")
    p.add_argument("--dense", type=Path, help="dense model: an artifact or a checkpoint (default: that of the build)")
    p.add_argument("--data", help="texts: a named set or a file (default: those of the build)")
    add_column_flags(p)
    p.add_argument("--texts", type=int, default=128, help="texts that are timed (default 128)")
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="texts of a request (default 1 8)")
    p.add_argument("--rounds", type=int, default=3, help="times that every request is timed (default 3)")
    p.add_argument("--threads", type=int, help="CPU threads of all (default: each library's choice)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file, in bench.json's form")
    return p


def run(args: argparse.Namespace) -> int:
    """Times, prints the table, and writes the file."""
    counts = {"--texts": [args.texts], "--batch": args.batch, "--rounds": [args.rounds], "--threads": [args.threads]}
    problems = [
        f"{n}: expected at least 1, found {v}" for n, vs in counts.items() for v in vs if v is not None and v < 1
    ]
    if problems:
        raise InputError.listing("bench", problems)
    artifact = Artifact.open(args.artifact)
    manifest, engines = artifact.manifest, list(dict.fromkeys(args.against.split(",")))
    with dense_of(args.artifact, manifest, args.dense) as dense:
        dense.refuse(engines)
        examples = _examples(args, manifest)
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        record = _measured(args, manifest, dense, engines, examples)
    if args.json is not None:
        write_whole(args.json, (json.dumps(record, indent=1) + "\n").encode())
    with standard_output() as output:
        console = Console(file=output)
        for batch in dict.fromkeys(args.batch):
            title = f"requests of {batch} text{'s' if batch > 1 else ''}"
            console.print(figures_table(title, *bench_table(record, manifest.method, batch)))
        console.print(printable(setting(record, manifest.method)), highlight=False)
    return 0


def _examples(args: argparse.Namespace, manifest: Manifest) -> Sequence[Example]:
    data = args.data or (manifest.data.name if manifest.data else None)
    if data is None:
        raise InputError("--data: expected texts, for the build names none; name a file or a set")
    examples = Inputs(columns_of(args)).examples(data, "test")[: args.texts]
    if not examples:
        raise InputError(f"--data {data}: expected texts, found none")
    return examples


def _measured(
    args: argparse.Namespace, manifest: Manifest, dense: Dense, engines: Sequence[str], examples: Sequence[Example]
) -> dict:
    """The record: everything that was measured, where, and with what."""
    length = min(manifest.max_length, dense.max_length)
    texts = [example.content for example in examples]
    latencies: list[Latency] = []
    timings: list[Timing] = []
    precisions: dict[str, str] = {}
    with progress_bars(Console(stderr=True)) as progress:
        for batch in dict.fromkeys(args.batch):
            ways = {}
            ways[ARTIFACT], precisions[ARTIFACT] = runner_of(args.artifact, batch, length, args.threads)
            for engine in engines:
                ways[f"dense, {engine}"], precisions[f"dense, {engine}"] = dense.way(
                    engine, batch, length, args.threads
                )
            found = timed(ways, texts, batch, args.rounds, progress)
            latencies += found[0]
            timings += found[1]
    return {
        "flops_ratio": _flops(manifest, dense, examples, length),
        "max_length": length,
        **machine_record(),
        "threads": args.threads,
        "texts": len(texts),
        "data": examples_digest(examples),
        "rounds": args.rounds,
        "precisions": precisions,
        "kept": _kept(args.artifact, texts, length, args.threads),
        "latencies": [asdict(one) for one in latencies],
        "timings": [asdict(one) for one in timings],
    }


def _kept(artifact: Path, texts: Sequence, length: int, threads: int | None) -> list[float]:
    """The share of all tokens that is alive at the end of every stage."""
    runner = Runner(artifact, threads=threads, truncate=True, verify=False, max_length=length)
    predictions = runner(texts)
    total = sum(one.tokens for one in predictions)
    return [sum(counts) / total for counts in zip(*(one.retention for one in predictions), strict=True)]


def _flops(manifest: Manifest, dense: Dense, examples: Sequence[Example], length: int) -> float | None:
    """Dense FLOPs over those of the artifact's model on these texts; None where a checkpoint is not there any more."""
    checkpoint = Path(manifest.checkpoint.path)
    if not checkpoint.is_dir() or checkpoint_digest(checkpoint) != manifest.checkpoint.sha256:
        return None
    model = load_checkpoint(checkpoint)
    rows = carried_rows(model, tokens_of(checkpoint, model, examples, length))
    try:
        return flops_ratio(model.config, rows, dense.model.config)
    except InputError:
        return None


if __name__ == "__main__":
    main_of(parser, run)
