"""INT8 in a build: calibrates, quantises the stage graphs, and takes every bucket from the faster of two engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from calib.data import splits_of
from calib.int8.calibrate import FILE, Calibration, DropBudget, calibrate, read_calibration, write_calibration
from calib.int8.qdq import quantize_graphs
from calib.int8.scheme import QuantizationScheme
from calib.int8.selection import choose_profiles
from calib.shift import shift_warning
from engines.buckets import Bucket
from engines.manifest import EngineRecord
from engines.plan import Unit, int8_graph_file
from pipeline.builder.compilation import Compilation, Compiled
from pipeline.builder.config import BuildConfig
from pipeline.builder.work import Planned, Work
from pipeline.model.reference import Reference


def calibrated(work: Work, reference: Reference) -> Calibration | None:
    """Calibrates an INT8 build unless the resumed build has done so. Warns if the texts differ from the gates'."""
    start, publisher = work.start, work.publisher
    if start.calibration_texts is None:
        return None
    task = work.progress.add_task("calibration (INT8)", total=5)
    if not publisher.done(FILE):
        budget = DropBudget(work.config.max_drop, None if start.dense is None else start.dense.metric)
        advance = partial(work.progress.advance, task)
        calibration = calibrate(start.subject.model, start.calibration_texts, reference, budget, tick=advance)
        write_calibration(publisher.path, calibration)
        publisher.mark(FILE)
    calibration = read_calibration(publisher.path)
    work.progress.update(task, completed=5)
    shift = shift_warning(calibration.shift, calibration.coverage.data, start.subject.data)
    if shift is not None:
        work.progress.console.print(f"WARNING: {shift}", style="yellow", highlight=False)
    return calibration


def same_texts_warning(config: BuildConfig) -> str | None:
    """Returns the warning for a file without splits that gives both the gates' texts and those of the plan and INT8.

    Without INT8 only a plan is made from them, which changes nothing but the times against a dense model.
    """
    calibration, compared = config.calibration or config.data, config.dense_checkpoint is not None
    if config.precision != "int8" and not compared:
        return None
    if splits_of(config.data) or Path(calibration).resolve() != Path(config.data).resolve():
        return None
    return (
        f"calibration {calibration}: the gates read the same texts, so the "
        f"{'accuracy of INT8' if config.precision == 'int8' else 'speed'} that is found is better than on new ones; "
        "name other texts with --calibration"
    )


def compile_both(wide: Compilation, int8: Compilation, work: Work, planned: Planned) -> tuple[Compiled, Calibration]:
    """Both kinds of engines; every bucket is run by the faster one. The calibration that comes back says which."""
    both = [compilation.run(planned.buckets, work.progress) for compilation in (wide, int8)]
    plain, quantised = ({record.stage: record for record in compiled.records} for compiled in both)
    task = work.progress.add_task("INT8 or wider, by time", total=sum(len(r.profiles) for r in quantised.values()))
    backend, threads = work.start.target.backend, work.config.threads

    def pairs() -> Iterator:
        for stage in sorted(quantised, key=str):
            files = [work.root / records[stage].file for records in (plain, quantised)]
            wide, narrow = (backend.load(file, threads) for file in files)
            for bucket in quantised[stage].profiles:
                yield int(stage), bucket, wide.profile(bucket), narrow.profile(bucket)
                work.progress.advance(task)

    choices = choose_profiles(pairs())
    used = {(choice.stage, choice.bucket) for choice in choices if choice.int8}
    records = [
        *_keeping(plain.values(), lambda stage, bucket: (stage, bucket) not in used),
        *_keeping(quantised.values(), lambda stage, bucket: (stage, bucket) in used),
    ]
    _remove_unused([*plain.values(), *quantised.values()], records, work.root)
    assert planned.calibration is not None
    calibration = planned.calibration.model_copy(update={"engines": choices})
    write_calibration(work.root, calibration)
    return Compiled(records), calibration


def quantised_graphs(graphs: Mapping[Unit, str], scheme: QuantizationScheme, root: Path) -> dict[Unit, str]:
    """Writes the quantised graph of every stage beside its own, except for stages without INT8 layers."""
    stages = [unit for unit in graphs if unit != "head"]
    targets: dict[Unit, str] = {unit: int8_graph_file(graphs[unit]) for unit in stages}
    layers = quantize_graphs([root / graphs[u] for u in stages], scheme, [root / targets[u] for u in stages])
    for unit, quantised in zip(stages, layers, strict=True):
        if not quantised:
            (root / targets.pop(unit)).unlink()
    return targets


def _keeping(records: Iterable[EngineRecord], kept: Callable[[Unit, Bucket], bool]) -> Iterator[EngineRecord]:
    """These engines with those of their profiles that are kept; those without any are left out."""
    for record in records:
        profiles = tuple(bucket for bucket in record.profiles if kept(record.stage, bucket))
        if profiles:
            yield record.model_copy(update={"profiles": profiles})


def _remove_unused(built: Sequence[EngineRecord], used: Sequence[EngineRecord], root: Path) -> None:
    """Deletes the files of engines of which no profile was chosen."""
    kept = {name for record in used for name in record.files}
    for name in {name for record in built for name in record.files} - kept:
        (root / name).unlink()
