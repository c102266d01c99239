"""INT8 in a build: calibrates, quantises the stage graphs, and keeps the faster engine of every bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from rich.progress import Progress

from calib.calibration import CalibrationSet
from calib.data import NAMED_SETS
from calib.int8 import Calibration, calibrate
from calib.qdq import quantize_graphs
from calib.scheme import QuantizationScheme
from calib.selection import choose_engines
from calib.shift import shift_warning
from calib.simulation import simulate
from engines.artifact import EngineRecord, Gate, Manifest, Unit
from engines.backends import Backend, Engine
from engines.buckets import Bucket
from engines.errors import InputError
from engines.plan import unit_name
from pipeline.compilation import Compilation, Compiled
from pipeline.config import BuildConfig
from pipeline.gates.numeric import load_engine
from pipeline.gates.quantized import quantized_parity
from pipeline.gates.reference import Reference
from pipeline.graph.evaluate import GraphSession
from pipeline.graph.precision import Precision, reference_in
from pipeline.graph.stages import StageSpec
from pipeline.model.checkpoint import load_checkpoint, tokenizer_path
from pipeline.model.transformer import PrunedTransformer
from pipeline.publish import Publisher
from pipeline.subject import Subject

FILE = "calibration.json"
TEXTS = 1024
"""Most calibration texts that are read: a drop that is counted on 256 has a standard error of near 0.8 points."""


def read_calibration_set(config: BuildConfig, subject: Subject, buckets: Sequence[Bucket]) -> CalibrationSet:
    """The texts of --calibration, by default the dev split of the gates' data. Raises InputError for unusable ones."""
    model = subject.model.config
    return CalibrationSet.read(
        config.calibration or config.data,
        TEXTS,
        tokenizer_path(config.checkpoint),
        max_length=model.max_length,
        segments=model.encoder.type_vocab_size,
        pad_token_id=model.encoder.pad_token_id,
        labels=model.head.labels,
        buckets=buckets,
    )


def calibrated(
    config: BuildConfig,
    subject: Subject,
    texts: CalibrationSet,
    reference: Reference,
    publisher: Publisher,
    progress: Progress,
) -> Calibration:
    """Calibrates, unless the build that is resumed has; warns of texts that are not like those of the gates."""
    task = progress.add_task("calibration (INT8)", total=5)
    if not publisher.done(FILE):
        dense = None if config.dense_checkpoint is None else load_checkpoint(config.dense_checkpoint)
        found = calibrate(subject.model, texts, reference, config.max_drop, dense, tick=lambda: progress.advance(task))
        write_calibration(publisher.path, found)
        publisher.mark(FILE)
    found = read_calibration(publisher.path)
    progress.update(task, completed=5)
    for warning in (shift_warning(found.shift, found.coverage.data, subject.data), _same_texts_warning(config)):
        if warning is not None:
            progress.console.print(f"WARNING: {warning}", style="yellow", highlight=False)
    return found


def _same_texts_warning(config: BuildConfig) -> str | None:
    """What a build says where a file, which is one split, gives the calibration texts and those of the gates."""
    calibration = config.calibration or config.data
    if config.data in NAMED_SETS or Path(calibration).resolve() != Path(config.data).resolve():
        return None
    return (
        f"calibration {calibration}: the gates read the same texts, so the accuracy of INT8 that they find is better "
        "than on new ones; name other texts with --calibration"
    )


