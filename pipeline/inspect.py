"""python -m pipeline.inspect: what is in an artifact, from its manifest alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt"):
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from engines.artifact import Artifact
    from engines.buckets import format_buckets
    from engines.manifest import Manifest
    from engines.memory import memory_bytes
    from engines.precisions import told
    from pipeline.cli import figures_line, main_of, plain_table, standard_output


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=program("inspect"),
        description="Shows what is in an artifact that pipeline.build wrote: the model, its stages, the "
        "shapes that they are compiled for, and what the checks of the build found. Compares every file with "
        "its digest and loads no engine.",
        epilog="exit codes: 0 the artifact is whole, 2 it is not (or is no artifact)",
    )
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote")
    p.add_argument("--json", action="store_true", help="print the manifest and file sizes as JSON")
    p.add_argument("--no-verify", action="store_true", help="skip the digests of the files (faster)")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints the manifest, for people or as JSON."""
    artifact = Artifact.open(args.artifact, verify=not args.no_verify)
    manifest = artifact.manifest
    sizes = artifact.sizes
    with standard_output():
        if args.json:
            print(json.dumps({**manifest.model_dump(), "sizes": sizes}, indent=1))
        else:
            _print(artifact, sizes, verified=not args.no_verify)
    return 0


def _print(artifact: Artifact, sizes: dict[str, int], verified: bool) -> None:
    manifest = artifact.manifest
    console = Console(highlight=False, markup=False)  # names and reasons are not ours, and may hold brackets
    console.print(_model(artifact, sum(sizes.values()), verified))
    console.print(_stages(manifest))
    console.print(_engines(manifest, sizes))
    if manifest.gates:
        console.print(_gates(manifest))


def _model(artifact: Artifact, size: int, verified: bool) -> Table:
    m, encoder = artifact.manifest, artifact.manifest.encoder
    table = plain_table(str(artifact.path))
    labels = ", ".join(m.head.labels[:8]) + (", ..." if len(m.head.labels) > 8 else "")
    rows = {
        "method": m.method
        + ("" if m.protect_first else ", the first token may die")
        + ("" if m.protect_until is None else ", the first text of a pair stays"),
        "predicts": f"{m.head.kind}: {labels or f'{m.head.size} numbers'}",
        "encoder": f"{encoder.family}, {encoder.layers} x {encoder.hidden_size}, {encoder.heads} heads",
        "max length": f"{m.max_length} tokens",
        "checkpoint": f"{m.checkpoint.path} ({m.checkpoint.sha256[:12]}…)",
        "built": f"{m.created} by skimrt {m.skimrt_version}",
        "with": ", ".join(f"{name} {version}" for name, version in m.tools.items()),
        "on": ", ".join(f"{name} {value}" for name, value in m.machine.items()),
        "precision": told(m.compared),
        "padding": "" if m.plan.padding is None else f"{100 * m.plan.padding:.1f} % of the gates' rows, one by one",
        "files": f"{len(m.files)}, {_megabytes(size)}, " + ("digests match" if verified else "digests not checked"),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _stages(manifest: Manifest) -> Table:
    table = plain_table("\nstages", "stage", "graph", "steps")
    for number, stage in enumerate(manifest.plan.stages):
        table.add_row(str(number), stage.graph, ", ".join(stage.steps))
    if manifest.plan.head_graph is not None:
        table.add_row("head", manifest.plan.head_graph, "every token, in its position")
    return table


def _engines(manifest: Manifest, sizes: dict[str, int]) -> Table:
    """A line for each target, precision and machine."""
    names = "target", "precision", "for", "engines", "profiles", "size", "memory", "buckets (batch x length)"
    table = plain_table("\nengines", *names)
    if not manifest.engines:
        table.add_row("none: it was exported for another machine to finish", *[""] * 7)
    for key in dict.fromkeys((e.target, e.precision, e.machine) for e in manifest.engines):
        engines = [e for e in manifest.engines if (e.target, e.precision, e.machine) == key]
        size = sum(sizes[name] for engine in engines for name in engine.files)
        profiles = [bucket for engine in engines for bucket in engine.profiles]
        target, precision, machine = key
        memory = memory_bytes(manifest, engines, sizes)
        counts = str(len(engines)), str(len(profiles)), _megabytes(size), _megabytes(memory)
        table.add_row(target, precision, machine or "any machine", *counts, format_buckets(set(profiles)))
    return table


def _gates(manifest: Manifest) -> Table:
    table = plain_table("\ngates", "gate", "status", "figures", "reason")
    colours = {"PASSED": "green", "FAILED": "red", "SKIPPED": "yellow"}
    for gate in manifest.gates:
        table.add_row(gate.name, Text(gate.status, colours[gate.status]), figures_line(gate), gate.reason)
    return table


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    main_of(parser, run)
