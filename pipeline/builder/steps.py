"""Builds an artifact in five steps: plan, export, compile, check, publish. Only the last step makes it visible."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from calib.int8.calibrate import FILE as CALIBRATION_FILE
from calib.int8.calibrate import int8_gate
from engines.artifact import Artifact, digest_files
from engines.buckets import Bucket
from engines.errors import GateError
from engines.manifest import BENCH_NAME, PARITY_NAME, Gate
from engines.manifest_file import write_manifest
from engines.plan import Unit
from pipeline import gates
from pipeline.builder.checks import Budget, engine_gates, metric_gates, planned_gates
from pipeline.builder.config import BuildConfig
from pipeline.builder.contents import write_contents
from pipeline.builder.dense import DenseModel
from pipeline.builder.engines import compile_all
from pipeline.builder.graphs import drop_programs, export_graphs, traced
from pipeline.builder.int8 import calibrated, quantised_graphs, same_texts_warning
from pipeline.builder.measure import as_record, common_length, measure
from pipeline.builder.plan import FILE as PLAN_FILE
from pipeline.builder.plan import choose_plan
from pipeline.builder.precision import in_fastest_precision
from pipeline.builder.progress import progress_bars
from pipeline.builder.publish import Publisher
from pipeline.builder.reuse import Previous
from pipeline.builder.start import Start
from pipeline.builder.subject import Inputs, tokens_of
from pipeline.builder.work import Engines, Exported, Planned, Work
from pipeline.gates.expected import Expected
from pipeline.gates.under_test import EnginesUnderTest
from pipeline.graph.stages import cut_stages
from pipeline.model.checkpoint import tokenizer_path
from pipeline.model.flops import flops_ratio
from pipeline.model.reference import Reference
from pipeline.model.retention import carried_rows

_TIMED_TEXTS, _ROUNDS = 64, 3


def build(
    config: BuildConfig,
    console: Console,
    baseline: Path | None = None,
    dense: DenseModel | None = None,
    inputs: Inputs | None = None,
) -> Artifact:
    """Builds, checks and publishes the artifact of a configuration.

    baseline: the dense artifact to time against. dense: the model of `config.dense_checkpoint`, if another build has
              loaded it already; inputs: what other builds have read already. An artifact of the same build key without
              engines for this machine gets them added.
    Raises InputError, GateError, BuildError or TargetError; then nothing is published.
    """
    inputs = inputs or Inputs(config.columns)

    def attempt(start: Start) -> Artifact:
        with start.publisher() as publisher:
            return build_from(start, publisher, console, baseline)

    return in_fastest_precision(config, console, lambda chosen: Start.of(chosen, inputs, dense), attempt)


def build_from(start: Start, publisher: Publisher, console: Console, baseline: Path | None = None) -> Artifact:
    """Does the same for inputs that are read already and an output directory that is locked."""
    previous = Previous(start.previous, publisher.path, start.config.timing_cache)
    for line in start.subject.report():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    with progress_bars(console) as progress:
        work = Work(start, publisher, previous, progress, start.export)
        planned = plan(work)
        exported = export(work, planned)
        engines = compile_engines(work, planned, exported)
        results = check(work, planned, engines, baseline)
        publish(work, results)
    return Artifact.open(start.config.out, verify=False)


def plan(work: Work) -> Planned:
    """Runs PyTorch on the gates' texts, calibrates, and chooses the cuts and the buckets."""
    start, subject = work.start, work.start.subject
    task = work.progress.add_task("reference (PyTorch)", total=2)
    reference = Reference.of(subject.model, subject.samples[: work.config.samples])
    work.progress.advance(task)
    gate = gates.reference_parity(subject.model, reference)
    work.progress.advance(task)
    elsewhere = start.elsewhere
    if elsewhere and work.previous.bring(PLAN_FILE):
        # The engines of other machines were built for this plan and these ranges.
        work.publisher.mark(PLAN_FILE)
        if work.previous.bring(CALIBRATION_FILE):
            work.publisher.mark(CALIBRATION_FILE)
    else:
        elsewhere = []
    _warn(work)
    calibration = calibrated(work, reference)
    chosen = choose_plan(work, reference, calibration)
    expected = Expected(subject.model, cut_stages(subject.model, chosen.cuts), reference, start.target.graph_precision)
    buckets: dict[Unit, Sequence[Bucket]] = {**dict(enumerate(chosen.buckets)), "head": start.buckets}
    return Planned(expected, gate, chosen, buckets, calibration, elsewhere)


