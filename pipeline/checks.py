"""The gates that look at an artifact's graphs and engines, for its build and for its parity check."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import onnx

from calib.qdq import quantized_products
from engines.artifact import Artifact, EngineRecord, Gate, Manifest
from engines.backends import Backend, Engine, records_for
from engines.backends.layers import int8_products
from engines.errors import InputError
from engines.loading import on_all_cores
from engines.prediction import SampleResult
from engines.runner import Runner
from pipeline import gates
from pipeline.compilation import Compilation
from pipeline.config import BuildConfig
from pipeline.gates.reference import Reference
from pipeline.graph.precision import Precision, reference_in
from pipeline.graph.stages import StageSpec
from pipeline.int8 import int8_parity, simulated_model
from pipeline.model.transformer import PrunedTransformer
from pipeline.subject import Subject, metric_gate


def counterpart(model: PrunedTransformer, precision: Precision) -> PrunedTransformer | None:
    """PyTorch's model in the precision of the graphs; None in fp32, where it is the model itself."""
    return None if precision == "fp32" else reference_in(model, precision)


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
    if cannot_run is None:
        backend = _keeping(backend, Artifact(root, manifest), config.threads)
    narrow = counterpart(subject.model, manifest.plan.precision)
    found = gates.numeric_parity(
        subject.model, specs, reference.samples, root, manifest, backend, config.threads, narrow, cannot_run
    )
    found += int8_parity(subject.model, specs, reference, root, manifest, backend, config.threads, cannot_run)
    advance()
    if cannot_run is not None:
        advance()
        advance()
        return found + [Gate(name=name, status="SKIPPED", reason=cannot_run) for name in ("decisions", "task metric")]

    def runner_of(max_batch: int | None = None, fused: bool = True) -> Runner:
        return Runner(root, backend, None, config.threads, max_batch, verify=False, fused=fused)

    runner = runner_of(fused=False)
    results = runner.run_tokens(reference.samples)
    if any(record.precision == "int8" for record in manifest.engines):
        found.append(_int8_decisions(subject.model, specs, reference, results, root, manifest))
    else:
        rounded = None if narrow is None else Reference.of(narrow, reference.samples)
        found.append(gates.decision_parity(subject.model, specs, reference, results, rounded))
    if manifest.plan.fused is not None:
        found += gates.fused_parity(subject.model, specs, reference, root, manifest, backend, config.threads)
        found += gates.fused_decisions(subject.model, specs, reference, manifest, runner_of)
        runner = runner_of()
    advance()
    found.append(metric_gate(config, subject, runner))
    advance()
    return found


def planned_gates(compilation: Compilation, records: Sequence[EngineRecord]) -> list[Gate]:
    """What the library planned for the engines of a build that have a report: for one target, precision and place."""
    reports = {record: compilation.report_of(record) for record in records if record.report is not None}
    if not reports:
        return []
    precision, where = records[0].precision, f"({records[0].target} {records[0].place})"
    fusion = {record.file: (report.fusible, report.fused) for record, report in reports.items()}
    found = [gates.attention_gate(f"fused attention {where}", precision, fusion)]
    if precision == "int8":
        graphs = set(map(compilation.graph_of, reports))
        products = {path: quantized_products(onnx.load(path)) for path in graphs}
        counts = {}
        for record, report in reports.items():
            wanted = products[compilation.graph_of(record)]
            counts[record.file] = len(wanted), len(int8_products(report.layers, wanted))
        found.append(gates.int8_products_gate(f"INT8 products {where}", counts))
    return found


def _keeping(backend: Backend, artifact: Artifact, threads: int | None) -> Backend:
    """The backend, but one that loads what the manifest lists, and keeps it: the gates run the same engines.

    Engines on a device are not kept, for their memory is scarce. One that cannot be loaded is so again, and then
    reported, by the gate that asks for it.
    """
    keeping, bindings = copy.copy(backend), {record.file: record.binding for record in artifact.manifest.engines}

    def load(file: Path, threads: int | None, *_: object) -> Engine:
        name = file.relative_to(artifact.path).as_posix()
        return backend.load(file, threads, bindings.get(name), artifact.content)

    if backend.device() is not None:
        keeping.load = load  # type: ignore[method-assign]
        return keeping
    kept = functools.cache(load)
    keeping.load = lambda file, threads, *_: kept(file, threads)  # type: ignore[method-assign]

    def try_to_load(record: EngineRecord) -> None:
        with suppress(InputError):
            kept(artifact.path / record.file, threads)

    on_all_cores(try_to_load, records_for(artifact.manifest, backend), threads)
    return keeping


def _int8_decisions(
    model: PrunedTransformer,
    specs: Sequence[StageSpec],
    reference: Reference,
    results: Sequence[SampleResult],
    root: Path,
    manifest: Manifest,
) -> Gate:
    """Gate 3 in INT8: against the simulation of the same ranges; flips against float32 are counted beside it.

    Quantisation moves what is decided, which the task metric judges; the engines must decide as the simulation does.
    """
    simulated = simulated_model(model, root, manifest.plan.precision)
    ours = Reference.of(simulated, reference.samples)
    gate = gates.decision_parity(simulated, specs, ours, results, rounded=reference)
    plain = gates.decision_parity(model, specs, reference, results, rounded=ours).figures
    figures = {
        "flips_against_fp32": plain["flips"],
        "of_them_within_rounding_of_threshold": plain["flips_within_rounding_of_threshold"],
        "label_agreement_with_fp32": plain["label_agreement"],
    }
    return gate.model_copy(update={"figures": {**gate.figures, **figures}})
