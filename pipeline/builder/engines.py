"""Compiles the engines of every stage, the third step of a build; in INT8 the faster of two stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engines.errors import BuildError
from engines.manifest import Gate
from engines.plan import Unit
from pipeline.builder.compilation import Compilation, Compiled
from pipeline.builder.int8 import compile_both
from pipeline.builder.target import BuildTarget
from pipeline.builder.work import Engines, Exported, Planned, Work


def compile_all(work: Work, planned: Planned, exported: Exported) -> Engines:
    """Compiles the missing engines, or nothing with --export-only. Raises BuildError and InputError."""
    target, calibration = exported.target, planned.calibration
    compiled, left_out = Compiled(), list[Gate]()
    compilation = _compilation(work, planned, target, {**exported.graphs, **exported.int8})
    if not work.config.export_only:
        if calibration is not None and target.chooses_int8_by_time:
            wide = replace(target, precision=target.graph_precision)
            both = (
                _compilation(work, planned, wide, exported.graphs),
                _compilation(work, planned, target, exported.int8),
            )
            compiled, calibration = compile_both(*both, work, planned)
        else:
            compiled = compilation.run(planned.buckets, work.progress)
        left_out = _left_out(work, planned, compiled)
    elsewhere = planned.elsewhere if work.config.export_only else work.previous.keep(planned.elsewhere)
    return Engines(target, compilation, compiled, calibration, elsewhere, left_out)


def _compilation(work: Work, planned: Planned, target: BuildTarget, graphs: Mapping[Unit, str]) -> Compilation:
    steps = [spec.step_names for spec in planned.expected.specs]
    return Compilation(target, graphs, steps, work.publisher, work.previous, work.config.jobs)


def _left_out(work: Work, planned: Planned, compiled: Compiled) -> list[Gate]:
    """Leaves out a bucket that cannot be built, and names it, if the other buckets fit every input. Else BuildError."""
    if not compiled.failed:
        return []
    whole = [f"bucket {bucket}: {reason}" for bucket, reason in sorted(compiled.failed.items())]
    # Logs are published with the artifact, so its gates name them within it.
    lines = [reason.splitlines()[0].replace(f"{work.root}/", "") for reason in whole]
    lengths = [[b.length for b in buckets if b not in compiled.failed] for buckets in planned.buckets.values()]
    longest, alone = min(max(built, default=0) for built in lengths), not planned.elsewhere
    if not alone or longest < planned.expected.model.config.max_length:
        consequence = "the others do not hold every input" if alone else "the engines for other machines have them"
        raise BuildError("\n  - ".join([f"{len(lines)} bucket(s) could not be built, and {consequence}", *whole]))
    text = "\n  - ".join(["WARNING: left out of the artifact:", *whole]).replace(f"{work.root}/", "")
    work.progress.console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
    return [Gate(name="buckets", status="SKIPPED", reason="left out: " + "; ".join(lines))]
