"""INT8 in a build: calibrates, quantises the stage graphs, and keeps the faster engine of every bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from calib.data import NAMED_SETS
from calib.int8.calibrate import FILE, Calibration, DropBudget, calibrate, read_calibration, write_calibration
from calib.int8.qdq import quantize_graphs
from calib.int8.scheme import QuantizationScheme
from calib.int8.selection import choose_engines
from calib.shift import shift_warning
from engines.artifact import EngineRecord, Unit
from engines.plan import int8_graph_file, unit_name
from pipeline.builder.compilation import Compilation, Compiled
from pipeline.builder.config import BuildConfig
from pipeline.builder.work import Planned, Work
from pipeline.model.reference import Reference


def calibrated(work: Work, reference: Reference) -> Calibration | None:
    """Calibrates an INT8 build, unless the build that is resumed has; warns of texts that are not like the gates'."""
    start, publisher = work.start, work.publisher
    if start.calibration_texts is None:
        return None
    task = work.progress.add_task("calibration (INT8)", total=5)
    if not publisher.done(FILE):
        budget = DropBudget(work.config.max_drop, None if start.dense is None else start.dense.model)
        advance = partial(work.progress.advance, task)
        found = calibrate(start.subject.model, start.calibration_texts, reference, budget, tick=advance)
        write_calibration(publisher.path, found)
        publisher.mark(FILE)
    found = read_calibration(publisher.path)
    work.progress.update(task, completed=5)
    shift = shift_warning(found.shift, found.coverage.data, start.subject.data)
    for warning in (shift, _same_texts_warning(work.config)):
        if warning is not None:
            work.progress.console.print(f"WARNING: {warning}", style="yellow", highlight=False)
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


def compile_both(wide: Compilation, int8: Compilation, work: Work, planned: Planned) -> tuple[Compiled, Calibration]:
    """Both kinds of engines; of each pair the faster one stays. The calibration that comes back says which."""
    both = [compilation.run(planned.buckets, work.progress) for compilation in (wide, int8)]
    plain, quantised = ({(r.stage, r.bucket): r for r in compiled.records} for compiled in both)
    task = work.progress.add_task("INT8 or wider, by time", total=len(quantised))
    backend, threads = work.start.target.backend, work.config.threads

    def pairs() -> Iterator:
        for stage, bucket in sorted(quantised, key=str):
            files = [work.root / records[stage, bucket].file for records in (plain, quantised)]
            yield int(stage), bucket, *(partial(backend.load, file, threads) for file in files)
            work.progress.advance(task)

    choices = choose_engines(pairs())
    used = {(choice.stage, choice.bucket) for choice in choices if choice.int8}
    records = [quantised[key] if key in used else record for key, record in plain.items()]
    _remove_unused([*plain.values(), *quantised.values()], records, work.root)
    assert planned.calibration is not None
    calibration = planned.calibration.model_copy(update={"engines": choices})
    write_calibration(work.root, calibration)
    return Compiled(records), calibration


def quantised_graphs(graphs: Mapping[Unit, str], scheme: QuantizationScheme, root: Path) -> dict[Unit, str]:
    """Writes the quantised graph of every stage beside its own; a stage that has no INT8 layer gets none."""
    stages = [unit for unit in graphs if unit != "head"]
    targets: dict[Unit, str] = {unit: int8_graph_file(graphs[unit]) for unit in stages}
    layers = quantize_graphs([root / graphs[u] for u in stages], scheme, [root / targets[u] for u in stages])
    for unit, found in zip(stages, layers, strict=True):
        if not found:
            (root / targets.pop(unit)).unlink()
    return targets


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
