"""Engines that are a function of their graph, made again and compared byte by byte; and INT8 ranges, found again."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from pathlib import Path

from calib.int8.calibrate import RANGED, Calibration
from calib.int8.equalise import equalised
from calib.int8.ranges import Method, choose_ranges, collect_histograms
from engines.backends import BACKENDS
from engines.errors import SkimError
from engines.manifest import EngineRecord, Manifest
from engines.tokenization import Tokens
from pipeline.model.transformer import PrunedTransformer

_CLOSE = 0.02
"""Share by which a range may differ: sums in another order move values, and a method picks one of 200 candidates."""


def engine_differences(folder: Path, manifest: Manifest, records: Sequence[EngineRecord], again: Path) -> list[str]:
    """What differs in engines that are the same on every machine, from their graphs and buckets; a line each.

    again: an empty folder, where they are made.
    """
    problems = []
    backends = {backend.target: backend for backend in reversed(BACKENDS)}
    for record in records:
        made = again / record.file
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            # For all buckets of the stage: where another precision is faster for some, an engine is not used for them.
            buckets = manifest.plan.buckets_of(record.stage)
            backends[record.target].build(folder / source_of(record, manifest), buckets, made)
        except SkimError as error:
            problems.append(f"{record.file}: cannot be made from its graph: {error}")
            continue
        if not _same(folder / record.file, made):
            problems.append(f"{record.file}: not the engine that its graph gives")
    engines = {again / record.file for record in records}
    for made in sorted(path for path in again.rglob("*") if path.is_file() and path not in engines):
        name = made.relative_to(again).as_posix()  # the weights that several engines share
        if name not in manifest.files or not _same(folder / name, made):
            problems.append(f"{name}: not the weights of its graph")
    return problems


def source_of(record: EngineRecord, manifest: Manifest) -> str:
    """The graph that an engine is made from."""
    plain = manifest.plan.graphs[record.stage]
    if record.precision != "int8" or record.stage == "head":
        return plain
    return manifest.plan.stages[record.stage].int8_graph or plain


def range_differences(model: PrunedTransformer, calibration: Calibration, samples: Sequence[Tokens]) -> list[str]:
    """The layers whose range no method gives on the calibration texts; a line each.

    samples: the calibration texts, as many as there were.
    """
    scheme = calibration.scheme
    if not scheme.ranges:
        return []
    histograms = collect_histograms(model, samples[:RANGED])
    methods: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")
    schemes = [choose_ranges(histograms, method) for method in methods]
    smooth = equalised(model, histograms)
    problems = []
    for layer, found in scheme.ranges.items():
        if layer in scheme.shifts:
            wanted = [smooth.ranges[layer]] if _near_shifts(scheme.shifts[layer], smooth.shifts.get(layer)) else []
        else:
            wanted = [known.ranges[layer] for known in schemes if layer in known.ranges]
        if not any(abs(found - other) <= _CLOSE * other for other in wanted):
            listed = ", ".join(f"{other:.4g}" for other in wanted) or "other divisors"
            problems.append(f"calibration.json: range of {layer}: the texts give {listed}, found {found:.4g}")
    return problems


def _near_shifts(found: Sequence[int], expected: Sequence[int] | None) -> bool:
    """Whether exponents are the same but for what rounds to either side."""
    return expected is not None and len(found) == len(expected) and sum(map(int.__ne__, found, expected)) <= 1


def _same(ours: Path, made: Path) -> bool:
    return ours.is_file() and filecmp.cmp(ours, made, shallow=False)
