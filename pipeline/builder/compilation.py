"""Compiles the engines of a build: several at a time where memory allows, resumed, and reused where nothing changed."""

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

from engines.artifact import EngineRecord, Unit
from engines.backends.layers import Layer, fused_attention, fusible_attention
from engines.buckets import Bucket
from engines.errors import BuildError
from engines.files import sha256
from pipeline.builder.engine_key import engine_key
from pipeline.builder.publish import Publisher
from pipeline.builder.reuse import Previous
from pipeline.builder.target import BuildTarget

_SHOWN = 3
"""Failed engines whose log an error shows."""


class EngineReport(BaseModel):
    """What compiling one engine took, and what the library made of it; the JSON file beside the engine.

    fusible: attentions of the stage that feed no score. fused: attentions that became one kernel.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float
    peak_bytes: int
    size: int
    fusible: int
    fused: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Job:
    """One engine to compile."""

    unit: Unit
    graph: str
    bucket: Bucket
    file: str
    key: str

    @property
    def report(self) -> str:
        """The engine's report, beside it."""
        return str(Path(self.file).with_suffix(".json"))


@dataclass
class Compiled:
    """The engines that there are, and by bucket why one is missing: a line, then the end of its log."""

    records: list[EngineRecord] = field(default_factory=list)
    failed: dict[Bucket, str] = field(default_factory=dict)


