"""Asked --flops-ratio against reached: short trainings of both methods, their ratio on texts that none has seen.

python -m benchmarks.asked_ratio --json benchmarks/results/asked-ratio.json
python -m benchmarks.asked_ratio --table benchmarks/results/asked-ratio.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.records import add_record_flags, printed, require_json, write_record
from benchmarks.training import trained
from calib.data import examples_digest
from engines.machine import machine_record
from pipeline.builder.config import DEMO
from pipeline.builder.subject import Subject
from pipeline.cli import main_of
from pipeline.model.flops import flops_ratio
from pipeline.model.retention import carried_rows
from pipeline.report.markdown import table

DATA, METHODS, RATIOS = "movie-reviews", ("ltp", "transkimmer"), (1.5, 2.5, 3.5)
TRAINING = "--decide-at 0 --adapter-rank 32 --max-length 128 --epochs 0.1 --dev-limit 64 --evaluations 1 --threads 1"
_LIMIT = 1024
"""Texts to train on: few of them are, but the decisions are moved on all."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.asked_ratio", description=(__doc__ or "").splitlines()[0])
    p.add_argument(
        "--work", type=Path, default=Path("runs/asked-ratio"), help="directory of the trained models; those there stay"
    )
    p.add_argument("--texts", type=int, default=512, help="held-out texts that the ratio is measured on (default 512)")
    add_record_flags(p)
    return p


def run(args: argparse.Namespace) -> int:
    """Trains, measures, writes the record and prints its table."""
    if printed(args, table_of):
        return 0
    require_json(args)
    record: dict = {**machine_record(), "runs": []}
    for method in METHODS:
        for ratio in RATIOS:
            record["runs"].append(reached(method, ratio, args))
            write_record(args.json, record)
    print(table_of(record))
    return 0


def reached(method: str, ratio: float, args: argparse.Namespace) -> dict:
    """Trains the demo's dense model to skip tokens, and measures its ratio on the test split."""
    out = args.work / f"{method}-{ratio:g}"
    given = ["--method", method, "--data", DATA, "--init", DEMO / "dense", *TRAINING.split()]
    given += ["--limit", _LIMIT, "--flops-ratio", ratio]
    training = trained(given, out)
    subject = Subject.load(out, DATA, args.texts)
    return {
        "method": method,
        "asked": ratio,
        "reached": round(flops_ratio(subject.model.config, carried_rows(subject.model, subject.samples)), 4),
        "texts": len(subject.samples),
        "data": examples_digest(subject.examples),
        "seed": training["config"]["seed"],
        "command": training["command"],
        "seconds": round(sum(entry["seconds"] for entry in training["history"])),
        "dev": training["dev"],
    }


def table_of(record: dict) -> str:
    """The document's table of a record."""
    rows = [
        (of["method"], f"{of['asked']:g}", f"{of['reached']:.3f}", f"{of['reached'] - of['asked']:+.3f}")
        for of in record["runs"]
    ]
    first, machine = record["runs"][0], record["machine"]
    left = [m for m in METHODS if sum(of["method"] == m for of in record["runs"]) < len(RATIOS)]
    lacking = f" Not measured yet, in part or whole: {', '.join(left)}." if left else ""
    note = (
        f"{DATA}, six layers that decide at layer 0, trained for a tenth of an epoch of each phase on {_LIMIT:,} texts "
        "of at most 128 tokens, on which the decisions are moved; reached: on "
        f"{first['texts']} texts of the test split, which no run has seen. {machine['cpus']} cores of "
        f"{machine['processor']}.{lacking}"
    )
    return table(("method", "asked", "reached", "difference"), rows, note)


if __name__ == "__main__":
    main_of(parser, run)
