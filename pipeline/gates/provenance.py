"""Gate 5: all that lies between a text and a label is the checkpoint's, compared by value and not by sample.

A sample shows what it happens to touch: a word that no text has, or a label that another one is called by, it does not.
"""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calib.int8.calibrate import FILE as CALIBRATION_FILE
from calib.int8.calibrate import Calibration, read_calibration
from calib.int8.qdq import quantize_graphs
from engines.backends import BACKENDS, Backend
from engines.errors import SkimError
from engines.head import Head
from engines.machine import tool_versions
from engines.manifest import TOKENIZER_NAME, EngineRecord, Figures, Gate, Manifest
from engines.plan import Unit, unit_name
from engines.tokenization import Tokens
from pipeline.gates.expected import Expected
from pipeline.gates.made_again import engine_differences, range_differences
from pipeline.gates.same_graph import graph_difference
from pipeline.gates.verdict import verdict
from pipeline.graph.export import Export, export_stage
from pipeline.graph.precision import graph_precision
from pipeline.graph.stages import HeadStage, Stage

NAME = "provenance"
_SHOWN = 100
"""Characters of a value that a reason shows."""


@dataclass(frozen=True)
class Origin:
    """What an artifact is to come from.

    tokenizer:   the checkpoint's tokenizer.json. export: makes the graph of a stage.
    remakes:     whether engines are made again, where that gives the same bytes on every machine.
    calibration: in INT8, what the model sees of the calibration texts; None: the ranges are not found again.
    """

    expected: Expected
    tokenizer: Path
    export: Export = export_stage
    remakes: bool = False
    calibration: Sequence[Tokens] | None = None


def provenance(origin: Origin, folder: Path, manifest: Manifest) -> Gate:
    """Compares the artifact in `folder` with the checkpoint; its engines last, and only where all else is as it was."""
    problems = [*_described(origin, manifest), *_files(origin, folder)]
    figures: Figures = {}
    if problems:
        return verdict(NAME, figures, problems)
    with tempfile.TemporaryDirectory() as scratch:
        graphs = _exported(origin, Path(scratch))
        problems += _graphs(folder, manifest, graphs)
        if not problems:
            problems += _quantised(origin, folder, manifest, Path(scratch))
        figures |= {"graphs": len(graphs)}
        if origin.remakes and not problems:
            free = [record for record in manifest.engines if not _is_bound(record)]
            again = Path(scratch) / "again"
            problems += engine_differences(folder, manifest, free, again)
            figures |= {"engines_made_again": len(free)}
    return verdict(NAME, figures, problems)


def bound_engines(manifest: Manifest) -> list[Gate]:
    """SKIPPED for engines that no compiler makes a second time with the same bytes; nothing where there are none."""
    bound = [record for record in manifest.engines if _is_bound(record)]
    if not bound:
        return []
    targets = ", ".join(sorted({record.target for record in bound}))
    reason = (
        f"{len(bound)} engine(s) are not a function of their graph, so they cannot be made again and compared; "
        "the gates behind this one compare those that run here by sample"
    )
    return [Gate(name=f"{NAME}: engines ({targets})", status="SKIPPED", reason=reason)]


def _described(origin: Origin, manifest: Manifest) -> Iterator[str]:
    """What the manifest says of the model and of number formats that is not so."""
    config = origin.expected.model.config
    encoder = config.encoder.model_dump(include=set(type(manifest.encoder).model_fields))
    compared = {
        "method": (manifest.method, config.pruner.method),
        **{f"head.{name}": (getattr(manifest.head, name), getattr(config.head, name)) for name in Head.model_fields},
        "max_length": (manifest.max_length, config.max_length),
        "protect_first": (manifest.protect_first, config.pruner.protect_first),
        "protect_until": (manifest.protect_until, config.pruner.protect_until),
        "plan.precision": (manifest.plan.precision, origin.expected.precision),
        **{f"encoder.{name}": (getattr(manifest.encoder, name), value) for name, value in encoder.items()},
    }
    for name, (found, expected) in compared.items():
        if found != expected:
            yield f"{name}: the checkpoint has {str(expected)[:_SHOWN]}, found {str(found)[:_SHOWN]}"
    for record in manifest.engines:
        backend = _backend_of(record)
        if backend is None:
            yield f"{record.file}: {record.target} has no engines in {record.precision}"
        elif graph_precision(record.precision, backend.machine_bound) != manifest.plan.precision:
            yield f"plan.precision: {record.file} is in {record.precision}, found {manifest.plan.precision}"
        elif backend.machine_bound != (record.binding is not None):
            yield f"{record.file}: an engine for {record.target} is bound to {record.machine or 'no machine'}"


