"""The gates that look at an artifact's graphs and engines, for its build and for its parity check."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import onnx

from calib.data import examples_digest
from calib.int8.qdq import quantized_products
from calib.metric import accuracy, labelled
from engines.artifact import EngineRecord, Gate, Manifest
from engines.backends import Backend, records_for
from engines.backends.layers import int8_products
from engines.errors import InputError
from engines.loading import on_all_cores
from engines.prediction import SampleResult
from engines.runner import Runner
from pipeline import gates
from pipeline.builder.compilation import Compilation
from pipeline.builder.config import BuildConfig
from pipeline.builder.subject import Subject, refuse_other_dense
from pipeline.gates.quantized import int8_parity, simulated_model
from pipeline.graph.precision import Precision, reference_in
from pipeline.graph.stages import StageSpec
from pipeline.model.checkpoint import checkpoint_digest, load_checkpoint
from pipeline.model.reference import Reference
from pipeline.model.transformer import PrunedTransformer


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
        backend = _keeping(backend, [root / record.file for record in records_for(manifest, backend)], config.threads)
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

    runner = Runner(root, backend, threads=config.threads, verify=False)
    results = runner.run_tokens(reference.samples)
    if any(record.precision == "int8" for record in manifest.engines):
        found.append(_int8_decisions(subject.model, specs, reference, results, root, manifest))
    else:
        rounded = None if narrow is None else Reference.of(narrow, reference.samples)
        found.append(gates.decision_parity(subject.model, specs, reference, results, rounded))
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


def _keeping(backend: Backend, files: Sequence[Path], threads: int | None) -> Backend:
    """The backend, but one that has loaded these engines: the gates run the same ones, each when the last is through.

    Engines on a device are left alone, for their memory is scarce. One that cannot be loaded is so again, and then
    reported, by the gate that asks for it.
    """
    if backend.device() is not None:
        return backend
    keeping = copy.copy(backend)
    keeping.load = functools.cache(backend.load)  # type: ignore[method-assign]

    def load(file: Path) -> None:
        with suppress(InputError):
            keeping.load(file, threads, None)

    on_all_cores(load, files, threads)
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


_DENSE_METRICS: dict[tuple[str, str], float] = {}


def metric_gate(config: BuildConfig, subject: Subject, runner: Runner) -> Gate:
    """Gate 4 on the first `metric_samples` examples, against the dense model in PyTorch. Raises InputError."""
    refuse_other_dense(config)
    count = min(config.metric_samples, len(subject.examples))
    wanted = subject.model.config.head
    if not labelled(wanted, subject.examples):
        expected = "numbers" if wanted.kind == "regression" else f"the model's ({', '.join(wanted.labels)})"
        reason = f"the labels of {subject.data} are not {expected}"
        return Gate(name="task metric", status="SKIPPED", reason=reason)
    if wanted.token_level:
        reason = "the data has one label per text, the model one per token"
        return Gate(name="task metric", status="SKIPPED", reason=reason)
    examples, head = subject.examples[:count], runner.manifest.head
    ours = accuracy(head, [r.logits for r in runner.run_tokens(subject.samples[:count])], examples)
    dense = None
    if config.dense_checkpoint is not None:
        digest = checkpoint_digest(config.dense_checkpoint), examples_digest(examples)
        if digest not in _DENSE_METRICS:  # a demo compares several models with the same dense one
            baseline = Reference.of(load_checkpoint(config.dense_checkpoint), subject.samples[:count])
            _DENSE_METRICS[digest] = accuracy(head, [logits.numpy() for logits in baseline.logits], examples)
        dense = _DENSE_METRICS[digest]
    return gates.task_metric(ours, dense, count, config.max_drop)
