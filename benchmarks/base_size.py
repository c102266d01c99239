"""A random LTP model of base size: what building it takes, and its artifact, for the CPU and for TensorRT-RTX.

python -m benchmarks.base_size --json benchmarks/results/base-size.json
python -m benchmarks.base_size --table benchmarks/results/base-size.json
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import add_record_flags, portable, printed, write_record
from benchmarks.verbs import run_verb
from calib.data import Example, read_examples
from engines.artifact import Artifact
from engines.machine import machine_record
from pipeline.builder.config import DEMO
from pipeline.builder.subject import tokens_of
from pipeline.cli import main_of
from pipeline.model import CheckpointConfig, PrunedTransformer, save_checkpoint
from pipeline.model.checkpoint import read_config, tokenizer_path
from pipeline.model.config import EncoderConfig, PrunerConfig
from pipeline.model.reference import Reference
from pipeline.report.markdown import table

WIDTH, LAYERS, HEADS, LONGEST, DECIDES = 768, 12, 12, 512, (3, 7)
BUCKETS = "1x64,1x128,1x256,1x512,8x64,8x128,8x256,8x512"
_FITTED = 8
"""Texts whose median score is a layer's threshold, so that half of what is alive there dies."""
_RUNNING = """
import json, sys, time
from pathlib import Path
from engines.runner import Runner

def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

texts, empty, started = json.loads(sys.stdin.read()), anonymous(), time.perf_counter()
runner = Runner(sys.argv[1], threads=json.loads(sys.argv[2]), truncate=True)
runner(texts[:1])
first = time.perf_counter() - started
runner.warm_up()
loaded, wall, processor = time.perf_counter() - started, time.perf_counter(), time.process_time()
held = anonymous() - empty
kept = [prediction.retention[-1] / prediction.tokens for prediction in runner(texts)]
print(json.dumps({
    "first_answer_seconds": round(first, 2),
    "load_seconds": round(loaded, 2),
    "anonymous_megabytes": round(held / 1e6),
    "anonymous_megabytes_behind_the_texts": round((anonymous() - empty) / 1e6),
    "texts": len(kept),
    "kept": round(sum(kept) / len(kept), 3),
    "processor_seconds": round(time.process_time() - processor, 1),
    "wall_seconds": round(time.perf_counter() - wall, 1),
}))
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.base_size", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--targets", default="cpu,tensorrt-rtx", help="what to build for (default cpu,tensorrt-rtx)")
    p.add_argument("--texts", type=int, default=1000, help="texts that are run on the CPU (default 1000)")
    p.add_argument("--words", type=int, default=LONGEST, help="words of a text at most (default 512)")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument("--work", type=Path, default=Path("demo/output/base-size"), help="directory of model and artifacts")
    add_record_flags(p, "; that of another target in it stays")
    return p


def run(args: argparse.Namespace) -> int:
    """Makes the model unless it is there, builds it for every target, runs the texts, and prints what that took."""
    if printed(args, table_of):
        return 0
    reviews = read_examples("movie-reviews", "test")[: args.texts]
    checkpoint = args.work / "checkpoint"
    if not (checkpoint / "checkpoint.json").is_file():
        make_checkpoint(checkpoint, reviews)
    weights = (checkpoint / "model.safetensors").stat().st_size
    known = json.loads(args.json.read_text("utf-8")) if args.json is not None and args.json.is_file() else {}
    record: dict[str, Any] = {**known, **machine_record(), "weights_megabytes": round(weights / 1e6)}
    for target in args.targets.split(","):
        record[target] = built(args, target, checkpoint)
        if target == "cpu":
            texts = [" ".join(str(review.text).split()[: args.words]) for review in reviews]
            command = [sys.executable, "-c", _RUNNING, str(args.work / target), json.dumps(args.threads)]
            found = json.loads(subprocess.run(command, input=json.dumps(texts), check=True, **_PIPED).stdout)
            found["anonymous_over_weights"] = round(1e6 * found["anonymous_megabytes"] / weights, 2)
            record[target] |= {"words": args.words, "threads": args.threads, **found}
        if args.json is not None:
            write_record(args.json, record)
    print(table_of(record))
    return 0


_PIPED: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}


def make_checkpoint(folder: Path, reviews: list[Example]) -> None:
    """Writes a random model with the demo's tokenizer that drops half of its tokens at each of two layers."""
    demo = read_config(DEMO / "ltp")
    encoder = EncoderConfig(
        family="bert",
        vocab_size=demo.encoder.vocab_size,
        hidden_size=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_positions=LONGEST,
        pad_token_id=demo.encoder.pad_token_id,
    )
    # A threshold of exactly 0 decides nothing; the others are found below, layer by layer.
    thresholds = [0.0] * LAYERS
    for layer in DECIDES:
        thresholds[layer] = 1e-9
        model = _model(demo, encoder, thresholds)
        samples = tokens_of(DEMO / "ltp", model, reviews[:_FITTED])
        reference = Reference.of(model, samples)
        scores = torch.cat([score[layer] for score in reference.score])
        thresholds[layer] = float(scores[scores.isfinite()].median())  # those of the dead are NaN
    model = _model(demo, encoder, thresholds)
    save_checkpoint(model.config, dict(model.state_dict()), folder, tokenizer_path(DEMO / "ltp"))


