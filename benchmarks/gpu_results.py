"""What `make test-gpu` measures on a GPU host, as a file that can be committed, and the table that is made from it.

python -m benchmarks.gpu_results --table [benchmarks/results/gpu.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.errors import InputError, validation_problems
from engines.manifest import Gate
from pipeline.cli import main_of

DEFAULT = Path(__file__).resolve().parent / "results" / "gpu.json"
NOT_MEASURED = "No GPU has run SkimRT yet: **not measured**. `make test-gpu` on a GPU host measures and fills this in."
BATCHES = (1, 8, 32, 128)
"""Texts of a call: a GPU is busy from about 32 on."""
_EACH = "batch " + " / ".join(map(str, BATCHES))

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(_Strict):
    """The GPU host."""

    gpu: str
    compute_capability: str
    driver: str | None
    cuda: str
    processor: str
    tools: dict[str, str]


class Case(_Strict):
    """One artifact: what was built, and what its checks found.

    plugin:      TokenCompact is our plugin, otherwise the operator's function body. The dense model has neither.
    flops_ratio: FLOPs of the dense model over those of this one, on the texts that are timed.
    """

    method: str
    target: Literal["torch", "tensorrt", "tensorrt-rtx"]
    precision: str
    plugin: bool
    engines: Count
    engine_bytes: Count
    build_seconds: Positive
    accuracy: Annotated[float, Field(ge=0, le=1)] | None
    flops_ratio: Positive
    gates: list[Gate] = Field(min_length=1)

    @property
    def name(self) -> str:
        """Such as ltp tensorrt fp16 plugin."""
        return " ".join([self.method, self.target, self.precision, "plugin" if self.plugin else "body"])


class Timing(_Strict):
    """Seconds for all texts, texts in, labels out: the sum of each chunk's median over the rounds.

    dense_seconds: of the dense model, taken in turn with this one on the same chunks.
    """

    case: str
    batch: Count
    cuda_graphs: bool
    streams: Count
    seconds: Positive
    dense_seconds: Positive


class Regroup(_Strict):
    """Time of one regroup of a full bucket on the device, of rows that the level-2 cache holds if they fit."""

    batch: Count
    length: Count
    row_bytes: Count
    microseconds: Positive

    @property
    def gigabytes_per_second(self) -> float:
        """Read and written: the rows with their alive bit and position."""
        return 2 * self.batch * self.length * (self.row_bytes + 8) / self.microseconds / 1e3


class Compaction(_Strict):
    """Time of one TokenCompact, and the bandwidth of a copy of the same rows; both cold in the level-2 cache."""

    device: str
    batch: Count
    length: Count
    capacity: Count
    width: Count
    dtype: str
    bytes_that_must_move: Count
    microseconds: Positive
    gigabytes_per_second: Positive
    copy_gigabytes_per_second: Positive

    @property
    def ratio(self) -> float:
        """The kernel's bandwidth over the copy's."""
        return self.gigabytes_per_second / self.copy_gigabytes_per_second


class GpuResults(_Strict):
    """Everything that one run of `make test-gpu` found. Timings name cases; every case has a dense one beside it.

    skipped: why a target cannot run here. failed: what went wrong, by step. not_run: steps behind the time budget.
    """

    schema_version: Literal[2] = 2
    created: str
    skimrt_version: str
    machine: Machine
    data: str
    texts: Count
    cases: list[Case]
    timings: list[Timing]
    regroup: list[Regroup]
    compaction: list[Compaction]
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    not_run: list[str] = []

    @model_validator(mode="after")
    def _parts_fit(self) -> GpuResults:
        names = [case.name for case in self.cases]
        problems = [f"cases: {name} is listed twice" for name in sorted({n for n in names if names.count(n) > 1})]
        keys = [(t.case, t.batch, t.cuda_graphs) for t in self.timings]
        problems += [f"timings: {key} is listed twice" for key in sorted({k for k in keys if keys.count(k) > 1})]
        problems += [
            f"timings: there is no case {name!r}" for name in sorted({t.case for t in self.timings} - set(names))
        ]
        for case in self.cases:
            if self._dense(case) is None:
                problems.append(f"cases: {case.target} {case.precision} lacks the dense model to compare with")
        if problems:
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    def timing(self, case: Case, batch: int, cuda_graphs: bool = True) -> Timing | None:
        """The time of a case, None if it was not taken."""
        for timing in self.timings:
            if (timing.case, timing.batch, timing.cuda_graphs) == (case.name, batch, cuda_graphs):
                return timing
        return None

    def speedup(self, case: Case, batch: int) -> float | None:
        """How many times faster a case is than the dense model of the same target and precision."""
        timing = self.timing(case, batch)
        return None if timing is None else timing.dense_seconds / timing.seconds

    def gain_of_graphs(self, case: Case, batch: int) -> float | None:
        """How many times faster CUDA graphs make a case."""
        plain, graphs = self.timing(case, batch, cuda_graphs=False), self.timing(case, batch)
        return None if plain is None or graphs is None else plain.seconds / graphs.seconds

    def gain_of_plugin(self, case: Case, batch: int) -> float | None:
        """How many times faster a case with the plugin is than the same with the operator's function body."""
        kind = (case.method, case.target, case.precision)
        body = next((c for c in self.cases if (c.method, c.target, c.precision) == kind and not c.plugin), None)
        if body is None or not case.plugin:
            return None
        # The two were not timed in turns with each other, but each with the dense model.
        ours, theirs = self.speedup(case, batch), self.speedup(body, batch)
        return None if ours is None or theirs is None else ours / theirs

    def _dense(self, case: Case) -> Case | None:
        kind = ("dense", case.target, case.precision)
        return next((c for c in self.cases if (c.method, c.target, c.precision) == kind), None)


