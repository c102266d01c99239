"""The gates that look at an artifact's graphs and engines, for its build and for its parity check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engines.artifact import Gate, Manifest
from engines.backends import Backend
from engines.runner import Runner
from pipeline import gates
from pipeline.config import BuildConfig
from pipeline.gates.reference import Reference
from pipeline.graph.precision import reference_in
from pipeline.graph.stages import StageSpec
from pipeline.subject import Subject, metric_gate


def engine_gates(
    config: BuildConfig,
    subject: Subject,
    specs: Sequence[StageSpec],
    reference: Reference,
    root: Path,
    manifest: Manifest,
    backend: Backend,
    cannot_run: str | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Gate]:
    """Gates 2 to 4 of an artifact in `root`, on the samples of `reference`.

    cannot_run: why this machine cannot run the engines; what they would be asked is then SKIPPED.
    advance:    called after each of the three.
    """
    precision = manifest.plan.precision
    narrow = None if precision == "fp32" else reference_in(subject.model, precision)
    found = gates.numeric_parity(
        subject.model, specs, reference.samples, root, manifest, backend, config.threads, narrow, cannot_run
    )
    advance()
    if cannot_run is not None:
        advance()
        advance()
        return found + [Gate(name=name, status="SKIPPED", reason=cannot_run) for name in ("decisions", "task metric")]
    runner = Runner(root, backend.target, backend.provider, config.threads, verify=False)
    rounded = None if narrow is None else Reference.of(narrow, reference.samples)
    results = runner.run_tokens(reference.samples)
    found.append(gates.decision_parity(subject.model, specs, reference, results, rounded))
    advance()
    found.append(metric_gate(config, subject, runner))
    advance()
    return found