def _warn(work: Work) -> None:
    """Warns where the figures of this build say less than they seem to."""
    start = work.start
    warnings = [
        None if start.dense is None else start.dense.length_warning(start.subject.model.config.max_length),
        same_texts_warning(work.config),
    ]
    for warning in filter(None, warnings):
        work.progress.console.print(f"WARNING: {warning}", style="yellow", highlight=False, soft_wrap=True)


def export(work: Work, planned: Planned) -> Exported:
    """Writes the graph of every stage; in INT8 the quantised one too."""
    target = work.start.target
    graphs = export_graphs(work, planned.expected)
    if work.config.frontend == "torch-tensorrt":
        target = traced(target, planned.expected)
    calibration = planned.calibration
    int8 = {} if calibration is None else quantised_graphs(graphs, calibration.scheme, work.root)
    return Exported(graphs, int8, target)


def compile_engines(work: Work, planned: Planned, exported: Exported) -> Engines:
    """Compiles every stage for its buckets, and writes the other files of the artifact."""
    engines = compile_all(work, planned, exported)
    drop_programs(work)
    write_contents(work, planned, exported, engines)
    return engines


def check(work: Work, planned: Planned, engines: Engines, baseline: Path | None) -> list[Gate]:
    """Runs every gate, and times the artifact against the dense one."""
    start, config = work.start, work.config
    task = work.progress.add_task("gates", total=4 + (baseline is not None))

    def advance() -> None:
        work.progress.advance(task)

    target = start.target
    manifest = Artifact.open(work.root, verify=False).manifest
    asked = EnginesUnderTest(work.root, manifest, engines.target.backend, config.threads, target.cannot_run)
    expected = planned.expected
    budget = Budget(config.metric_samples, config.max_drop, start.dense, expected.narrow or expected.model)
    origin = gates.Origin(expected, tokenizer_path(config.checkpoint), work.export)
    results = [planned.gate, gates.provenance(origin, work.root, manifest), *engines.left_out]
    advance()
    results += engine_gates(expected, asked, partial(metric_gates, start.subject, budget), advance)
    if engines.calibration is not None:
        results.append(int8_gate(engines.calibration, compared=target.chooses_int8_by_time))
    encoder = expected.model.config.encoder
    results += planned_gates(engines.compilation, engines.compiled.records, encoder.hidden_size // encoder.heads)
    if baseline is not None:
        _time_against(baseline, work)
        advance()
    if engines.elsewhere and start.previous is not None:
        named = {gate.name for gate in results}
        results += [gate for gate in start.previous.manifest.gates if gate.name not in named]
    return results


def publish(work: Work, results: Sequence[Gate]) -> None:
    """Writes the results of the gates, and publishes the artifact if none failed. Raises GateError."""
    root = work.root
    (root / PARITY_NAME).write_text(json.dumps([gate.model_dump() for gate in results], indent=1) + "\n", "utf-8")
    manifest = Artifact.open(root, verify=False).manifest
    finished = manifest.model_copy(update={"gates": list(results), "files": digest_files(root)})
    write_manifest(root, finished)
    refuse_failed(results, f"{work.config.out} was not touched; what was built lies in {root}")
    work.publisher.publish()


def refuse_failed(results: Sequence[Gate], consequence: str) -> None:
    """Raises GateError that names every failed gate."""
    failed = [f"{gate.name}: {gate.reason}" for gate in results if gate.status == "FAILED"]
    if failed:
        raise GateError("a gate failed\n" + "\n".join(f"  - {line}" for line in failed) + f"\n{consequence}")


def _time_against(baseline: Path, work: Work) -> None:
    """Times the artifact and the dense one in turns, and writes bench.json. FLOPs are of the tokens that are timed."""
    subject, dense = work.start.subject, work.start.dense
    assert dense is not None
    examples, artifacts = subject.examples[:_TIMED_TEXTS], {"pruned": work.root, "dense": baseline}
    texts = [example.content for example in examples]
    timings = measure(artifacts, texts, work.start.batches, _ROUNDS, threads=work.config.threads)
    length = common_length(artifacts.values())
    rows = carried_rows(subject.model, tokens_of(subject.checkpoint, subject.model, examples, length))
    ratio = flops_ratio(subject.model.config, rows, dense.model.config)
    record = {"flops_ratio": ratio, "max_length": length, **as_record(timings)}
    (work.root / BENCH_NAME).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
