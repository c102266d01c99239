"""Compiles the engines of a build: several at a time if memory allows, and only those that changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from pydantic import BaseModel, ConfigDict
from rich.progress import Progress

from engines.backends.base import Built
from engines.backends.layers import Layer, fused_attention, fusible_attention
from engines.buckets import Bucket
from engines.errors import BuildError
from engines.files import sha256
from engines.manifest import EngineRecord
from engines.plan import Unit, weights_file
from pipeline.builder.engine_key import engine_key
from pipeline.builder.failing import Errors, build_what_can_be
from pipeline.builder.publish import Publisher
from pipeline.builder.reuse import Previous
from pipeline.builder.target import BuildTarget

_SHOWN = 3
"""The number of failed engines whose logs an error shows."""


class ProfileReport(BaseModel):
    """What the library made of a stage for one bucket. fused: attentions that became one kernel."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: Bucket
    fused: int
    layers: tuple[Layer, ...]


class EngineReport(BaseModel):
    """What compiling one engine took, and its layers; the JSON file beside the engine.

    fusible: attentions of the stage that feed no score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float
    peak_bytes: int
    size: int
    fusible: int
    profiles: tuple[ProfileReport, ...]


@dataclass(frozen=True)
class Job:
    """One engine to compile, with a profile for each of its buckets."""

    unit: Unit
    graph: str
    buckets: tuple[Bucket, ...]
    file: str
    key: str

    @property
    def report(self) -> str:
        """The engine's report, beside it."""
        return str(Path(self.file).with_suffix(".json"))


@dataclass
class Compiled:
    """The engines that there are, and by bucket why a profile is missing: a line, then the end of its log."""

    records: list[EngineRecord] = field(default_factory=list)
    failed: dict[Bucket, str] = field(default_factory=dict)


