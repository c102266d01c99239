"""python -m pipeline.parity: checks an artifact against the PyTorch model that it was built from."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt[cpu]"):
    from rich.console import Console

    from engines.artifact import Artifact, Gate, Manifest
    from engines.backends import choose_backend
    from engines.errors import InputError
    from pipeline import gates
    from pipeline.builder.checks import engine_gates, metric_gate
    from pipeline.builder.config import BuildConfig, read_build_config
    from pipeline.builder.dense import DenseModel
    from pipeline.builder.graphs import specs_of
    from pipeline.builder.subject import Subject
    from pipeline.cli import main_of, print_gates
    from pipeline.gates.expected import Expected
    from pipeline.gates.under_test import EnginesUnderTest
    from pipeline.model.checkpoint import checkpoint_digest
    from pipeline.model.reference import Reference


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=program("parity"),
        description="Checks that an artifact computes what its PyTorch model computes: its files are those that were "
        "built, every stage gives the reference's numbers on the reference's own state, and the engines running free "
        "keep the same tokens and give the same labels. Exit code 0: parity holds; 3: it does not.",
    )
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote")
    p.add_argument("--data", help="texts to check on: a named set or a file (default: the set of the build)")
    p.add_argument("--samples", type=int, default=256, help="how many texts (default 256)")
    p.add_argument("--checkpoint", type=Path, help="the model, if it is no longer where the artifact was built from")
    p.add_argument("--dense", type=Path, help="dense checkpoint of the same task and tokenizer, for the task metric")
    p.add_argument("--max-drop", type=float, help="points that the metric may lose (default: the build's budget)")
    p.add_argument("--target", default="auto", help="target whose engines are checked (default: the best one here)")
    p.add_argument("--provider", help="library that runs the target, such as openvino or onnxruntime")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument("--json", action="store_true", help="print the gates as JSON")
    return p


def run(args: argparse.Namespace) -> int:
    """Checks and prints every gate; 3 if one failed."""
    found = check(args)
    if args.json:
        print(json.dumps([gate.model_dump() for gate in found], indent=1))
    else:
        print_gates(found, Console())
    return 3 if any(gate.status == "FAILED" for gate in found) else 0


def check(args: argparse.Namespace) -> list[Gate]:
    """All gates of an artifact. A changed file fails the first one, and then nothing of the artifact is loaded."""
    asked = {"dense": args.dense, "max_drop": args.max_drop, "samples": args.samples, "threads": args.threads}
    config = read_build_config(None, asked)
    try:
        artifact = Artifact.open(args.artifact)
    except InputError as error:
        # An artifact that cannot even be described is bad input; one whose files changed has lost parity.
        Artifact.open(args.artifact, verify=False)
        names = ("reference", "numeric: graphs", "numeric: engines", "decisions", "task metric")
        reason = "the artifact's files are not those that were built, so they are not loaded"
        return [
            Gate(name="integrity", status="FAILED", reason=str(error)),
            *(Gate(name=name, status="SKIPPED", reason=reason) for name in names),
        ]
    manifest = artifact.manifest
    checkpoint = _checkpoint(args.checkpoint, manifest)
    config = config.model_copy(update={"checkpoint": checkpoint})
    dense = None if config.dense_checkpoint is None else DenseModel(config.dense_checkpoint)
    if dense is not None:
        dense.refuse_for(checkpoint)
    subject = Subject.load(
        checkpoint, args.data or (manifest.data.name if manifest.data else config.data), args.samples
    )
    specs = specs_of(subject.model, manifest)
    backend = choose_backend(args.target, args.provider, manifest.built)
    reference = Reference.of(subject.model, subject.samples)
    found = [Gate(name="integrity", status="PASSED", figures={"files": len(manifest.files)})]
    found.append(gates.reference_parity(subject.model, reference))
    expected = Expected(subject.model, specs, reference, manifest.plan.precision)
    engines = EnginesUnderTest(artifact.path, manifest, backend, args.threads)
    budget = _budget(args.max_drop, manifest, config)
    metric = partial(metric_gate, subject, dense=dense, count=args.samples, max_drop=budget)
    return found + engine_gates(expected, engines, metric)


def _budget(asked: float | None, manifest: Manifest, config: BuildConfig) -> float:
    """Points that the metric may lose: as asked, else the budget within which the artifact was published."""
    if asked is not None:
        return asked
    published = [gate.figures["budget_points"] for gate in manifest.gates if "budget_points" in gate.figures]
    return float(published[0]) if published else config.max_drop


def _checkpoint(given: Path | None, manifest: Manifest) -> Path:
    """The model that the artifact was built from: the one that is given, or where it was. Raises InputError."""
    path, digest = given or Path(manifest.checkpoint.path), manifest.checkpoint.sha256
    name, remedy = ("checkpoint", "pass --checkpoint") if given is None else ("--checkpoint", "name another one")
    if not path.is_dir():
        if given is not None:
            raise InputError(f"--checkpoint {given}: expected the directory of the model, found none")
        base = "" if path.is_absolute() else " (a path from where the build ran)"
        raise InputError(f"checkpoint {path}: the artifact was built from it{base}, but it is not there; {remedy}")
    if (found := checkpoint_digest(path)) != digest:
        raise InputError(
            f"{name} {path}: expected digest {digest[:12]}…, from which the artifact was built, found {found[:12]}…; "
            f"build again or {remedy}"
        )
    return path


if __name__ == "__main__":
    main_of(parser, run)
