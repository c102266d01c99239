"""Builds an artifact: reference, plan, stage graphs, engines, manifest, gates, and only then the artifact's name."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from calib.data import Example, examples_digest, read_examples
from engines import artifact as layout
from engines.artifact import Artifact, Gate, Manifest
from engines.backends import Backend, choose_backend, targets
from engines.buckets import Bucket, default_buckets, format_buckets, parse_buckets
from engines.errors import GateError, InputError, TargetError
from engines.runner import Runner
from engines.tokenization import TextEncoder, Tokens
from pipeline import __version__, gates
from pipeline.cli import progress_bars
from pipeline.config import BuildConfig
from pipeline.gates.metric import accuracy
from pipeline.gates.reference import Reference
from pipeline.graph.export import export_stage
from pipeline.graph.stages import HeadStage, Stage, StageSpec, cut_stages, decision_layers
from pipeline.measure import as_record, measure
from pipeline.model.checkpoint import checkpoint_digest, load_checkpoint, tokenizer_path
from pipeline.model.transformer import PrunedTransformer
from pipeline.planning.simple import choose_cuts
from pipeline.publish import Publisher
from pipeline.versions import tool_versions

_TIMED_TEXTS, _ROUNDS = 64, 3
_DENSE_METRICS: dict[tuple[str, str], float] = {}


@dataclass(frozen=True)
class Subject:
    """What a build and its parity check look at: the model, and the texts that the gates use."""

    checkpoint: Path
    model: PrunedTransformer
    examples: Sequence[Example]
    samples: Sequence[Tokens]
    data: str

    @classmethod
    def load(cls, checkpoint: Path, data: str, count: int) -> Subject:
        """Loads a checkpoint and the first `count` examples of the test split (or the file). Raises InputError."""
        model = load_checkpoint(checkpoint)
        examples = read_examples(data, "test")[:count]
        encoder = TextEncoder(tokenizer_path(checkpoint), model.config.max_length, model.config.encoder.type_vocab_size)
        # The gates read what the model sees of a longer text: cut at max_length, as in training.
        tokens = encoder([example.content for example in examples])
        samples = [Tokens(t.input_ids, t.token_type_ids, len(t)) for t in tokens]
        return cls(checkpoint, model, examples, samples, data)

    @property
    def classes_match(self) -> bool:
        """Whether the data's labels are the model's, so that a metric means something."""
        head = self.model.config.head
        if head.kind == "regression":
            return all(_is_number(example.label) for example in self.examples)
        return {example.label for example in self.examples} <= set(head.labels)


def build(config: BuildConfig, console: Console, baseline: Path | None = None) -> Artifact:
    """Builds, checks and publishes the artifact of a configuration; `baseline` is the dense artifact to time against.

    Raises InputError, GateError or TargetError, and then has published nothing.
    """
    if config.target not in targets():
        raise TargetError(f"target {config.target!r}: this version builds for {', '.join(targets())} only")
    backend = choose_backend(config.target)
    if config.precision not in backend.precisions:
        raise InputError(
            f"precision {config.precision!r}: this version builds {', '.join(backend.precisions)} for {config.target}"
        )
    subject = Subject.load(config.checkpoint, config.data, max(config.samples, config.metric_samples))
    buckets = chosen_buckets(config, subject.model)
    key = build_key(config, subject, buckets)
    with (
        Publisher(config.out, key, force=config.force, resume=config.resume) as publisher,
        progress_bars(console) as progress,
    ):
        root = publisher.path
        step = progress.add_task("reference (PyTorch)", total=2)
        checked = subject.samples[: config.samples]
        reference = Reference.of(subject.model, checked)
        progress.advance(step)
        found = [gates.reference_parity(subject.model, checked, reference)]
        progress.advance(step)

        specs = cut_stages(subject.model, choose_cuts(subject.model, config.stages, reference.mean_rows()))
        graphs = _export(subject.model, specs, root, publisher, progress)
        records = _compile(graphs, buckets, backend, config.precision, root, publisher, progress)
        (root / "tokenizer").mkdir(exist_ok=True)
        shutil.copyfile(tokenizer_path(config.checkpoint), root / layout.TOKENIZER_NAME)
        manifest = _manifest(config, key, subject, specs, graphs, buckets, records, root)
        layout.write_manifest(root, manifest)

        step = progress.add_task("gates", total=3 + (baseline is not None))
        found += gates.numeric_parity(subject.model, specs, checked, root, manifest, backend, config.threads)
        progress.advance(step)
        runner = Runner(root, config.target, threads=config.threads, verify=False)
        found.append(gates.decision_parity(subject.model, specs, reference, runner.run_tokens(checked)))
        progress.advance(step)
        found.append(metric_gate(config, subject, runner))
        progress.advance(step)

        if baseline is not None:
            texts = [example.content for example in subject.examples[:_TIMED_TEXTS]]
            batches = sorted({bucket.batch for bucket in buckets})
            bench = measure({"pruned": root, "dense": baseline}, texts, batches, _ROUNDS, threads=config.threads)
            record = {"flops_ratio": reference.flops_ratio(subject.model), **as_record(bench)}
            (root / "bench.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
            progress.advance(step)

        (root / "parity.json").write_text(json.dumps([g.model_dump() for g in found], indent=1) + "\n", "utf-8")
        finished = manifest.model_copy(update={"gates": found, "files": layout.digest_files(root)})
        layout.write_manifest(root, finished)
        refuse_failed(found, f"{config.out} was not touched; what was built lies in {root}")
        publisher.publish()
    return Artifact.open(config.out, verify=False)


def build_key(config: BuildConfig, subject: Subject, buckets: Sequence[Bucket]) -> str:
    """SHA-256 of all that an artifact's engines depend on: the same key, the same engines."""
    inputs = {
        "checkpoint": checkpoint_digest(config.checkpoint),
        "stages": config.stages,
        "samples": config.samples,
        "buckets": format_buckets(buckets),
        "target": config.target,
        "precision": config.precision,
        "data": examples_digest(subject.examples),
        "version": __version__,
        "tools": tool_versions(),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def refuse_failed(found: Sequence[Gate], consequence: str) -> None:
    """Raises GateError that names every failed gate."""
    failed = [f"{gate.name}: {gate.reason}" for gate in found if gate.status == "FAILED"]
    if failed:
        raise GateError("a gate failed\n" + "\n".join(f"  - {line}" for line in failed) + f"\n{consequence}")


def specs_of(model: PrunedTransformer, manifest: Manifest) -> list[StageSpec]:
    """The stages of an artifact's plan; InputError if they are not stages of this model."""
    ends = [stage.steps[-1:] for stage in manifest.plan.stages[:-1]]
    specs = cut_stages(model, [layer for layer in decision_layers(model) if [f"decide {layer}"] in ends])
    if [spec.step_names for spec in specs] != [stage.steps for stage in manifest.plan.stages]:
        raise InputError(
            "the artifact's stages are not those of this model; pass the checkpoint that it was built from"
        )
    return specs


def metric_gate(config: BuildConfig, subject: Subject, runner: Runner) -> Gate:
    """Gate 4 on the first `metric_samples` examples, against the dense model in PyTorch."""
    count = min(config.metric_samples, len(subject.examples))
    if not subject.classes_match:
        wanted = subject.model.config.head
        expected = "numbers" if wanted.kind == "regression" else f"the model's ({', '.join(wanted.labels)})"
        reason = f"the labels of {subject.data} are not {expected}"
        return Gate(name="task metric", status="SKIPPED", reason=reason)
    if subject.model.config.head.token_level:
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


def chosen_buckets(config: BuildConfig, model: PrunedTransformer) -> list[Bucket]:
    """The buckets that were asked for, or the default ones. Raises InputError when none holds the longest input."""
    if config.buckets is None:
        return default_buckets(model.config.max_length)
    buckets = parse_buckets(config.buckets)
    longest = max(bucket.length for bucket in buckets)
    if longest < model.config.max_length:
        raise InputError(
            f"buckets {config.buckets}: the longest is {longest}, the model takes {model.config.max_length}"
        )
    return buckets


def _export(
    model: PrunedTransformer, specs: Sequence[StageSpec], root: Path, publisher: Publisher, progress: Progress
) -> dict[int | str, str]:
    """Writes the graphs that are not there yet; unit to relative path."""
    (root / "stages").mkdir(exist_ok=True)
    stages: dict[int | str, Stage | HeadStage] = {spec.index: Stage(model, spec) for spec in specs}
    if model.config.head.token_level:
        stages["head"] = HeadStage(model)
    graphs = {unit: f"stages/{unit if unit == 'head' else f'stage_{unit}'}.onnx" for unit in stages}
    task = progress.add_task("stage graphs (ONNX)", total=len(stages))
    for unit, stage in stages.items():
        if not publisher.done(graphs[unit]):
            export_stage(stage, model.config, root / graphs[unit])
            publisher.mark(graphs[unit])
        progress.advance(task)
    return graphs


def _compile(
    graphs: dict[int | str, str],
    buckets: Sequence[Bucket],
    backend: Backend,
    precision: str,
    root: Path,
    publisher: Publisher,
    progress: Progress,
) -> list[layout.EngineRecord]:
    """Compiles the engines that are not there yet."""
    folder = f"engines/{backend.target}-{precision}"
    (root / folder).mkdir(parents=True, exist_ok=True)
    task = progress.add_task(f"engines ({backend.target}, {precision})", total=len(graphs) * len(buckets))
    records = []
    for unit, graph in graphs.items():
        for bucket in buckets:
            file = f"{folder}/{backend.engine_name(unit, bucket)}"
            if not publisher.done(file):
                backend.build(root / graph, bucket, root / file)
                publisher.mark(file)
            records.append(
                layout.EngineRecord(
                    stage=unit,  # type: ignore[arg-type]
                    batch=bucket.batch,
                    length=bucket.length,
                    target=backend.target,
                    precision=precision,
                    file=file,
                )
            )
            progress.advance(task)
    return records


def _manifest(
    config: BuildConfig,
    key: str,
    subject: Subject,
    specs: Sequence[StageSpec],
    graphs: dict[int | str, str],
    buckets: list[Bucket],
    records: list[layout.EngineRecord],
    root: Path,
) -> Manifest:
    model = subject.model.config
    encoder = model.encoder.model_dump(include=set(layout.Encoder.model_fields))
    stages = [layout.StagePlan(graph=graphs[spec.index], steps=spec.step_names) for spec in specs]
    return Manifest(
        skimrt_version=__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        build_key=key,
        method=model.pruner.method,
        head=layout.Head(**model.head.model_dump()),
        max_length=model.max_length,
        encoder=layout.Encoder(**encoder),
        protect_first=model.pruner.protect_first,
        checkpoint=layout.Checkpoint(path=str(config.checkpoint), sha256=checkpoint_digest(config.checkpoint)),
        data=layout.Data(name=config.data, count=len(subject.examples), sha256=examples_digest(subject.examples)),
        plan=layout.Plan(kind="staged", stages=stages, head_graph=graphs.get("head"), buckets=buckets),
        engines=records,
        tools=tool_versions(),
        machine={"processor": platform.machine(), "system": platform.system(), "cpus": str(os.cpu_count())},
        files=layout.digest_files(root),
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
