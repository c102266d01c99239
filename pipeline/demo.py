"""python -m pipeline.demo: builds the shipped models, runs them on held-out reviews, and shows what skipping gives."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt[cpu]"):
    from rich.console import Console

    from calib.data import examples_digest
    from engines.artifact import Artifact
    from engines.errors import InputError
    from engines.tokenization import Tokens
    from engines.writing import write_whole
    from pipeline.builder.config import DEMO, BuildConfig, require_demo
    from pipeline.builder.dense import DenseModel
    from pipeline.builder.measure import as_record, measure, speedups
    from pipeline.builder.progress import progress_bars
    from pipeline.builder.steps import build
    from pipeline.builder.stock import NAME as STOCK
    from pipeline.builder.stock import StockModel
    from pipeline.builder.subject import Inputs, Subject
    from pipeline.cli import figures_table, main_of
    from pipeline.model import PrunedTransformer
    from pipeline.model.flops import flops_ratio
    from pipeline.model.retention import carried_rows
    from pipeline.report.demo import write_demo_report
    from pipeline.report.markdown import table

METHODS = ("dense", "ltp", "transkimmer")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog=program("demo"), description=__doc__.split(": ", 1)[1].capitalize())
    p.add_argument("--out", type=Path, default=Path("demo/output"), help="directory of artifacts and results")
    p.add_argument("--reviews", type=int, default=1000, help="held-out reviews for accuracy (default 1000)")
    p.add_argument("--timed", type=int, default=512, help="of these, reviews that are timed (default 512)")
    p.add_argument("--rounds", type=int, default=1, help="times that every chunk is timed (default 1)")
    p.add_argument("--max-drop", type=float, default=1.0, help="points that a model may lose (default 1.0)")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument("--table", type=Path, metavar="RESULTS.json", help="only print the README's table of a results file")
    return p


def run(args: argparse.Namespace) -> int:
    """Builds, measures, prints the table, and writes results.json and report.html."""
    console = Console()
    if args.table is not None:
        print(_table_of(args.table))
        return 0
    _refuse(args)
    args.out.mkdir(parents=True, exist_ok=True)
    artifacts, inputs = {}, Inputs()
    dense = DenseModel(DEMO / "dense", inputs)
    for method in METHODS:
        console.rule(f"building {method}")
        config = BuildConfig(
            checkpoint=DEMO / method,
            dense=None if method == "dense" else DEMO / "dense",
            out=args.out / method,
            samples=64,
            metric_samples=args.reviews,
            max_drop=args.max_drop,
            force=True,
            threads=args.threads,
        )
        build(config, console, dense=None if method == "dense" else dense, inputs=inputs)
        artifacts[method] = config.out
    console.rule("measuring")
    record = _measure(artifacts, args, console, inputs)
    write_whole(args.out / "results.json", (json.dumps(record, indent=1) + "\n").encode())
    console.print(figures_table("What skipping tokens gives", COLUMNS, table_rows(record)))
    console.print(setting(record), highlight=False)
    console.print(f"report: {write_demo_report(record, args.out)}", highlight=False)
    return 0


def _table_of(path: Path) -> str:
    """The README's table of a results file. Raises InputError."""
    try:
        return markdown_table(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise InputError(f"--table {path}: cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"--table {path}: expected a results.json of pipeline.demo, found {error!r}") from None


def _refuse(args: argparse.Namespace) -> None:
    """Raises InputError for what cannot be used, before anything is built."""
    counts = {name: getattr(args, name) for name in ("reviews", "timed", "rounds", "threads")}
    problems = [f"--{n}: expected at least 1, found {v}" for n, v in counts.items() if v is not None and v < 1]
    if not math.isfinite(args.max_drop):
        problems.append(f"--max-drop: expected a finite number, found {args.max_drop}")
    if problems:
        raise InputError("; ".join(problems))
    require_demo()


def _measure(artifacts: dict[str, Path], args: argparse.Namespace, console: Console, inputs: Inputs) -> dict:
    examples = inputs.examples("movie-reviews", "test")[: args.reviews]
    subject = Subject.of(DEMO / "dense", inputs.model(DEMO / "dense"), "movie-reviews", examples)
    texts = [example.text for example in subject.examples[: args.timed]]
    stock = {STOCK: artifacts["dense"]} if StockModel.missing() is None else {}
    with progress_bars(console) as progress:
        timings = measure({**artifacts, **stock}, texts, (1, 8), args.rounds, progress, args.threads)
    lengths = [len(tokens) for tokens in subject.samples]
    rows = {}
    for method, path in artifacts.items():
        manifest = Artifact.open(path, verify=False).manifest
        metric = next(gate for gate in manifest.gates if gate.name == "task metric")
        row = {
            "accuracy": metric.figures["metric"],  # of the engines, on these very reviews
            "stages": [stage.steps for stage in manifest.plan.stages],
            "engines": len(manifest.engines),
            "precision": "+".join(sorted({engine.precision for engine in manifest.engines})),
            "speedup": {str(batch): ratio for batch, ratio in speedups(timings, method, "dense").items()},
        }
        rows[method] = {**row, **_retention(inputs.model(DEMO / method), subject.samples, args.timed)}
    return {
        "reviews": len(lengths),
        "timed": min(args.timed, len(lengths)),
        "tokens": sum(lengths),
        "data": examples_digest(subject.examples),
        "methods": rows,
        "stock": {str(batch): ratio for batch, ratio in speedups(timings, STOCK, "dense").items()},
        **as_record(timings),
    }


def _retention(model: PrunedTransformer, samples: Sequence[Tokens], timed: int) -> dict:
    """Kept tokens per layer and FLOPs ratios, of all samples and of the timed ones; padding is not counted."""
    rows = carried_rows(model, samples)
    length, *carried = rows.sum(0).tolist()
    keep = [count / length for count in carried]
    return {
        "keep_ratio_per_layer": [round(ratio, 4) for ratio in keep],
        "retention": sum(keep) / len(keep),
        "flops_ratio": flops_ratio(model.config, rows),
        "flops_ratio_timed": flops_ratio(model.config, rows[:timed]),
    }


COLUMNS = ("model", "accuracy", "drop, points", "tokens kept", "FLOPs", "speedup, batch 1", "speedup, batch 8")


def table_rows(record: dict) -> list[tuple[str, ...]]:
    """Returns the table's cells in the order of COLUMNS, one row per model."""
    dense = record["methods"]["dense"]["accuracy"]
    stock = record.get("stock") or {}
    rows = [
        (
            method,
            f"{row['accuracy']:.4f}",
            f"{100 * (dense - row['accuracy']):.2f}",
            f"{100 * row['retention']:.0f} %",
            f"{row['flops_ratio']:.2f}x fewer" if method != "dense" else "1.00x",
            *(f"{row['speedup'][batch]:.2f}x" for batch in ("1", "8")),
        )
        for method, row in record["methods"].items()
    ]
    if stock:
        rows.insert(
            1, (f"dense in {STOCK}", "", "", "100 %", "1.00x", *(f"{stock[batch]:.2f}x" for batch in ("1", "8")))
        )
    return rows


def markdown_table(record: dict) -> str:
    """Returns the README's table and the sentences below it, in Markdown."""
    return table(COLUMNS, table_rows(record), setting(record))


def setting(record: dict) -> str:
    """Says how a record's figures were measured."""
    used = {row.get("precision", "fp32") for row in record["methods"].values()}
    precisions = " and ".join(sorted(used))
    stock = (
        f" {STOCK}: that model in one dynamic graph, everything by the library's defaults."
        if record.get("stock")
        else ""
    )
    return (
        f"{record['reviews']} held-out movie reviews of at most 256 tokens, {record['timed']} of them timed from text "
        f"to label, on {record['machine']['cpus']} cores of {record['machine']['processor']}, in {precisions} with "
        f"OpenVINO {record['versions']['openvino']}. The baseline is the dense model, built by the same pipeline with "
        f"its own planned buckets and the same regrouping.{stock}"
    )


if __name__ == "__main__":
    main_of(parser, run)
