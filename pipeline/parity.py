"""python -m pipeline.parity: checks an artifact against the PyTorch model that it was built from."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt[cpu]"):
    from rich.console import Console

    from calib.data import examples_digest
    from calib.int8.calibrate import FILE as CALIBRATION_FILE
    from calib.int8.calibrate import read_calibration
    from engines.artifact import Artifact
    from engines.backends import choose_backend
    from engines.errors import InputError
    from engines.manifest import Gate, Manifest
    from engines.tokenization import Tokens
    from pipeline import gates
    from pipeline.builder.checks import Budget, engine_gates, metric_gates
    from pipeline.builder.config import read_build_config
    from pipeline.builder.dense import DenseModel
    from pipeline.builder.graphs import specs_of
    from pipeline.builder.subject import TYPICAL, Inputs, Subject, tokens_of
    from pipeline.cli import add_column_flags, columns_of, main_of, not_checked, print_gates
    from pipeline.gates.expected import Expected
    from pipeline.gates.under_test import EnginesUnderTest
    from pipeline.graph.export import export_stage
    from pipeline.model.checkpoint import checkpoint_digest, tokenizer_path
    from pipeline.model.reference import Reference

_GATES = ("integrity", "provenance", "reference", "numeric: graphs", "numeric: engines", "decisions", "task metric")
"""In the order in which they are asked."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=program("parity"),
        description="Checks that an artifact computes what its PyTorch model computes: its files are those that were "
        "built, all that lies between a text and a label is the checkpoint's by value, every stage gives the "
        "reference's numbers on the reference's own state, and the engines running free keep the same tokens and give "
        "the same labels. Exit code 0: parity holds, as far as the last line says that it was checked; 3: it does not.",
    )
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote")
    p.add_argument("--data", help="texts to check on: a named set or a file (default: the set of the build)")
    add_column_flags(p)
    p.add_argument("--samples", type=int, default=256, help="how many texts (default 256)")
    p.add_argument("--checkpoint", type=Path, help="the model, if it is no longer where the artifact was built from")
    p.add_argument("--dense", type=Path, help="dense checkpoint of the same task and tokenizer, for the task metric")
    p.add_argument("--calibration", help="in INT8, the calibration texts, if they are no longer where they were")
    p.add_argument("--max-drop", type=float, help="points that the metric may lose (default 1.0)")
    p.add_argument("--target", default="auto", help="target whose engines are checked (default: the best one here)")
    p.add_argument("--provider", help="library that runs the target, such as openvino or onnxruntime")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument("--json", action="store_true", help="print the gates as JSON")
    return p


def run(args: argparse.Namespace) -> int:
    """Checks and prints every gate; 3 if one failed."""
    found = check(args)
    failed = [gate.name for gate in found if gate.status == "FAILED"]
    if args.json:
        print(json.dumps([gate.model_dump() for gate in found], indent=1))
    else:
        console = Console()
        print_gates(found, console)
        said = f"parity does not hold: {', '.join(failed)}" if failed else "parity holds"
        if left := not_checked(found):
            said += f"; SKIPPED, so not checked: {left}"
        console.print(said, highlight=False, markup=False, soft_wrap=True)
    return 3 if failed else 0


def check(args: argparse.Namespace) -> list[Gate]:
    """All gates of an artifact. One whose files or provenance are wrong is not loaded: the rest is SKIPPED."""
    asked = {"dense": args.dense, "max_drop": args.max_drop, "samples": args.samples, "threads": args.threads}
    config = read_build_config(None, asked)
    try:
        artifact = Artifact.open(args.artifact)
    except InputError as error:
        try:
            Artifact.open(args.artifact, verify=False)
        except InputError:  # what cannot even be described is bad input; what has changed has lost parity
            raise error from None
        return _ended([Gate(name="integrity", status="FAILED", reason=str(error))])
    manifest = artifact.manifest
    if manifest.failed:
        reason = f"the gates of its build say FAILED: {', '.join(manifest.failed)}; it was never published"
        return _ended([Gate(name="integrity", status="FAILED", reason=reason)])
    checkpoint = _checkpoint(args.checkpoint, manifest)
    config = config.model_copy(update={"checkpoint": checkpoint})
    dense = None if config.dense_checkpoint is None else DenseModel(config.dense_checkpoint)
    if dense is not None:
        dense.refuse_for(checkpoint)
    data = args.data or (manifest.data.name if manifest.data else config.data)
    subject = Subject.load(checkpoint, data, args.samples, columns_of(args))
    specs = specs_of(subject.model, manifest)
    backend = choose_backend(args.target, args.provider, manifest.built, manifest.bindings)
    found = [Gate(name="integrity", status="PASSED", figures={"files": len(manifest.files)})]
    reference = Reference.of(subject.model, subject.samples)
    expected = Expected(subject.model, specs, reference, manifest.plan.precision)
    texts = _calibration_texts(args, artifact, subject)
    origin = gates.Origin(expected, tokenizer_path(checkpoint), export_stage, remakes=True, calibration=texts)
    found.append(gates.provenance(origin, artifact.path, manifest))
    if found[-1].status == "FAILED":
        return _ended(found)
    found += gates.bound_engines(manifest)
    found.append(gates.reference_parity(subject.model, reference))
    engines = EnginesUnderTest(artifact.path, manifest, backend, args.threads)
    budget = Budget(args.samples, config.max_drop, dense, expected.narrow or expected.model)
    return found + engine_gates(expected, engines, partial(metric_gates, subject, budget))


def _ended(found: list[Gate]) -> list[Gate]:
    """Returns the gates, the last of which failed, and SKIPPED for those that it prevents."""
    reason = f"{found[-1].name} failed, so nothing of the artifact is loaded"
    return found + [Gate(name=name, status="SKIPPED", reason=reason) for name in _GATES[len(found) :]]


def _calibration_texts(args: argparse.Namespace, artifact: Artifact, subject: Subject) -> list[Tokens] | None:
    """What the model sees of the texts that INT8 was calibrated on; None without INT8. Raises InputError."""
    if CALIBRATION_FILE not in artifact.manifest.files:
        return None
    try:
        coverage = read_calibration(artifact.path).coverage
    except InputError:
        return None  # which the gate says
    data = args.calibration or coverage.data
    examples = Inputs(columns_of(args)).examples(data, "dev")[:TYPICAL]
    if (found := examples_digest(examples)) != coverage.data_sha256:
        raise InputError(
            f"calibration {data}: expected texts with digest {coverage.data_sha256[:12]}…, found {found[:12]}…; name "
            "those of the build with --calibration"
        )
    return tokens_of(subject.checkpoint, subject.model, examples)


def _checkpoint(given: Path | None, manifest: Manifest) -> Path:
    """Returns the model that the artifact was built from: the given one, or the recorded one. Raises InputError."""
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
