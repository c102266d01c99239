"""Fused against staged, in one artifact: equal answers, texts that overflow, and time, on the CPU.

python -m benchmarks.fused --json fused-cpu.json

Builds an artifact with fused engines at every batch size, and a copy of it whose capacities are the median, so that
most texts overflow somewhere and run again through the stages.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from calib.data import examples_digest, read_examples
from engines.artifact import Artifact, digest_files, write_manifest
from engines.backends import choose_backend
from engines.backends.base import EngineOptions
from engines.machine import machine_record
from engines.plan import FusedBucket, FusedPlan
from engines.prediction import SampleResult
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.builder.config import DEMO, BuildConfig
from pipeline.builder.measure import alternate
from pipeline.builder.steps import build
from pipeline.builder.subject import Subject, tokens_of
from pipeline.builder.typical import TypicalTexts
from pipeline.cli import fused_table, main_of
from pipeline.model import load_checkpoint
from pipeline.planning.fused import room_for

BATCHES = (1, 8)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.fused", description=(__doc__ or "").splitlines()[0])
    p.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=[DEMO / "ltp", DEMO / "transkimmer"],
        help="the models (default: the demo's)",
    )
    p.add_argument(
        "--reviews", type=int, default=2000, help="reviews that are compared, held-out ones first (default 2000)"
    )
    p.add_argument("--timed", type=int, default=256, help="of these, reviews that are timed (default 256)")
    p.add_argument("--rounds", type=int, default=5, help="times that every chunk is timed (default 5)")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument("--out", type=Path, default=Path("demo/output/fused"), help="directory of the artifacts")
    p.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the record is written")
    return p


def run(args: argparse.Namespace) -> int:
    """Measures every model, prints and writes the figures; 1 where an answer differs."""
    console = Console()
    models = {checkpoint.name: _of_model(checkpoint, args, console) for checkpoint in args.checkpoint}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"models": models, **machine_record()}, indent=1) + "\n", "utf-8")
    return int(any(row["other_labels"] for record in models.values() for row in record["answers"]))


def _of_model(checkpoint: Path, args: argparse.Namespace, console: Console) -> dict:
    """Builds, compares the answers and times."""
    folder = args.out / checkpoint.name
    config = BuildConfig(
        checkpoint=checkpoint,
        plan="fused",
        samples=32,
        metric_samples=32,
        max_drop=100,
        threads=args.threads,
        out=folder / "planned",
        explain=True,
        force=True,
    )
    planned = build(config, console)
    model = load_checkpoint(checkpoint)
    # The held-out reviews, and as many of the dev set as are wanted beyond them.
    examples = [example for split in ("test", "dev") for example in read_examples(config.data, split)][: args.reviews]
    samples = tokens_of(checkpoint, model, examples)
    subject = Subject(checkpoint, model, examples, samples, config.data)
    retained = TypicalTexts.of(config, subject).rows
    artifacts = {"planned": planned, "median": at_the_median(planned, retained, folder / "median")}
    staged = Runner(planned.path, threads=args.threads, verify=False, fused=False).run_tokens(samples)
    rows = []
    for name, artifact in artifacts.items():
        for batch in BATCHES:
            runner = Runner(artifact.path, threads=args.threads, max_batch=batch, verify=False)
            found = compared(staged, runner.run_tokens(samples))
            plan = artifact.manifest.plan.fused
            assert runner.fused is not None and plan is not None
            measured = runner.fused.overflowed / runner.fused.samples
            rows.append({"capacities": name, "batch": batch, "overflow_expected": plan.overflow[batch], **found})
            rows[-1] |= {"overflow_measured": measured, "fused": runner.fused.samples}
            console.print(
                f"{name}, batch {batch}: of {len(staged)} reviews {found['other_labels']} get another label and "
                f"{found['other_tokens']} keep other tokens than through the stages, logits differ by at most "
                f"{found['largest_difference']:.2g}; {100 * measured:.1f} % overflowed, "
                f"{100 * plan.overflow[batch]:.1f} % were expected to",
                highlight=False,
            )
    texts = [example.content for example in examples[: args.timed]]
    times = [timed(planned, texts, batch, args.rounds, args.threads, console) for batch in BATCHES]
    manifest = planned.manifest
    assert manifest.plan.fused is not None
    console.print(fused_table(manifest.plan.fused))
    staged_engines = sum(record.stage != "fused" for record in manifest.engines)
    return {
        "reviews": len(staged),
        "timed": len(texts),
        "data": examples_digest(examples),
        "cuts": [stage.steps[-1] for stage in manifest.plan.stages[:-1]],
        "engines": {"staged": staged_engines, "fused": len(manifest.plan.fused.buckets)},
        "capacities": {str(b.bucket): b.capacities for b in manifest.plan.fused.buckets},
        "answers": rows,
        "times": times,
    }


def at_the_median(planned: Artifact, rows: np.ndarray, out: Path) -> Artifact:
    """A copy of an artifact with its fused engines compiled again, their capacities the median of their texts."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(planned.path, out)
    plan, backend = planned.manifest.plan, choose_backend("cpu")
    assert plan.fused is not None
    layers = [int(stage.steps[-1].split()[1]) for stage in plan.stages[:-1]]
    files = {record.bucket: record.file for record in planned.manifest.engines if record.stage == "fused"}
    buckets, again, shortest = (
        [],
        {batch: 0 for batch in plan.fused.batches},
        {batch: 0 for batch in plan.fused.batches},
    )
    for bucket in sorted(files):
        chosen = (rows[:, 0] > shortest[bucket.batch]) & (rows[:, 0] <= bucket.length)
        room = room_for(rows[chosen][:, [layer + 1 for layer in layers]], bucket.length, 0.5)
        shortest[bucket.batch], again[bucket.batch] = bucket.length, again[bucket.batch] + int(room.overflows.sum())
        backend.build(out / plan.fused.graph, bucket, out / files[bucket], EngineOptions(capacities=room.capacities))
        buckets.append(FusedBucket(bucket=bucket, capacities=list(room.capacities)))
    overflow = {batch: count / len(rows) for batch, count in again.items()}
    fused = FusedPlan(graph=plan.fused.graph, buckets=buckets, overflow=overflow)
    changes = {"plan": plan.model_copy(update={"fused": fused}), "files": digest_files(out)}
    write_manifest(out, planned.manifest.model_copy(update=changes))
    return Artifact.open(out)


