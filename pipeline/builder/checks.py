"""Runs the gates on an artifact's graphs and engines, for its build and for its parity check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import torch

from calib.data import has_labels
from calib.int8.qdq import quantized_products
from calib.int8.sensitivity import changed_share
from calib.metric import accuracy, labelled, measure
from engines.backends import records_for
from engines.backends.layers import int8_products
from engines.manifest import EngineRecord, Gate
from engines.prediction import SampleResult
from engines.runner import Runner
from pipeline import gates
from pipeline.builder.compilation import Compilation
from pipeline.builder.dense import DenseModel
from pipeline.builder.subject import Subject
from pipeline.gates.expected import Expected
from pipeline.gates.quantized import int8_parity, simulated_model
from pipeline.gates.under_test import EnginesUnderTest
from pipeline.model.reference import Reference
from pipeline.model.transformer import PrunedTransformer


def engine_gates(
    expected: Expected,
    engines: EnginesUnderTest,
    metrics: Callable[[Runner], Sequence[Gate]],
    advance: Callable[[], None] = lambda: None,
) -> list[Gate]:
    """Runs gates 2 to 4. `metrics` is gate 4; `advance` is called after each of the three."""
    engines = engines.loaded()
    found = gates.numeric_parity(expected, engines)
    found += int8_parity(expected, engines)
    advance()
    if engines.cannot_run is not None:
        advance()
        advance()
        return found + engines.skipped("decisions", "task metric")
    runner = engines.runner()
    results = runner.run_tokens(expected.samples)
    if any(record.precision == "int8" for record in engines.records):
        found.append(_int8_decisions(expected, engines, results))
    else:
        found.append(gates.decision_parity(expected, results, expected.rounded))
    advance()
    found += metrics(runner)
    advance()
    return found


def planned_gates(compilation: Compilation, records: Sequence[EngineRecord], head_size: int) -> list[Gate]:
    """Checks what the library planned for the engines that have a report, all of one target, precision and machine."""
    reports = {record: compilation.report_of(record) for record in records if record.report is not None}
    if not reports:
        return []
    precision, where = records[0].precision, f"({records[0].target} {records[0].machine})"
    profiles = {
        f"{record.file} {profile.bucket}": (record, profile, report.fusible)
        for record, report in reports.items()
        for profile in report.profiles
        if profile.bucket in record.profiles
    }
    if not profiles:  # a library that tells of no layers
        return []
    fusion = {name: (fusible, profile.fused) for name, (_, profile, fusible) in profiles.items()}
    found = [gates.attention_gate(f"fused attention {where}", precision, fusion, head_size)]
    if precision == "int8":
        graphs = set(map(compilation.graph_of, reports))
        products = {path: quantized_products(onnx.load(path)) for path in graphs}
        counts = {}
        for name, (record, profile, _) in profiles.items():
            wanted = products[compilation.graph_of(record)]
            counts[name] = len(wanted), len(int8_products(profile.layers, wanted))
        found.append(gates.int8_products_gate(f"INT8 products {where}", counts))
    return found


def _int8_decisions(expected: Expected, engines: EnginesUnderTest, results: Sequence[SampleResult]) -> Gate:
    """Runs gate 3 in INT8, against the simulation of the same ranges.

    Quantisation changes decisions, and the task metric judges that. The engines must decide as the simulation does.
    Differences from float32 are counted beside it.
    """
    simulated = simulated_model(expected, engines.folder)
    ours = Reference.of(simulated, expected.samples)
    simulation = Expected(simulated, expected.specs, ours, expected.precision)
    gate = gates.decision_parity(simulation, results, rounded=expected.reference)
    plain = gates.decision_parity(expected, results, rounded=ours).figures
    figures = {
        "flips_against_fp32": plain["flips"],
        "of_them_within_rounding_of_threshold": plain["flips_within_rounding_of_threshold"],
        "label_agreement_with_fp32": plain["label_agreement"],
    }
    return gate.model_copy(update={"figures": {**gate.figures, **figures}})


@dataclass(frozen=True)
class Budget:
    """What gate 4 compares with, on the first `count` examples, and the points that may be lost.

    wide: PyTorch's model in the precision that INT8 should equal.
    """

    count: int
    max_drop: float
    dense: DenseModel | None
    wide: PrunedTransformer


def metric_gates(subject: Subject, budget: Budget, runner: Runner) -> list[Gate]:
    """Runs gate 4 against the dense model in PyTorch and, for INT8 engines, against the model's own wider precision."""
    examples, results = subject.examples[: budget.count], runner.run_tokens(subject.samples[: budget.count])
    logits, nothing = [result.logits for result in results], _no_metric(subject)
    head, points = subject.model.config.head, max(0.0, budget.max_drop)
    samples = subject.samples[: budget.count]
    if nothing is None:
        # An embedding is measured by how it agrees with the dense model's.
        against = budget.dense.answers(examples) if budget.dense is not None and head.kind == "embedding" else None
        ours = measure(runner.manifest.head, logits, examples, samples, against)
        dense = {} if budget.dense is None else budget.dense.figures(examples)
        (main, value), *others = ours.items()
        named = {name: (value, dense.get(name)) for name, value in others}
        gate = gates.task_metric(value, dense.get(main), len(examples), budget.max_drop, named)
        if budget.dense is not None and budget.dense.max_length != subject.model.config.max_length:
            lengths = {"max_length": subject.model.config.max_length, "dense_max_length": budget.dense.max_length}
            gate = gate.model_copy(update={"figures": {**gate.figures, **lengths}})
    else:
        gate = Gate(name="task metric", status="SKIPPED", reason=nothing)
    if all(record.precision != "int8" for record in records_for(runner.manifest, runner.backend)):
        return [gate]
    wide = Reference.of(budget.wide, samples).logits
    if nothing is None:
        plain = [answer.numpy() for answer in wide]
        if head.kind == "embedding":
            value = accuracy(head, logits, examples, against=plain)
        gate_of_int8 = gates.int8_metric(value, accuracy(head, plain, examples, samples), len(examples), points)
        return [gate, gate_of_int8]
    return [gate, gates.int8_changed(changed_share(head, wide, list(map(torch.from_numpy, logits))), len(wide), points)]


def _no_metric(subject: Subject) -> str | None:
    """Why the examples give no metric, or None."""
    head = subject.model.config.head
    if not has_labels(subject.examples) and head.kind != "embedding":
        return f"{subject.data} has no labels"
    if not labelled(head, subject.examples):
        wanted = "numbers" if head.one_value else f"the model's ({', '.join(head.labels)})"
        if head.token_level and all(example.target is None for example in subject.examples):
            return "the data has one label per text, the model one per token"
        return f"the labels of {subject.data} are not {wanted}"
    return None
