"""The gates that look at an artifact's graphs and engines, for its build and for its parity check."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from calib.int8.qdq import quantized_products
from calib.metric import accuracy, labelled
from engines.artifact import EngineRecord, Gate
from engines.backends.layers import int8_products
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


def engine_gates(
    expected: Expected,
    engines: EnginesUnderTest,
    metric: Callable[[Runner], Gate],
    advance: Callable[[], None] = lambda: None,
) -> list[Gate]:
    """Gates 2 to 4 of an artifact. `metric` is gate 4; `advance` is called behind each of the three."""
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
    found.append(metric(runner))
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


def _int8_decisions(expected: Expected, engines: EnginesUnderTest, results: Sequence[SampleResult]) -> Gate:
    """Gate 3 in INT8: against the simulation of the same ranges; flips against float32 are counted beside it.

    Quantisation moves what is decided, which the task metric judges; the engines must decide as the simulation does.
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


def metric_gate(subject: Subject, runner: Runner, dense: DenseModel | None, count: int, max_drop: float) -> Gate:
    """Gate 4 on the first `count` examples, against the dense model in PyTorch."""
    head = subject.model.config.head
    nothing = None
    if not labelled(head, subject.examples):
        wanted = "numbers" if head.kind == "regression" else f"the model's ({', '.join(head.labels)})"
        nothing = f"the labels of {subject.data} are not {wanted}"
    elif head.token_level:
        nothing = "the data has one label per text, the model one per token"
    if nothing is not None:
        return Gate(name="task metric", status="SKIPPED", reason=nothing)
    examples = subject.examples[:count]
    results = runner.run_tokens(subject.samples[:count])
    ours = accuracy(runner.manifest.head, [result.logits for result in results], examples)
    return gates.task_metric(ours, None if dense is None else dense.metric(examples), len(examples), max_drop)
