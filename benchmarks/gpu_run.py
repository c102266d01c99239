"""Measures the kernels and the shipped models on this machine's GPU, and writes one results file.

python -m benchmarks.gpu_run [--targets tensorrt] [--methods dense,ltp] [--precisions fp16] [--minutes 25] [--out FILE]

`make test-gpu` runs it behind the tests that need a GPU. Kernels and regrouping need no engine library and come first;
then every target that the machine can run is built, checked by the gates of a build and timed. The file is written
anew behind every step. Exit codes: 0 everything passed, 3 something failed (the rest is measured all the same), 4 this
machine has no GPU that can be used; it says what is missing.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gpu_cases import (
    DATA,
    LIBRARIES,
    METHODS,
    Variant,
    build_case,
    describe_machine,
    flops_ratio_of,
    shapes_of,
    time_cases,
)
from benchmarks.gpu_results import (
    BATCHES,
    DEFAULT,
    Case,
    Compaction,
    GpuResults,
    Machine,
    Regroup,
    Timing,
    markdown_table,
)
from benchmarks.regroup_gpu import regroup_costs
from benchmarks.token_compact_gpu import compaction_costs
from calib.data import read_examples
from engines.backends import BACKENDS, Backend
from engines.backends.cuda_device import cuda_device, missing_cuda
from engines.buckets import parse_buckets
from engines.errors import InputError, SkimError, TargetError
from engines.tokenization import Text
from engines.version import __version__
from pipeline.cli import main_of


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu_run", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--out", type=Path, default=DEFAULT, help="results file (default benchmarks/results/gpu.json)")
    p.add_argument("--artifacts", type=Path, default=Path("demo/output/gpu"), help="where the artifacts are built")
    p.add_argument("--targets", default=",".join(LIBRARIES), help="'' for the kernels alone (default: all)")
    p.add_argument("--methods", default=",".join(METHODS), help="beside dense, which is always built (default: all)")
    p.add_argument("--precisions", default="fp16,fp32", help="of the engines (default fp16,fp32)")
    p.add_argument("--buckets", help="shapes to compile (default: 6 lengths, 2 for torch, in 4 batch sizes)")
    p.add_argument("--texts", type=int, default=512, help="reviews that are timed (default 512)")
    p.add_argument("--rounds", type=int, default=5, help="times that every chunk is timed (default 5)")
    p.add_argument("--minutes", type=float, help="no step is started behind so many (default: no limit)")
    p.add_argument("--check", action="store_true", help="only say whether this machine can; exit code 4 if not")
    return p


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and what failed or was not run."""
    refuse_unknown(args)
    console, skipped = Console(), dict[str, str]()
    backends = usable_backends([b for b in BACKENDS if b.target in _parts(args.targets)], console, skipped)
    if args.check:
        return 0
    session = Session(args, console, skipped)
    session.measure_kernels()
    for backend, precision in itertools.product(backends, _parts(args.precisions)):
        session.measure_target(backend, precision)
    session.write()
    results = session.results()
    if not (results.cases or results.compaction or results.regroup):
        raise SkimError("nothing was measured:\n" + "\n".join(f"{k}: {v}" for k, v in session.failed.items()))
    print(markdown_table(results))
    for name in session.not_run:
        console.print(f"NOT RUN {name}: {args.minutes:g} minutes were over", highlight=False)
    console.print(f"written to {args.out}; commit it and put the table into README.md and docs/gpu.md")
    return 3 if session.failed else 0


def refuse_unknown(args: argparse.Namespace) -> None:
    """Raises InputError for targets, methods or precisions that are not known, all at once."""
    known = {"targets": tuple(LIBRARIES), "methods": METHODS, "precisions": ("fp32", "fp16", "bf16", "int8")}
    problems = [
        f"--{name}: expected some of {', '.join(values)}, found {part}"
        for name, values in known.items()
        for part in _parts(getattr(args, name))
        if part not in values
    ]
    if problems:
        raise InputError.listing("arguments", problems)


def usable_backends(
    backends: Sequence[Backend], console: Console, skipped: dict[str, str] | None = None
) -> list[Backend]:
    """The backends of GPU targets that this machine can run; says, and puts into `skipped`, why the others cannot.

    Raises TargetError, with everything that is missing, when there is none and the kernels cannot run either.
    """
    wanted = [backend for backend in backends if backend.target in LIBRARIES and not backend.on_cpu]
    reasons = {backend: backend.cannot_run(backend.options_here()) for backend in wanted}
    lines = [f"  - {backend.target}: {reason}" for backend, reason in reasons.items() if reason is not None]
    usable = [backend for backend, reason in reasons.items() if reason is None]
    no_kernels = missing_cuda()
    if not usable and no_kernels is not None:
        lines.append(f"  - the kernels: {no_kernels}")
        raise TargetError("this machine cannot run a GPU target; missing:\n" + "\n".join(lines))
    for line in lines:
        console.print(f"SKIPPED{line}", highlight=False)
    if skipped is not None:
        skipped.update({backend.target: reason for backend, reason in reasons.items() if reason is not None})
    return usable