def _files(origin: Origin, folder: Path) -> Iterator[str]:
    if not filecmp.cmp(folder / TOKENIZER_NAME, origin.tokenizer, shallow=False):
        yield f"{TOKENIZER_NAME}: not the checkpoint's tokenizer"


def _exported(origin: Origin, scratch: Path) -> dict[Unit, Path]:
    """The graph of every unit, made of the checkpoint."""
    expected = origin.expected
    stages: dict[Unit, Stage | HeadStage] = {spec.index: Stage(expected.model, spec) for spec in expected.specs}
    if expected.model.config.head.token_level:
        stages["head"] = HeadStage(expected.model)
    graphs = {unit: scratch / f"{unit_name(unit)}.onnx" for unit in stages}
    for unit, stage in stages.items():
        origin.export(stage, expected.model.config, graphs[unit], expected.precision)
    return graphs


def _graphs(folder: Path, manifest: Manifest, graphs: dict[Unit, Path]) -> Iterator[str]:
    for unit, path in graphs.items():
        name = manifest.plan.graphs[unit]
        difference = graph_difference(folder / name, path)
        if difference is not None:
            yield f"{name}: {difference}{_by_other_versions(manifest)}"


def _by_other_versions(manifest: Manifest) -> str:
    """What to do where a graph may differ because other libraries wrote it."""
    here = tool_versions()
    others = [f"{name} {version}" for name, version in manifest.tools.items() if here.get(name) != version]
    return f" (it says that it was built with {', '.join(others)}; compare it with these)" if others else ""


def _quantised(origin: Origin, folder: Path, manifest: Manifest, scratch: Path) -> Iterator[str]:
    """What differs in the INT8 graphs, made again from the plain ones, and in the ranges of their inputs."""
    stages = manifest.plan.stages
    named = {index: stage.int8_graph for index, stage in enumerate(stages) if stage.int8_graph is not None}
    if not named and CALIBRATION_FILE not in manifest.files:
        if any(record.precision == "int8" for record in manifest.engines):
            yield f"{CALIBRATION_FILE}: there are engines in INT8, and no calibration"
        return
    calibration = _calibration(folder, manifest)
    if isinstance(calibration, str):
        yield calibration
        return
    made = [scratch / f"{index}-int8.onnx" for index in range(len(stages))]
    try:
        layers = quantize_graphs([folder / stage.graph for stage in stages], calibration.scheme, made)
    except SkimError as error:
        yield f"{CALIBRATION_FILE}: {error}"
        return
    for index, (path, found) in enumerate(zip(made, layers, strict=True)):
        if bool(found) != (index in named):
            yield f"plan.stages.{index}.int8_graph: the calibration quantises {len(found)} layers of it"
        elif found and (difference := graph_difference(folder / named[index], path)) is not None:
            yield f"{named[index]}: {difference}{_by_other_versions(manifest)}"
    if origin.calibration is not None:
        yield from range_differences(origin.expected.model, calibration, origin.calibration)


def _calibration(folder: Path, manifest: Manifest) -> Calibration | str:
    """What decided on INT8, or what is wrong with it."""
    if CALIBRATION_FILE not in manifest.files:
        return f"{CALIBRATION_FILE}: there are graphs in INT8, and no calibration"
    try:
        return read_calibration(folder)
    except SkimError as error:
        return str(error)


def _is_bound(record: EngineRecord) -> bool:
    return next(backend.machine_bound for backend in BACKENDS if backend.target == record.target)


def _backend_of(record: EngineRecord) -> Backend | None:
    """A backend that has such engines; None where no one has."""
    return next((b for b in BACKENDS if b.target == record.target and record.precision in b.precisions), None)