class Compilation:
    """The engines of one build.

    graphs: graph of every unit. steps: steps of every stage, such as "attend 2".
    previous: what there is already, whose engines are taken where their key is the same.
    jobs:   engines compiled at a time; None: as many as memory and cores allow.
    """

    def __init__(
        self,
        target: BuildTarget,
        graphs: Mapping[Unit, str],
        steps: Sequence[Sequence[str]],
        publisher: Publisher,
        previous: Previous,
        jobs: int | None,
    ) -> None:
        self._root, self._target, self._graphs, self._steps = publisher.path, target, graphs, steps
        self._publisher, self._previous, self._jobs = publisher, previous, jobs
        machine = "" if target.binding is None else f"/{target.binding.machine}"
        self.folder = f"engines/{target.backend.target}-{target.precision}{machine}"

    def run(self, buckets: Mapping[Unit, Sequence[Bucket]], progress: Progress) -> Compiled:
        """Compiles the missing buckets of every unit. A profile that fails does not keep the others
        from being built.

        Raises InputError for a graph that cannot be read, and BuildError if no bucket is complete.
        """
        (self._root / self.folder).mkdir(parents=True, exist_ok=True)
        jobs, compiled = self._all_jobs(buckets), Compiled()
        label = f"engines ({self._target.backend.target}, {self._target.precision})"
        task = progress.add_task(label, total=len(jobs))
        self._previous.take_timings(self.folder)
        missing = [job for job in jobs if not self._is_there(job) and not self._take(job)]
        progress.advance(task, len(jobs) - len(missing))
        errors: dict[Job, Errors] = {}
        for job, failures in self._compile(missing, progress):
            if failures:
                errors[job] = failures
            else:
                self._publisher.mark(_step(job))
            progress.advance(task)
        self._previous.share_timings(self.folder)
        for job in jobs:  # in their order, not in that in which they failed
            for bucket, error in errors.get(job, {}).items():
                compiled.failed.setdefault(bucket, str(error))
        if len(compiled.failed) == len({bucket for asked in buckets.values() for bucket in asked}):
            self._refuse_nothing(jobs, errors)
        for job in jobs:  # what other stages have of a bucket that one of them lacks is of no use
            whole = tuple(bucket for bucket in job.buckets if bucket not in compiled.failed)
            if whole:
                compiled.records.append(self._record(job, whole))
        return compiled

    @staticmethod
    def _refuse_nothing(jobs: Sequence[Job], errors: Mapping[Job, Errors]) -> None:
        """Raises BuildError with the logs of the first profiles that failed."""
        lines = [str(error) for job in jobs for error in errors.get(job, {}).values()]
        count = sum(len(job.buckets) for job in jobs)
        logs = "\n".join(f"  - {line}" for line in dict.fromkeys(lines[:_SHOWN]))
        raise BuildError(f"{len(lines)} of {count} profiles could not be compiled\n{logs}")

    def report_of(self, record: EngineRecord) -> EngineReport:
        """The report of an engine that has one."""
        assert record.report is not None
        return EngineReport.model_validate_json((self._root / record.report).read_bytes())

    def graph_of(self, record: EngineRecord) -> Path:
        """The graph that an engine is compiled from."""
        return self._root / self._graphs[record.stage]

    def _all_jobs(self, buckets: Mapping[Unit, Sequence[Bucket]]) -> list[Job]:
        jobs = []
        for unit, graph in self._graphs.items():
            digest, asked = sha256(self._root / graph), tuple(sorted(buckets[unit]))
            alone = self._target.backend.most_profiles == 1
            for profiles in [(bucket,) for bucket in asked] if alone else [asked]:
                name = self._target.backend.engine_name(unit, profiles[0] if alone else None)
                key = engine_key(digest, profiles, self._target)
                jobs.append(Job(unit, graph, profiles, f"{self.folder}/{name}", key))
        return jobs

    def _is_there(self, job: Job) -> bool:
        """Returns whether the resumed build has compiled the engine and has not since replaced it by a faster one."""
        return self._publisher.done(_step(job)) and (self._root / job.file).is_file()

    def _take(self, job: Job) -> bool:
        """Takes an engine with the same key and all its profiles from the artifact that is replaced, if that is worth
        it."""
        if not self._target.backend.isolated or not self._previous.take(job.key, job.file, job.buckets):
            return False
        self._publisher.mark(_step(job))
        return True

    def _compile(self, jobs: Sequence[Job], progress: Progress) -> Iterator[tuple[Job, Errors]]:
        if not self._target.backend.isolated:
            for job in jobs:
                self._target.backend.build(
                    self._root / job.graph, job.buckets, self._root / job.file, self._target.options
                )
                yield job, {}
            return
        if not jobs:
            return
        stop = Event()
        rest = sorted(jobs, key=self._size, reverse=True)
        first = rest[0]
        if self._jobs is None:  # the largest one first and alone: it shows the most memory that one takes
            yield rest.pop(0), self._attempt(first, progress, stop)
        with ThreadPoolExecutor(self._parallel(first)) as pool:
            futures: dict[Future[Errors], Job] = {pool.submit(self._attempt, job, progress, stop): job for job in rest}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _attempt(self, job: Job, progress: Progress, stop: Event) -> Errors:
        """Builds an engine and its report; which profiles it had to be built without, and why."""
        with _line(progress, Path(job.file).stem) as show:

            def report(phase: str, done: float) -> None:
                if stop.is_set():
                    raise _Stopped
                show(phase, done)

            def build(buckets: Sequence[Bucket], out: Path) -> Built:
                return self._target.backend.build(self._root / job.graph, buckets, out, self._target.options, report)

            built, errors = build_what_can_be(job.unit, job.buckets, self._root / job.file, build)
        if built is not None:
            self._write_report(job, built)
        return errors

    def _write_report(self, job: Job, built: Built) -> None:
        assert built.seconds is not None and built.peak_bytes is not None
        steps = [] if isinstance(job.unit, str) else self._steps[job.unit]
        profiles = [
            ProfileReport(bucket=bucket, fused=fused_attention(layers), layers=layers)
            for bucket, layers in built.layers.items()
        ]
        report = EngineReport(
            seconds=round(built.seconds, 3),
            peak_bytes=built.peak_bytes,
            size=(self._root / job.file).stat().st_size,
            fusible=fusible_attention(steps),
            profiles=tuple(profiles),
        )
        (self._root / job.report).write_text(report.model_dump_json(indent=1) + "\n", "utf-8")

    def _size(self, job: Job) -> tuple[int, int]:
        """What the memory of a builder grows with: the weights, then the rows."""
        return (self._root / job.graph).stat().st_size, max(bucket.batch * bucket.length for bucket in job.buckets)

    def _parallel(self, first: Job) -> int:
        if self._jobs is not None:
            return self._jobs
        if self._target.backend.needs_device_to_build:
            return 1  # engines compiled side by side would disturb each other's timings
        try:
            peak = EngineReport.model_validate_json((self._root / first.report).read_bytes()).peak_bytes
        except OSError:  # it failed
            return 1
        return builders_side_by_side(peak)

    def _record(self, job: Job, profiles: tuple[Bucket, ...]) -> EngineRecord:
        weights = weights_file(job.file)
        return EngineRecord(
            stage=job.unit,
            profiles=profiles,
            target=self._target.backend.target,
            precision=self._target.precision,
            file=job.file,
            weights=weights if (self._root / weights).is_file() else None,
            key=job.key,
            binding=self._target.binding,
            report=job.report if self._target.backend.isolated else None,
        )


class _Stopped(Exception):
    """Ends a compilation because another one has ended the build."""


def _step(job: Job) -> str:
    """Returns the mark of a finished engine: the file, and what it was made from."""
    return f"{job.file} {job.key}"


@contextmanager
def _line(progress: Progress, name: str) -> Iterator[Callable[[str, float], None]]:
    """A line of its own for an engine while it is compiled."""
    task = progress.add_task(f"  {name}", total=1.0)
    try:
        yield lambda phase, done: progress.update(task, completed=done, description=f"  {name}: {phase}")
    finally:
        progress.remove_task(task)


_SHARE_OF_MEMORY = 0.8
"""The share of free memory that all builders together may use."""


def builders_side_by_side(peak_bytes: int) -> int:
    """Returns how many builders of that size fit the free memory: at least one, at most one per core."""
    return max(1, min(len(os.sched_getaffinity(0)), int(_SHARE_OF_MEMORY * _free_memory() // peak_bytes)))


def _free_memory() -> int:
    """Returns the bytes that are free without swapping; only Linux counts them, elsewhere those of unused pages."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
