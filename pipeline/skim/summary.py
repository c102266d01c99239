"""What a run came to: where the artifact is, what it costs and gains, and what to do next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from calib.data import Data, has_labels
from calib.metric import METRICS
from engines.artifact import Artifact
from engines.manifest import BENCH_NAME
from engines.runner import Runner
from pipeline.builder.dense import DenseModel
from pipeline.builder.measure import Timing, speedups
from pipeline.builder.next_step import run_command
from pipeline.skim.work import Skim


def conclude(skim: Skim, test: Data, report: Path) -> None:
    """Prints where the artifact is, what it costs and gains, and what to do next."""
    args, manifest = skim.args, Artifact.open(skim.args.out, verify=False).manifest
    bench = json.loads((args.out / BENCH_NAME).read_text("utf-8"))
    figures = next(gate.figures for gate in manifest.gates if gate.name == "task metric")
    found = {"artifact": str(args.out), "report": str(report), "flops_ratio": bench["flops_ratio"]}
    found["speedup"] = speedups([Timing(**timing) for timing in bench["timings"]], "pruned", "dense")
    found |= {name: figures[name] for name in ("metric", "dense_metric", "drop_points") if name in figures}
    head = manifest.head
    found |= {"metric_name": METRICS[head.kind], "seconds": skim.seconds}
    if not has_labels(test.examples) and (head.kind == "classification" or head.one_value):
        found["agreement"] = _agreement(skim, test)
    if args.json:
        print(json.dumps(found))
        return
    skim.say(f"\nartifact   {args.out}\nreport     {report}")
    if "drop_points" in found:
        lost = f"the model itself {figures['dense_metric']:.4f}: {figures['drop_points']:.2f} points less"
        skim.say(f"{METRICS[head.kind]:<10} {found['metric']:.4f} on {len(test.examples)} held-out texts, {lost}")
    if "agreement" in found:
        skim.say(f"agreement  {found['agreement']:.4f} of {len(test.examples)} held-out texts get the model's answer")
    for batch, ratio in found["speedup"].items():
        skim.say(
            f"speed      batch {batch}: {ratio:.2f} times the model's; {found['flops_ratio']:.2f} times fewer FLOPs"
        )
    if skim.seconds:
        took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in skim.seconds.items())
        skim.say(f"took       {took}")
    skim.say(f"next       {run_command(args.out, head.kind)}")


def _agreement(skim: Skim, test: Data) -> float:
    """The model's metric where the artifact's answers are the labels: the share of texts on which both agree."""
    answers = Runner(skim.args.out, truncate=True, threads=skim.args.threads)(e.content for e in test.examples)
    labels = [answer.label if answer.label is not None else str(answer.logits[0]) for answer in answers]
    examples = [replace(e, label=str(label)) for e, label in zip(test.examples, labels, strict=True)]
    return DenseModel(skim.args.model, flag="MODEL").metric(examples)