def _model(demo: CheckpointConfig, encoder: EncoderConfig, thresholds: list[float]) -> PrunedTransformer:
    """The same random model with other thresholds."""
    pruner = PrunerConfig(method="ltp", thresholds=thresholds, reference_length=LONGEST)
    torch.manual_seed(0)
    config = CheckpointConfig(encoder=encoder, head=demo.head, pruner=pruner, max_length=LONGEST)
    return PrunedTransformer(config).eval()


def built(args: argparse.Namespace, target: str, checkpoint: Path) -> dict[str, Any]:
    """Builds in a process of its own; its seconds, its peak memory and the sizes of what it wrote."""
    out, precision = args.work / target, "fp32" if target == "cpu" else "fp16"
    given = {"target": target, "precision": precision, "checkpoint": checkpoint, "buckets": BUCKETS, "out": out}
    given |= {"stages": ",".join(map(str, DECIDES)), "samples": 4, "metric-samples": 8}
    words = ["pipeline.build", "--force", "--no-resume"]
    words += [part for name, value in given.items() for part in (f"--{name}", str(value))]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run_verb(*words)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    manifest = Artifact.open(out).manifest
    sizes = {name: round((out / name).stat().st_size / 1e6, 1) for name in manifest.files}
    return {
        "command": portable(shlex.join(["python", "-m", *words])),
        "build_wall_seconds": round(seconds, 1),
        "build_processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "build_peak_megabytes": round(after.ru_maxrss * 1024 / 1e6),
        "engines": len(manifest.engines),
        "profiles": sum(len(record.profiles) for record in manifest.engines),
        "megabytes": round(sum(sizes.values()), 1),
        "megabytes_of_engines": {name: size for name, size in sizes.items() if name.startswith("engines/") and size},
        "gates": {gate.name: gate.status for gate in manifest.gates},
    }


def table_of(record: dict[str, Any]) -> str:
    """What the artifacts of a record take, as Markdown."""
    rows = [
        [
            target,
            ", ".join(f"{count} {status}" for status, count in sorted(Counter(found["gates"].values()).items())),
            str(found["engines"]),
            str(found["profiles"]),
            f"{found['megabytes']:.0f}",
            f"{found['build_wall_seconds']:.0f}",
            f"{found['build_peak_megabytes'] / 1e3:.1f}",
            f"{found['anonymous_megabytes']}" if "texts" in found else "–",
            f"{found['load_seconds']:.1f}" if "texts" in found else "–",
        ]
        for target, found in record.items()
        if target in ("cpu", "tensorrt-rtx")
    ]
    names = [
        "target",
        "gates",
        "engines",
        "profiles",
        "artifact, MB",
        "build, s",
        "its peak, GB",
        "loaded, MB",
        "load, s",
    ]
    note = (
        f"A random LTP model with {LAYERS} layers of {WIDTH} that decides at layers {' and '.join(map(str, DECIDES))}: "
        f"{record['weights_megabytes']} MB of weights in fp32, buckets {BUCKETS}."
    )
    if found := record.get("cpu"):
        note += (
            f" On the CPU, everything loaded and run is {found['anonymous_over_weights']} times the weights; "
            f"{found['texts']} texts of at most {found['words']} words took {found['wall_seconds']:.0f} s."
        )
    machine = record["machine"]
    return table(names, rows, f"{note} {machine['cpus']} cores of {machine['processor']}.", names=2)


if __name__ == "__main__":
    main_of(parser, run)