@dataclass
class Session:
    """One run of the benchmark: what it has found so far, which is in the results file behind every step."""

    args: argparse.Namespace
    console: Console
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    not_run: list[str] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    regroup: list[Regroup] = field(default_factory=list)
    compaction: list[Compaction] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=lambda: time.monotonic())

    @functools.cached_property
    def texts(self) -> list[Text]:
        """The reviews that are timed."""
        return [example.content for example in read_examples(DATA, "test")[: self.args.texts]]

    @functools.cached_property
    def machine(self) -> Machine:
        """This machine, described once."""
        return describe_machine()

    def measure_kernels(self) -> None:
        """What needs no engine library."""
        self.compaction = self.attempt("TokenCompact", compaction_costs) or []
        self.regroup = self.attempt("regrouping", lambda: regroup_costs(cuda_device())) or []
        self.write()

    def measure_target(self, backend: Backend, precision: str) -> None:
        """Builds dense, then every other variant, each of which is timed against dense as soon as it is there."""
        dense = Variant("dense", backend, precision, plugin=False)
        path = self.build(dense)
        if path is None:
            return
        pruned = [method for method in METHODS if method != "dense" and method in _parts(self.args.methods)]
        variants = [Variant(m, backend, precision, plugin) for m, plugin in itertools.product(pruned, (True, False))]
        compiled = {bucket.batch for bucket in parse_buckets(shapes_of(backend, self.args.buckets))}
        for variant in variants or [dense]:
            other = path if variant == dense else self.build(variant)
            if other is None:
                continue
            paths = {dense.name: path, variant.name: other}
            for batch in sorted(compiled.intersection(BATCHES)):
                name = f"timing of {variant.name} at batch {batch}"
                found = self.attempt(name, time_cases, paths, backend, self.texts, batch, self.args.rounds)
                self.keep(found or [])

    def build(self, variant: Variant) -> Path | None:
        """Builds an artifact and notes the case; its path, None where it failed or was not run."""
        found = self.attempt(
            variant.name, lambda: build_case(variant, self.flops(variant.method), self.args, self.console)
        )
        if found is None:
            return None
        case, path = found
        self.cases.append(case)
        self.write()
        return path

    def keep(self, timings: Sequence[Timing]) -> None:
        """Adds timings; of the dense model, which is timed beside every other one, the first."""
        known = {(t.case, t.batch, t.cuda_graphs) for t in self.timings}
        self.timings += [t for t in timings if (t.case, t.batch, t.cuda_graphs) not in known]
        self.write()

    def flops(self, method: str) -> float:
        """FLOPs of the dense model over those of a method."""
        if method not in self.ratios:
            self.ratios[method] = flops_ratio_of(method, self.args.texts)
        return self.ratios[method]

    def attempt(self, name: str, work: Callable[..., Any], *arguments: object) -> Any:
        """What `work` gives; None where it fails or the time is over, which is noted, and the rest is measured."""
        if self.args.minutes is not None and time.monotonic() - self.started > 60 * self.args.minutes:
            self.not_run.append(name)
            return None
        try:
            return work(*arguments)
        except Exception as error:
            self.failed[name] = str(error).partition("\n")[0] or type(error).__name__
            if not isinstance(error, SkimError):  # not one of ours: where it comes from is all that there is to go by
                self.console.print("".join(traceback.format_exception(error)), highlight=False, markup=False)
            self.console.print(f"FAILED {name}: {error}", highlight=False, markup=False, style="red")
            return None

    def results(self) -> GpuResults:
        """All that is known so far."""
        return GpuResults(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            skimrt_version=__version__,
            machine=self.machine,
            data=DATA,
            texts=self.args.texts,
            cases=self.cases,
            timings=self.timings,
            regroup=self.regroup,
            compaction=self.compaction,
            skipped=self.skipped,
            failed=self.failed,
            not_run=self.not_run,
        )

    def write(self) -> None:
        """Writes the results file, if there is anything to write."""
        if not (self.cases or self.compaction or self.regroup):
            return
        self.args.out.parent.mkdir(parents=True, exist_ok=True)
        self.args.out.write_text(self.results().model_dump_json(indent=1) + "\n", "utf-8")


def _parts(value: str) -> list[str]:
    return [part for part in value.split(",") if part]


if __name__ == "__main__":
    main_of(parser, run)