def compile_int8(
    wide: Compilation,
    int8: Compilation,
    calibration: Calibration,
    buckets: Mapping[Unit, Sequence[Bucket]],
    root: Path,
    backend: Backend,
    threads: int | None,
    progress: Progress,
) -> tuple[Compiled, Calibration]:
    """Both kinds of engines; of each pair the faster one stays. The calibration that comes back says which."""
    both = wide.run(buckets, progress), int8.run(buckets, progress)
    plain, quantised = ({(r.stage, r.bucket): r for r in compiled.records} for compiled in both)
    task = progress.add_task("INT8 or wider, by time", total=len(quantised))

    def pairs() -> Iterator:
        for stage, bucket in sorted(quantised, key=str):
            files = [root / records[stage, bucket].file for records in (plain, quantised)]
            yield int(stage), bucket, *(lambda file=file: backend.load(file, threads) for file in files)
            progress.advance(task)

    choices = choose_engines(pairs())
    used = {(choice.stage, choice.bucket) for choice in choices if choice.int8}
    records = [quantised[key] if key in used else record for key, record in plain.items()]
    _remove_unused([*plain.values(), *quantised.values()], records, root)
    calibration = calibration.model_copy(update={"engines": choices})
    write_calibration(root, calibration)
    return Compiled(records), calibration


def quantised_graphs(graphs: Mapping[Unit, str], scheme: QuantizationScheme, root: Path) -> dict[Unit, str]:
    """Writes the quantised graph of every stage beside its own; a stage that has no INT8 layer gets none."""
    stages = [unit for unit in graphs if unit != "head"]
    targets: dict[Unit, str] = {unit: _quantised(graphs[unit]) for unit in stages}
    layers = quantize_graphs([root / graphs[u] for u in stages], scheme, [root / targets[u] for u in stages])
    for unit, found in zip(stages, layers, strict=True):
        if not found:
            (root / targets.pop(unit)).unlink()
    return targets


def _quantised(graph: str) -> str:
    return graph.replace(".onnx", "-int8.onnx")


def int8_parity(
    model: PrunedTransformer,
    specs: Sequence[StageSpec],
    reference: Reference,
    root: Path,
    manifest: Manifest,
    backend: Backend,
    threads: int | None,
    cannot_run: str | None,
) -> list[Gate]:
    """Gate 2 of the INT8 engines or, where this machine cannot run them, of their graphs in ONNX Runtime."""
    records = [record for record in manifest.engines if record.precision == "int8" and record.target == backend.target]
    if not records:
        return []
    simulated = simulated_model(model, root, manifest.plan.precision)
    if cannot_run is None:

        def load(record: EngineRecord) -> Engine:
            return load_engine(backend, root, threads, record)

        return [quantized_parity(model, simulated, specs, reference.samples, records, load)]

    @cache
    def session(graph: str) -> GraphSession:
        return GraphSession(root / graph)

    def graph_of(record: EngineRecord) -> GraphSession:
        graph = manifest.plan.graphs[record.stage]
        return session(_quantised(graph) if (root / _quantised(graph)).is_file() else graph)

    name = "numeric: INT8 graphs"
    skipped = Gate(name=f"numeric: INT8 engines ({backend.target})", status="SKIPPED", reason=cannot_run)
    return [quantized_parity(model, simulated, specs, reference.samples, records, graph_of, name), skipped]


def simulated_model(model: PrunedTransformer, root: Path, precision: Precision) -> PrunedTransformer:
    """What PyTorch computes with the ranges of an artifact whose stage graphs are in `precision`."""
    return simulate(reference_in(model, precision), read_calibration(root).scheme)


def read_calibration(root: Path) -> Calibration:
    """What decided on INT8 in an artifact. Raises InputError."""
    try:
        return Calibration.model_validate_json((root / FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{root / FILE}: expected what calibration wrote, found {error}") from None


def write_calibration(root: Path, calibration: Calibration) -> None:
    """Writes calibration.json."""
    (root / FILE).write_text(calibration.model_dump_json(indent=1) + "\n", "utf-8")


def _remove_unused(built: Sequence[EngineRecord], used: Sequence[EngineRecord], root: Path) -> None:
    """Deletes engines that were not chosen, and the shared weights of a stage that has no engine left beside them."""
    kept = {(record.stage, Path(record.file).parent) for record in used}
    for record in {record.file: record for record in built}.values():
        path = Path(record.file)
        if record not in used:
            (root / path).unlink()
        if (record.stage, path.parent) not in kept:
            for weights in (root / path.parent).glob(f"{unit_name(record.stage)}[.-]*.weights"):
                weights.unlink()
