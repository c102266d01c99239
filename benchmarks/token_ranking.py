"""Short trainings with and without the teacher's ranking of tokens: accuracy on dev texts at the same FLOPs ratio.

python -m benchmarks.token_ranking --json benchmarks/results/token-ranking.json
python -m benchmarks.token_ranking --table benchmarks/results/token-ranking.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.records import add_record_flags, printed, require_json, write_record
from benchmarks.training import trained
from engines.machine import machine_record
from pipeline.builder.config import DEMO
from pipeline.cli import main_of
from pipeline.report.markdown import table

TRAINING = (
    "--data movie-reviews --adapter-rank 32 --decide-at 0 --flops-ratio 2.2 --limit 1200 --dev-limit 800 "
    "--max-length 256 --evaluations 1 --batch-tokens 2048 --lr 3e-4 --distil 0.5 --threads 1"
)
WAYS = {
    "ltp-0": "--method ltp --phases hard --distil-tokens 0",
    "ltp-1": "--method ltp --phases hard --distil-tokens 1",
    "tk-st-0": "--method transkimmer --epochs 0.5 --distil-tokens 0",
    "tk-hard-1": "--method transkimmer --phases hard --distil-tokens 1",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.token_ranking", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--work", type=Path, default=Path("runs/token-ranking"), help="directory of the trained models")
    p.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what is trained (default all)")
    add_record_flags(p)
    return p


def run(args: argparse.Namespace) -> int:
    """Trains what is not trained yet, writes the record and prints its table."""
    if printed(args, table_of):
        return 0
    require_json(args)
    record = {**machine_record(), "runs": [learned(name, args.work / name) for name in args.ways]}
    write_record(args.json, record)
    print(table_of(record))
    return 0


def learned(name: str, out: Path) -> dict:
    """Trains the demo's dense model to skip tokens in one way."""
    training = trained(["--init", DEMO / "dense", *TRAINING.split(), *WAYS[name].split()], out)
    return {
        "way": name,
        "command": training["command"],
        "phases": list(dict.fromkeys(entry["phase"] for entry in training["history"])),
        "weight": training["config"]["distil_tokens"],
        "accuracy": training["dev"]["metric"],
        "flops_ratio": training["dev"]["flops_ratio"],
        "texts": {name: count for name, (count, _) in training["data"].items()},
    }


def table_of(record: dict) -> str:
    """Accuracies as Markdown."""
    rows = [
        [
            "Transkimmer" if found["way"].startswith("tk") else "LTP",
            ", ".join(found["phases"]),
            f"{found['weight']:g}",
            f"{found['accuracy']:.4f}",
            f"{found['flops_ratio']:.2f}x",
        ]
        for found in record["runs"]
    ]
    texts, machine = record["runs"][0]["texts"], record["machine"]
    note = (
        f"The demo's dense model, trained to decide at layer 0 on {texts['train']} reviews of at most 256 tokens, each "
        f"seen once; accuracy on {texts['dev']} dev reviews, certain to about a point. {machine['processor']}."
    )
    return table(["method", "phases", "--distil-tokens", "accuracy", "FLOPs"], rows, note, names=2)


if __name__ == "__main__":
    main_of(parser, run)