def read_results(path: Path) -> GpuResults | None:
    """The results of a file, None when there is none. Raises InputError for a file that holds no such results."""
    if not path.is_file():
        return None
    try:
        return GpuResults.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError.listing(str(path), validation_problems(error)) from None


def markdown_table(results: GpuResults | None) -> str:
    """The table of the README and of docs/gpu.md; NOT_MEASURED when there are no results.

    A run on a GPU that no target supports has figures of the kernels alone, and no table.
    """
    if results is None:
        return NOT_MEASURED
    if not results.cases:
        return f"No target was measured: {_reasons(results)}.\n\n{_setting(results)}"
    head = ["model", "target", "precision", "compaction", "parity", "accuracy", "FLOPs"]
    head += [*(f"time, batch {batch}" for batch in BATCHES), *(f"{what}, {_EACH}" for what in ("graphs", "plugin"))]
    lines = [head, ["---"] * 5 + ["---:"] * (len(head) - 5)]
    for case in results.cases:
        compaction = "–" if case.method == "dense" else "plugin" if case.plugin else "function body"
        accuracy = "–" if case.accuracy is None else f"{case.accuracy:.4f}"
        cells = [
            case.method,
            case.target,
            case.precision,
            compaction,
            _parity(case),
            accuracy,
            _times(case.flops_ratio),
        ]
        cells += [_times(results.speedup(case, batch)) for batch in BATCHES]
        for gain in (results.gain_of_graphs, results.gain_of_plugin):
            cells.append(" / ".join(_times(gain(case, batch)) for batch in BATCHES))
        lines.append(cells)
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in lines), "", _setting(results)])


def _parity(case: Case) -> str:
    """The worst status of the gates; a check that could not be made is not one that was passed."""
    found = {gate.status for gate in case.gates}
    return next(status for status in ("FAILED", "SKIPPED", "PASSED") if status in found)


def _setting(results: GpuResults) -> str:
    machine = results.machine
    tools = ", ".join(f"{name} {version}" for name, version in sorted(machine.tools.items()))
    moves = "; ".join(
        f"{cost.batch}x{cost.length} rows of {cost.row_bytes} bytes {cost.microseconds:.1f} µs"
        for cost in results.regroup
    )
    ratios = ", ".join(f"{c.batch}x{c.length}x{c.width} {c.ratio:.2f}" for c in results.compaction)
    place = (
        f"on {machine.gpu} (compute capability {machine.compute_capability}, driver {machine.driver or 'unknown'}, "
        f"CUDA {machine.cuda}) and {machine.processor}; {tools}."
    )
    kernels = (
        f"TokenCompact's bandwidth over a copy's, cold: {ratios or 'not measured'}. Regrouping on the device, rows in "
        f"the level-2 cache where they fit: {moves or 'not measured'}."
    )
    if not results.cases:
        return f"Measured {place} {kernels}"
    return (
        f"{results.texts} texts of {results.data}, texts in, labels out, {place} FLOPs and time: how many times less "
        "than the dense model of the same target, precision, buckets and regrouping takes. Graphs, plugin: how many "
        "times less than without CUDA graphs, and than with the operator's function body. " + kernels
    )


def _reasons(results: GpuResults) -> str:
    reasons = [f"{target}: {reason}" for target, reason in results.skipped.items()]
    reasons += [f"{len(results.failed)} steps failed"] if results.failed else []
    reasons += [f"{len(results.not_run)} steps were behind the time budget"] if results.not_run else []
    return "; ".join(reasons) or "none was asked for"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}x"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_results",
        description="Checks a results file of make test-gpu and prints its table.",
    )
    told = "results file (default: the committed one)"
    p.add_argument("--table", type=Path, nargs="?", const=DEFAULT, default=DEFAULT, metavar="RESULTS.json", help=told)
    return p


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    if args.table != DEFAULT and not args.table.is_file():
        raise InputError(f"{args.table}: expected a results file of make test-gpu, found none")
    print(markdown_table(read_results(args.table)))
    return 0


if __name__ == "__main__":
    main_of(parser, run)