class Compilation:
    """The engines of one build.

    graphs: graph of every unit. steps: steps of every stage, such as "attend 2".
    held:   what there is already, whose engines are taken where their key is the same.
    jobs:   engines compiled at a time; None: as many as memory and cores allow.
    """

    def __init__(
        self,
        target: BuildTarget,
        graphs: Mapping[Unit, str],
        steps: Sequence[Sequence[str]],
        publisher: Publisher,
        held: Previous,
        jobs: int | None,
    ) -> None:
        self._root, self._target, self._graphs, self._steps = publisher.path, target, graphs, steps
        self._publisher, self._held, self._jobs = publisher, held, jobs
        place = "" if target.binding is None else f"/{target.binding.place}"
        self.folder = f"engines/{target.backend.target}-{target.precision}{place}"

    def run(self, buckets: Mapping[Unit, Sequence[Bucket]], progress: Progress) -> Compiled:
        """Compiles what is not there yet of the buckets of every unit. One engine's failure does not keep the others
        from being built.

        Raises InputError for a graph that cannot be read, and BuildError when no bucket is complete.
        """
        (self._root / self.folder).mkdir(parents=True, exist_ok=True)
        jobs, compiled = self._all_jobs(buckets), Compiled()
        label = f"engines ({self._target.backend.target}, {self._target.precision})"
        task = progress.add_task(label, total=len(jobs))
        self._held.take_timings(self.folder)
        missing = [job for job in jobs if not self._is_there(job) and not self._take(job)]
        progress.advance(task, len(jobs) - len(missing))
        errors: dict[Job, BuildError] = {}
        for job, error in self._compile(missing, progress):
            if error is None:
                self._publisher.mark(_step(job))
            else:
                errors[job] = error
            progress.advance(task)
        self._held.share_timings(self.folder)
        for job in jobs:  # in their order, not in that in which they failed
            if job in errors:
                compiled.failed.setdefault(job.bucket, str(errors[job]))
        if len(compiled.failed) == len({bucket for held in buckets.values() for bucket in held}):
            logs = "\n".join(f"  - {error}" for error in list(errors.values())[:_SHOWN])
            raise BuildError(f"{len(errors)} of {len(jobs)} engines could not be compiled\n{logs}")
        compiled.records = [self._record(job) for job in jobs if job.bucket not in compiled.failed]
        for job in jobs:
            if job.bucket in compiled.failed:  # what other stages have of it is of no use
                (self._root / job.file).unlink(missing_ok=True)
                (self._root / job.report).unlink(missing_ok=True)
        return compiled

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
            digest = sha256(self._root / graph)
            for bucket in buckets[unit]:
                key = engine_key(digest, bucket, self._target)
                file = f"{self.folder}/{self._target.backend.engine_name(unit, bucket)}"
                jobs.append(Job(unit, graph, bucket, file, key))
        return jobs

    def _is_there(self, job: Job) -> bool:
        """Whether the build that is resumed has compiled it, and it was not given up for a faster one since."""
        return self._publisher.done(_step(job)) and (self._root / job.file).is_file()

    def _take(self, job: Job) -> bool:
        """Takes an engine with the same key from the held artifact, where engines are files of their own."""
        if not self._target.backend.isolated or not self._held.take(job.key, job.file):
            return False
        self._publisher.mark(_step(job))
        return True

    def _compile(self, jobs: Sequence[Job], progress: Progress) -> Iterator[tuple[Job, BuildError | None]]:
        if not self._target.backend.isolated:
            for job in jobs:
                self._target.backend.build(
                    self._root / job.graph, job.bucket, self._root / job.file, self._target.options
                )
                yield job, None
            return
        if not jobs:
            return
        stop = Event()
        # The largest one first and alone, to see how much memory one takes at most.
        first, *rest = sorted(jobs, key=self._size, reverse=True)
        yield first, self._attempt(first, progress, stop)
        with ThreadPoolExecutor(self._parallel(first)) as pool:
            futures: dict[Future[BuildError | None], Job] = {
                pool.submit(self._attempt, job, progress, stop): job for job in rest
            }
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _attempt(self, job: Job, progress: Progress, stop: Event) -> BuildError | None:
        with _line(progress, Path(job.file).stem) as show:

            def report(phase: str, done: float) -> None:
                if stop.is_set():
                    raise _Stopped
                show(phase, done)

            graph, out = self._root / job.graph, self._root / job.file
            try:
                built = self._target.backend.build(graph, job.bucket, out, self._target.options, report)
            except BuildError as error:
                return error
        assert built.seconds is not None and built.peak_bytes is not None
        steps = [] if isinstance(job.unit, str) else self._steps[job.unit]
        found = EngineReport(
            seconds=round(built.seconds, 3),
            peak_bytes=built.peak_bytes,
            size=out.stat().st_size,
            fusible=fusible_attention(steps),
            fused=fused_attention(built.layers),
            layers=built.layers,
        )
        (self._root / job.report).write_text(found.model_dump_json(indent=1) + "\n", "utf-8")
        return None

    def _size(self, job: Job) -> tuple[int, int]:
        """What the memory of a builder grows with: the weights, then the rows."""
        return (self._root / job.graph).stat().st_size, job.bucket.batch * job.bucket.length

    def _parallel(self, first: Job) -> int:
        if self._jobs is not None:
            return self._jobs
        if self._target.backend.needs_device_to_build:
            return 1  # kernels that are timed side by side time each other
        try:
            peak = EngineReport.model_validate_json((self._root / first.report).read_bytes()).peak_bytes
        except OSError:  # it failed
            return 1
        return builders_side_by_side(peak)

    def _record(self, job: Job) -> EngineRecord:
        isolated = self._target.backend.isolated
        return EngineRecord(
            stage=job.unit,
            batch=job.bucket.batch,
            length=job.bucket.length,
            target=self._target.backend.target,
            precision=self._target.precision,
            file=job.file,
            key=job.key,
            binding=self._target.binding,
            report=job.report if isolated else None,
        )


class _Stopped(Exception):
    """Ends a compilation because another one has ended the build."""


def _step(job: Job) -> str:
    """What is marked as done: the file, and what it was made from."""
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
"""Of what is free, that they may take together."""


def builders_side_by_side(peak_bytes: int) -> int:
    """How many builders of that size the free memory holds; at least one, and not more than there are cores."""
    return max(1, min(len(os.sched_getaffinity(0)), int(_SHARE_OF_MEMORY * _free_memory() // peak_bytes)))


def _free_memory() -> int:
    """Bytes that can be taken without swapping; Linux counts them, elsewhere it is what nobody has."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
