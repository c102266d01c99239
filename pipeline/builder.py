"""Builds an artifact: reference, plan, stage graphs, engines, manifest, gates, and only then the artifact's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from calib.calibration import CalibrationSet
from calib.data import examples_digest, read_examples
from calib.int8 import int8_gate
from calib.retention import FILE as RETENTION_FILE
from calib.retention import RetentionStatistics
from engines import artifact as layout
from engines.artifact import Artifact, EngineRecord, Gate, Unit
from engines.buckets import Bucket, parse_buckets
from engines.errors import BuildError, GateError, InputError
from engines.files import sha256
from pipeline import gates
from pipeline.build_key import build_key, chosen_buckets
from pipeline.checks import counterpart, engine_gates, planned_gates
from pipeline.cli import progress_bars
from pipeline.compilation import Compilation, Compiled
from pipeline.config import BuildConfig
from pipeline.gates.reference import Reference
from pipeline.gpu_kit import write_gpu_kit
from pipeline.graph.fused import fuse_graphs
from pipeline.graph.stages import cut_stages, decision_layers
from pipeline.held import Held
from pipeline.int8 import FILE as CALIBRATION_FILE
from pipeline.int8 import calibrated, compile_int8, quantised_graphs, read_calibration_set
from pipeline.manifest import manifest_of, plan_of
from pipeline.measure import as_record, measure
from pipeline.model.checkpoint import read_config, tokenizer_path
from pipeline.model.transformer import PrunedTransformer
from pipeline.planning.choose import FILE as PLAN_FILE
from pipeline.planning.choose import choose_plan
from pipeline.planning.fused import refuse_fused
from pipeline.planning.simple import choose_cuts
from pipeline.publish import Publisher
from pipeline.stage_graphs import ExportOnce, export_graphs, traced
from pipeline.subject import Subject, refuse_other_dense
from pipeline.target import BuildTarget
from plugins.library import copy_plugins, library_path

_TIMED_TEXTS, _ROUNDS = 64, 3


@dataclass(frozen=True)
class _Start:
    """What a build starts with.

    held: the artifact that is there already. others: its engines for other machines, if it is of the same build.
    """

    target: BuildTarget
    subject: Subject
    buckets: list[Bucket]
    calibration_texts: CalibrationSet | None
    key: str
    held: Artifact | None
    others: list[EngineRecord]

    @classmethod
    def of(cls, config: BuildConfig) -> _Start:
        """Raises InputError or TargetError for what can be known before anything is computed."""
        target = BuildTarget.of(config)
        subject = Subject.load(config.checkpoint, config.data, max(config.samples, config.metric_samples))
        refuse_other_dense(config)
        refuse_fused(config, subject.model.config)
        buckets = chosen_buckets(config, subject.model)
        if config.stages != "auto":
            cut_stages(subject.model, choose_cuts(subject.model, config.stages, []))
        calibration_texts = read_calibration_set(config, subject, buckets) if config.precision == "int8" else None
        key = build_key(config, subject, buckets)
        held = _held(config.out)
        return cls(target, subject, buckets, calibration_texts, key, held, _engines_elsewhere(held, key, target))

    def publisher(self, config: BuildConfig) -> Publisher:
        """Of `config.out`; a machine that has no engines in the artifact of this build adds its own."""
        adds = False
        if self.held is not None and self.target.binding is not None:
            manifest = self.held.manifest
            adds = manifest.build_key == self.key and len(manifest.engines) == len(self.others)
        return Publisher(config.out, self.key, force=config.force or adds, resume=config.resume)


def refuse(config: BuildConfig) -> None:
    """Raises what `build` would raise before it computes anything, so that nothing is built in front of it."""
    checks: list[Callable[[], object]] = [
        lambda: read_config(config.checkpoint),
        lambda: read_examples(config.data, "test"),
        lambda: config.buckets and parse_buckets(config.buckets),
    ]
    problems = []
    for check in checks:
        try:
            check()
        except InputError as error:
            problems.append(str(error))
    if len(problems) > 1:
        raise InputError.listing("build", problems)
    with _Start.of(config).publisher(config):
        pass


def build(config: BuildConfig, console: Console, baseline: Path | None = None) -> Artifact:
    """Builds, checks and publishes the artifact of a configuration; `baseline` is the dense artifact to time against.

    An artifact of the same build key that lacks engines for this machine gets them added. Raises InputError,
    GateError, BuildError or TargetError, and then has published nothing.
    """
    start = _Start.of(config)
    target, subject, buckets, held, others = start.target, start.subject, start.buckets, start.held, start.others
    calibration_texts, precision = start.calibration_texts, target.graph_precision
    for line in subject.report():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    with start.publisher(config) as publisher, progress_bars(console) as progress:
        root = publisher.path
        there = Held(held, root, config.timing_cache)
        step = progress.add_task("reference (PyTorch)", total=2)
        checked = subject.samples[: config.samples]
        reference = Reference.of(subject.model, checked)
        progress.advance(step)
        found = [gates.reference_parity(subject.model, checked, reference)]
        progress.advance(step)

        if others and there.bring(PLAN_FILE):
            # The engines of other machines are those of this plan and of these ranges.
            publisher.mark(PLAN_FILE)
            if there.bring(CALIBRATION_FILE):
                publisher.mark(CALIBRATION_FILE)
        else:
            others = []
        runs_here = target if target.cannot_run is None else None
        calibration = scheme = None
        if calibration_texts is not None:
            calibration = calibrated(config, subject, calibration_texts, reference, publisher, progress)
            scheme = None if target.backend.machine_bound else calibration.scheme
        export = ExportOnce()
        planned = choose_plan(config, subject, runs_here, buckets, reference, publisher, progress, scheme, export)
        specs = cut_stages(subject.model, planned.cuts)
        wanted: dict[Unit, Sequence[Bucket]] = {**dict(enumerate(planned.buckets)), "head": buckets}
        graphs = export_graphs(subject.model, specs, precision, publisher, progress, export)
        capacities: dict[Bucket, tuple[int, ...]] = {}
        if planned.fused is not None:
            graphs["fused"] = planned.fused.graph
            fuse_graphs([root / graphs[spec.index] for spec in specs], root / planned.fused.graph)
            capacities = {fused.bucket: tuple(fused.capacities) for fused in planned.fused.buckets}
            wanted["fused"] = list(capacities)
        if config.frontend == "torch-tensorrt":
            target = traced(target, subject.model, specs)
        steps = [spec.step_names for spec in specs]

        def compilation_of(target: BuildTarget, graphs: Mapping[Unit, str]) -> Compilation:
            return Compilation(target, graphs, steps, publisher, there, config.jobs, capacities)

        compilation, int8 = compilation_of(target, graphs), dict[Unit, str]()
        if calibration is not None:
            int8 = quantised_graphs(graphs, calibration.scheme, root)
            if target.backend.machine_bound:
                compilation = compilation_of(target, {**graphs, **int8})
        compiled = Compiled()
        if not config.export_only:
            if calibration is None or target.backend.machine_bound:
                compiled = compilation.run(wanted, progress)
            else:
                both = compilation_of(replace(target, precision=precision), graphs), compilation_of(target, int8)
                compiled, calibration = compile_int8(
                    *both, calibration, wanted, root, target.backend, config.threads, progress
                )
            found += _left_out(compiled, wanted, subject.model, console, root, alone=not others)
            others = there.keep(others)
        _drop_leftovers(root, [*others, *compiled.records])
        (root / "tokenizer").mkdir(exist_ok=True)
        shutil.copyfile(tokenizer_path(config.checkpoint), root / layout.TOKENIZER_NAME)
        plan = plan_of(planned, specs, graphs, precision, compiled.failed)
        manifest = manifest_of(config, start.key, subject, plan, [*others, *compiled.records], root)
        layout.write_manifest(root, manifest)
        if decision_layers(subject.model):
            RetentionStatistics(
                data=config.data,
                data_sha256=examples_digest(subject.examples[: config.samples]),
                checkpoint_sha256=manifest.checkpoint.sha256,
                rows=reference.rows.tolist(),
            ).write(root / RETENTION_FILE)
        if target.options.plugin:
            _copy_plugins(root / "plugins", target)
        if config.export_only or target.backend.needs_device_to_build:
            narrow = counterpart(subject.model, precision)
            write_gpu_kit(root, specs, subject.model, checked, manifest, narrow, target.options, int8)

        gated = progress.add_task("gates", total=3 + (baseline is not None))

        def advance() -> None:
            progress.advance(gated)

        found += engine_gates(
            config, subject, specs, reference, root, manifest, target.backend, target.cannot_run, advance
        )
        if calibration is not None:
            found.append(int8_gate(calibration, compared=not target.backend.machine_bound))
        found += planned_gates(compilation, compiled.records)
        if baseline is not None:
            _time_against(baseline, root, config, subject, sorted({bucket.batch for bucket in buckets}), reference)
            advance()

        if others and held is not None:
            named = {gate.name for gate in found}
            found += [gate for gate in held.manifest.gates if gate.name not in named]
        (root / "parity.json").write_text(json.dumps([g.model_dump() for g in found], indent=1) + "\n", "utf-8")
        finished = manifest.model_copy(update={"gates": found, "files": layout.digest_files(root)})
        layout.write_manifest(root, finished)
        refuse_failed(found, f"{config.out} was not touched; what was built lies in {root}")
        publisher.publish()
    return Artifact.open(config.out, verify=False)


def _time_against(
    dense: Path, root: Path, config: BuildConfig, subject: Subject, batches: Sequence[int], reference: Reference
) -> None:
    """Times the artifact in `root` and the dense one in turns, and writes bench.json."""
    texts = [example.content for example in subject.examples[:_TIMED_TEXTS]]
    timings = measure({"pruned": root, "dense": dense}, texts, batches, _ROUNDS, threads=config.threads)
    record = {"flops_ratio": reference.flops_ratio(subject.model), **as_record(timings)}
    (root / "bench.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def refuse_failed(found: Sequence[Gate], consequence: str) -> None:
    """Raises GateError that names every failed gate."""
    failed = [f"{gate.name}: {gate.reason}" for gate in found if gate.status == "FAILED"]
    if failed:
        raise GateError("a gate failed\n" + "\n".join(f"  - {line}" for line in failed) + f"\n{consequence}")


def _held(out: Path) -> Artifact | None:
    """The artifact that is there already, if it can be read; its files are compared when they are used."""
    try:
        return Artifact.open(out, verify=False)
    except InputError:
        return None


def _engines_elsewhere(held: Artifact | None, key: str, target: BuildTarget) -> list[EngineRecord]:
    """Engines of the same build for other machines, which stay in the artifact."""
    if held is None or held.manifest.build_key != key or target.binding is None:
        return []
    return [record for record in held.manifest.engines if record.place != target.binding.place]


def _left_out(
    compiled: Compiled,
    buckets: Mapping[Unit, Sequence[Bucket]],
    model: PrunedTransformer,
    console: Console,
    root: Path,
    alone: bool,
) -> list[Gate]:
    """A bucket that cannot be built is left out, and named, where the others hold every input; else BuildError."""
    if not compiled.failed:
        return []
    whole = [f"bucket {bucket}: {reason}" for bucket, reason in sorted(compiled.failed.items())]
    # Logs are published with the artifact, so its gates name them within it.
    lines = [reason.splitlines()[0].replace(f"{root}/", "") for reason in whole]
    longest = min(max((b.length for b in held if b not in compiled.failed), default=0) for held in buckets.values())
    if not alone or longest < model.config.max_length:
        consequence = "the others do not hold every input" if alone else "the engines for other machines have them"
        raise BuildError("\n  - ".join([f"{len(lines)} bucket(s) could not be built, and {consequence}", *whole]))
    text = "\n  - ".join(["WARNING: left out of the artifact:", *whole]).replace(f"{root}/", "")
    console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
    return [Gate(name="buckets", status="SKIPPED", reason="left out: " + "; ".join(lines))]


def _drop_leftovers(root: Path, records: Sequence[EngineRecord]) -> None:
    """Deletes what an interrupted build with other options, or a killed builder, has left among the engines."""
    used = {root / Path(record.file).parent for record in records}
    for folder in sorted({path.parent for path in (root / "engines").rglob("*") if path.is_file()}):
        for path in folder.glob("*" if folder not in used else "*.partial"):
            path.unlink()
    if all(record.binding is None or record.binding.plugin is None for record in records):
        shutil.rmtree(root / "plugins", ignore_errors=True)


def _copy_plugins(folder: Path, target: BuildTarget) -> None:
    """Copies the plugin libraries; BuildError if they are not those any more that the engines are bound to."""
    copy_plugins(folder)
    if target.binding is not None and sha256(folder / library_path().name) != target.binding.plugin:
        raise BuildError(
            f"plugin library {library_path()}: expected SHA-256 {target.binding.plugin}, found another one: it was "
            "changed while the engines were built; build again"
        )