def compared(expected: Sequence[SampleResult], found: Sequence[SampleResult]) -> dict:
    """In how many samples the label, or any token that is kept, differs, and by how much a logit does at most."""
    pairs = list(zip(expected, found, strict=True))
    return {
        "other_labels": sum(int(a.logits.argmax()) != int(b.logits.argmax()) for a, b in pairs),
        "other_tokens": sum(not all(map(np.array_equal, a.survivors, b.survivors)) for a, b in pairs),
        "largest_difference": max(float(np.abs(a.logits - b.logits).max()) for a, b in pairs),
    }


def timed(
    artifact: Artifact, texts: Sequence[Text], batch: int, rounds: int, threads: int | None, console: Console
) -> dict:
    """Seconds of the same texts through the stages and through the fused engines, in turns."""
    ways: dict[str, Callable[[Sequence[Text]], object]] = {}
    for name, fused in (("staged", False), ("fused", True)):
        runner = Runner(artifact.path, threads=threads, max_batch=batch, truncate=True, verify=False, fused=fused)
        runner.warm_up()
        runner(list(texts[:128]))
        ways[name] = runner
    plan = artifact.manifest.plan
    assert plan.fused is not None
    seconds = {name: sum(chunks) for name, chunks in alternate(ways, texts, rounds).items()}
    milliseconds = {name: 1e3 * total / len(texts) for name, total in seconds.items()}
    expected = {"staged": plan.expected[batch], "fused": plan.fused.expected[batch]}
    ratio = seconds["staged"] / seconds["fused"]
    console.print(
        f"batch {batch}: fused is {ratio:.3f} times as fast as staged; milliseconds per text: staged "
        f"{milliseconds['staged']:.2f} (expected {expected['staged']:.2f}), fused {milliseconds['fused']:.2f} "
        f"(expected {expected['fused']:.2f})",
        highlight=False,
    )
    return {"batch": batch, "ratio": ratio, "milliseconds": milliseconds, "expected_milliseconds": expected}


if __name__ == "__main__":
    main_of(parser, run)
