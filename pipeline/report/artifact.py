"""The report of an artifact: its checks, what could not be checked, stages, retention, buckets, timings, provenance."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from pydantic import BaseModel, ValidationError

from calib.retention import FILE as RETENTION_FILE
from calib.retention import RetentionStatistics
from engines.artifact import Artifact
from engines.errors import InputError, validation_problems
from engines.manifest import BENCH_NAME, EngineRecord, Manifest
from engines.memory import memory_bytes
from engines.plan import Plan
from engines.precisions import told
from pipeline.builder.measure import Timing, speedups
from pipeline.report.charts import retention_chart
from pipeline.report.page import write_page

_STATUSES = ("PASSED", "FAILED", "SKIPPED")


class Bench(BaseModel):
    """bench.json: the FLOPs ratio over the texts that are timed, and the timings of the artifact and of the dense one.

    max_length: tokens at which the texts were cut for both.
    """

    flops_ratio: float
    max_length: int
    machine: dict[str, str | int | None]
    versions: dict[str, str]
    timings: list[Timing]


def write_artifact_report(artifact: Path, out: Path | None = None) -> Path:
    """Writes the report of an artifact whose files match their digests, and returns its path.

    out: the file; by default <artifact>.report.html beside the artifact. Never inside: those files are digested.
    Raises InputError when the artifact is missing or damaged, or when the file cannot be written there.
    """
    opened = Artifact.open(artifact)
    directory = artifact.resolve()
    target = out if out is not None else directory.with_name(f"{directory.name}.report.html")
    if target.resolve().is_relative_to(directory):
        raise InputError(
            f"--out {target}: lies inside the artifact, whose files are fixed by digests; choose a file outside it"
        )
    manifest = opened.manifest
    bench = _bench(opened)
    return write_page(
        "artifact.html",
        target,
        name=directory.name,
        m=manifest,
        size=sum(opened.sizes.values()),
        memory=_memory(opened),
        precisions=told(manifest.compared),
        statuses={status: sum(gate.status == status for gate in manifest.gates) for status in _STATUSES},
        engines=Counter((engine.target, engine.precision) for engine in manifest.engines),
        profiles=Counter((e.target, e.precision) for e in manifest.engines for _ in e.profiles),
        graph_sizes=_graph_sizes(opened, manifest),
        buckets=_buckets(manifest.plan),
        retention=_retention(opened),
        retention_chart=retention_chart,
        bench=bench,
        times_dense=_times_dense(bench.timings) if bench else {},
    )


def _memory(artifact: Artifact) -> dict[tuple[str, str], int]:
    """Bytes that the engines take when all are loaded, by target and precision."""
    engines: dict[tuple[str, str], list[EngineRecord]] = defaultdict(list)
    for engine in artifact.manifest.engines:
        engines[engine.target, engine.precision].append(engine)
    return {key: memory_bytes(artifact.manifest, records, artifact.sizes) for key, records in engines.items()}


def _buckets(plan: Plan) -> list[tuple[str, int, list[int]]]:
    """Returns the bucket lengths by unit and batch size, ascending."""
    rows = []
    for unit in plan.units:
        lengths: dict[int, list[int]] = defaultdict(list)
        for bucket in sorted(plan.buckets_of(unit)):
            lengths[bucket.batch].append(bucket.length)
        name = unit.capitalize() if isinstance(unit, str) else f"Stage {unit}"
        rows += [(name, batch, sizes) for batch, sizes in lengths.items()]
    return rows


def _graph_sizes(artifact: Artifact, manifest: Manifest) -> dict[str, int]:
    """Bytes of every graph of the plan."""
    return {graph: artifact.file(graph).stat().st_size for graph in manifest.plan.graphs.values()}


def _retention(artifact: Artifact) -> RetentionStatistics | None:
    """Returns the retention that the build counted; None for a model that decides nothing. Raises InputError."""
    if RETENTION_FILE not in artifact.manifest.files:
        return None
    return RetentionStatistics.read(artifact.file(RETENTION_FILE))


def _bench(artifact: Artifact) -> Bench | None:
    """Returns the build's timings; None if it made none. Raises InputError for a file of another form."""
    if BENCH_NAME not in artifact.manifest.files:
        return None
    path = artifact.file(BENCH_NAME)
    try:
        return Bench.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError.listing(str(path), validation_problems(error)) from None


def _times_dense(timings: list[Timing]) -> dict[tuple[str, int], float]:
    """How many times faster than dense, by name and batch, where dense was timed at that batch."""
    batches = {timing.batch for timing in timings if timing.name == "dense"}
    comparable = [timing for timing in timings if timing.batch in batches]
    names = {timing.name for timing in comparable}
    return {(name, batch): ratio for name in names for batch, ratio in speedups(comparable, name, "dense").items()}
