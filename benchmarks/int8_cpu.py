"""INT8 on the CPU: dense and pruned, fp32 and INT8, all built in the same way: time, accuracy, decisions.

python -m benchmarks.int8_cpu --checkpoint demo/checkpoints/ltp --dense demo/checkpoints/dense --json int8-ltp.json
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.records import require_json
from calib.data import examples_digest
from calib.int8.calibrate import read_calibration
from calib.metric import accuracy
from engines.artifact import Artifact
from engines.manifest import Manifest
from engines.prediction import SampleResult
from engines.runner import Runner
from pipeline.builder.baseline import ANY_DROP
from pipeline.builder.config import DEMO, BuildConfig
from pipeline.builder.measure import as_record, measure, speedups
from pipeline.builder.progress import progress_bars
from pipeline.builder.steps import build
from pipeline.builder.subject import Subject
from pipeline.cli import main_of
from pipeline.gates import Reference
from pipeline.report.markdown import table

BASELINE, PRUNED = "dense fp32", "pruned int8"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.int8_cpu", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--checkpoint", type=Path, default=DEMO / "ltp", help="the pruned model (default: the LTP demo)")
    p.add_argument("--dense", type=Path, default=DEMO / "dense", help="the dense model (default: the demo's)")
    p.add_argument("--max-length", type=int, help="longest input, in tokens (default: what the checkpoints say)")
    p.add_argument("--buckets", help="shapes to compile (default: those of a build)")
    p.add_argument(
        "--reviews", type=int, default=1000, help="held-out reviews for accuracy, also of the gates (default 1000)"
    )
    p.add_argument("--timed", type=int, default=256, help="of these, reviews that are timed (default 256)")
    p.add_argument("--rounds", type=int, default=3, help="times that every chunk is timed (default 3)")
    p.add_argument("--max-drop", type=float, default=1.0, help="points that the pruned model may lose (default 1.0)")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument("--out", type=Path, default=Path("demo/output/int8"), help="directory of the artifacts")
    p.add_argument("--reuse", action="store_true", help="measure the artifacts that are already in --out as they are")
    p.add_argument("--json", type=Path, metavar="FILE", help="where the record is written")
    p.add_argument(
        "--table", type=Path, nargs="+", metavar="FILE", help="only print the table of docs/results.md from records"
    )
    return p


def run(args: argparse.Namespace) -> int:
    """Builds the four artifacts, measures them in one process, and writes the record."""
    if args.table is not None:
        print(markdown_table([json.loads(path.read_text("utf-8")) for path in args.table]))
        return 0
    require_json(args)
    console = Console()
    artifacts: dict[str, Path] = {}
    named = str(args.checkpoint)
    if args.max_length is not None:
        args.dense, args.checkpoint = (_lengthened(path, args) for path in (args.dense, args.checkpoint))
    for model, checkpoint in (("dense", args.dense), ("pruned", args.checkpoint)):
        for precision in ("fp32", "int8"):
            artifacts[f"{model} {precision}"] = out = args.out / checkpoint.name / precision
            if args.reuse and out.is_dir():
                continue
            console.rule(f"{model} {precision}")
            dense, points = (None, ANY_DROP) if model == "dense" else (args.dense, args.max_drop)
            config = BuildConfig(
                checkpoint=checkpoint,
                dense=dense,
                precision=precision,
                buckets=args.buckets,
                samples=64,
                metric_samples=args.reviews,
                max_drop=points,
                threads=args.threads,
                out=out,
                force=True,
            )
            build(config, console)
    subject = Subject.load(args.checkpoint, "movie-reviews", args.reviews)
    texts = [example.content for example in subject.examples[: args.timed]]
    with progress_bars(console) as progress:
        timings = measure(artifacts, texts, (1, 8), args.rounds, progress, args.threads)
    reference = Reference.of(subject.model, subject.samples)
    record = {
        "checkpoint": named,
        "max_length": subject.model.config.max_length,
        "reviews": len(subject.samples),
        "timed": len(texts),
        "data": examples_digest(subject.examples),
        "flops_ratio_timed": reference.first(args.timed).flops_ratio(subject.model),
        "artifacts": {name: _of_artifact(path, subject, args.threads) for name, path in artifacts.items()},
        "speedup_over_dense_fp32": {name: speedups(timings, name, BASELINE) for name in artifacts},
        "pruned_int8_over_dense_int8": speedups(timings, PRUNED, "dense int8"),
        **as_record(timings),
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    for name, values in record["artifacts"].items():
        ratios = ", ".join(f"batch {b}: {r:.2f}" for b, r in record["speedup_over_dense_fp32"][name].items())
        console.print(f"{name:<12} accuracy {values['accuracy']:.4f}; times as fast as {BASELINE}: {ratios}")
    return 0


def _lengthened(checkpoint: Path, args: argparse.Namespace) -> Path:
    """A copy of a checkpoint that takes longer inputs; its thresholds stay as they were trained."""
    copy = args.out / "checkpoints" / checkpoint.name
    shutil.copytree(checkpoint, copy, dirs_exist_ok=True)
    file = copy / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"max_length": args.max_length}), "utf-8")
    return copy


COLUMNS = ("model", "accuracy", "drop, points", "batch 1", "batch 8", "over dense INT8, batch 1", "batch 8", "FLOPs")


def markdown_table(records: Sequence[dict]) -> str:
    """Returns a table of docs/results.md: three rows per record, which holds the figures of one pruned model."""
    rows: list[tuple[str, ...]] = []
    for record in records:
        dense = record["artifacts"][BASELINE]["accuracy"]
        method = Path(record["checkpoint"]).name
        shown = {
            "dense int8": f"dense INT8, beside {method}",
            "pruned fp32": f"{method} fp32",
            PRUNED: f"{method} INT8",
        }
        for name, label in shown.items():
            accuracy_, ratio = record["artifacts"][name]["accuracy"], record["speedup_over_dense_fp32"][name]
            over = record["pruned_int8_over_dense_int8"] if name == PRUNED else {}
            rows.append(
                (
                    label,
                    f"{accuracy_:.4f}",
                    f"{100 * (dense - accuracy_):.2f}",
                    *(f"{ratio[batch]:.2f}x" for batch in ("1", "8")),
                    *(f"{over[batch]:.2f}x" if over else "" for batch in ("1", "8")),
                    f"{record['flops_ratio_timed']:.2f}x" if over else "",
                )
            )
    first = records[0]
    setting = (
        f"Speedup over dense fp32, whose accuracy is {first['artifacts'][BASELINE]['accuracy']:.4f}, from text to "
        f"label. {first['reviews']} held-out reviews of at most {first['max_length']} tokens, {first['timed']} of them "
        f"timed, on {first['machine']['cpus']} cores of {first['machine']['processor']}, OpenVINO "
        f"{first['versions']['openvino']}. FLOPs: dense over pruned, padding not counted."
    )
    return table(COLUMNS, rows, setting)


def _of_artifact(path: Path, subject: Subject, threads: int | None) -> dict:
    """Returns the accuracy on all reviews, the results of the gates and, in INT8, the gain of every engine."""
    manifest = Artifact.open(path, verify=False).manifest
    results = Runner(path, threads=threads, verify=False).run_tokens(subject.samples)
    row = {
        "accuracy": accuracy(manifest.head, [r.logits for r in results], subject.examples),
        "mean_rows_after_each_stage": _mean_rows(results),
        "engines": len(manifest.engines),
        "gates": {gate.name: {"status": gate.status, **gate.figures} for gate in manifest.gates},
    }
    if _in_int8(manifest):
        calibration = read_calibration(path)
        row["method"] = calibration.chosen
        row["left_wide"] = calibration.kept.left_wide
        row["speedup_of_engines"] = {f"stage_{c.stage} {c.bucket}": round(c.speedup, 3) for c in calibration.engines}
    return row


def _in_int8(manifest: Manifest) -> bool:
    return any(record.precision == "int8" for record in manifest.engines)


def _mean_rows(results: list[SampleResult]) -> list[float]:
    stages = zip(*(result.carried for result in results), strict=True)
    return [round(sum(rows) / len(results), 2) for rows in stages]


if __name__ == "__main__":
    main_of(parser, run)
