"""Builds the shipped models for this machine's GPU, checks and times them, and writes one results file.

    python -m benchmarks.gpu_run [--out benchmarks/results/gpu.json]

`make test-gpu` runs it behind the tests that need a GPU. Exit codes: 0 everything passed, 3 something failed, such as a
gate of a build (the rest is measured all the same), 4 this machine cannot run any GPU target; it says what is missing.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.gpu_results import BATCHES, DEFAULT, Case, GpuResults, Machine, Regroup, Timing, markdown_table
from calib.data import read_examples
from engines.artifact import Artifact
from engines.backends import BACKENDS, Backend
from engines.backends.device import Device, Tensor
from engines.backends.gpu import find_gpu
from engines.buckets import Bucket
from engines.device_rows import Place, Rows
from engines.errors import SkimError, TargetError
from engines.machine import processor, tool_versions
from engines.runner import Runner
from engines.tokenization import Text
from engines.version import __version__
from pipeline.builder.config import DEMO, BuildConfig
from pipeline.builder.measure import alternate
from pipeline.builder.steps import build
from pipeline.builder.subject import Subject
from pipeline.cli import main_of, print_gates
from pipeline.model.flops import flops_ratio
from pipeline.model.retention import carried_rows

METHODS = ("dense", "ltp", "transkimmer")
DATA, BUDGET = "movie-reviews", 3.0
"""The shipped models' texts, and the points that they may lose; see pipeline.demo."""
_LIBRARIES = {"tensorrt": "tensorrt-cu13", "tensorrt-rtx": "tensorrt-rtx-cu13"}
_REPLAYED = 100
_LENGTHS = (32, 64, 96, 128, 192, 256)
_SHAPES = ",".join(f"{batch}x{length}" for batch in BATCHES for length in _LENGTHS)
"""Given instead of planned: every engine takes seconds to compile, and the costs alone that a plan is made from need
some fifty of them for each precision and method, with and without the plugin."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--out", type=Path, default=DEFAULT, help="results file (default benchmarks/results/gpu.json)")
    p.add_argument("--artifacts", type=Path, default=Path("demo/output/gpu"), help="where the artifacts are built")
    p.add_argument("--precisions", default="fp16,fp32", help="of the engines (default fp16,fp32)")
    p.add_argument("--buckets", default=_SHAPES, help=f"shapes to compile (default {_SHAPES})")
    p.add_argument("--texts", type=int, default=512, help="reviews that are timed (default 512)")
    p.add_argument("--rounds", type=int, default=5, help="times that every chunk is timed (default 5)")
    p.add_argument("--check", action="store_true", help="only say whether this machine can; exit code 4 if not")
    return p


def run(args: argparse.Namespace) -> int:
    """Builds, checks, times, prints the table. The file is written after every target and precision."""
    console = Console()
    backends = usable_backends(BACKENDS, console)
    if args.check:
        return 0
    failed: list[str] = []

    def attempt(name: str, work: Callable[..., Any], *arguments: object) -> Any:
        """What `work` gives; None where it fails, which is noted, and the rest is measured all the same."""
        try:
            return work(*arguments)
        except SkimError as error:
            failed.append(f"{name}: {error}")
            console.print(f"FAILED {failed[-1]}", highlight=False, style="red")
            return None

    texts = [example.content for example in read_examples(DATA, "test")[: args.texts]]
    ratios = {method: flops_ratio_of(method, args.texts) for method in METHODS}
    machine, regroup = describe_machine(), attempt("regrouping", regroup_costs, backends[0].device()) or []
    results, cases = None, list[Case]()
    timings: list[Timing] = []
    for backend, precision in itertools.product(backends, args.precisions.split(",")):
        kind = f"{backend.target} {precision}"
        built: dict[str, tuple[Case, Path]] = {}
        for method in METHODS:
            for plugin in (False,) if method == "dense" else (True, False):
                name = f"{method} {kind} plugin {plugin}"
                found = attempt(name, build_case, method, backend, precision, plugin, ratios[method], args, console)
                if found is not None:
                    built[found[0].name] = found
        if not any(case.method == "dense" for case, _ in built.values()):
            continue
        cases += [case for case, _ in built.values()]
        paths = {name: path for name, (_, path) in built.items()}
        for batch in BATCHES:
            name = f"timing of {kind} at batch {batch}"
            timings += attempt(name, time_cases, paths, backend.target, texts, batch, args.rounds) or []
        results = GpuResults(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            skimrt_version=__version__,
            machine=machine,
            data=DATA,
            texts=len(texts),
            cases=cases,
            timings=timings,
            regroup=regroup,
        )
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(results.model_dump_json(indent=1) + "\n", "utf-8")
    if results is None:
        raise SkimError("nothing was measured:\n" + "\n".join(failed))
    print(markdown_table(results))
    console.print(f"written to {args.out}; commit it and put the table into README.md and docs/gpu.md")
    return 3 if failed else 0


def usable_backends(backends: Sequence[Backend], console: Console) -> list[Backend]:
    """The backends of GPU targets that this machine can run; says why the others cannot.

    Raises TargetError, with everything that is missing, when there is none.
    """
    wanted = [backend for backend in backends if backend.target in _LIBRARIES]
    reasons = {backend: backend.cannot_run(backend.options_here()) for backend in wanted}
    lines = [f"  - {backend.target}: {reason}" for backend, reason in reasons.items() if reason is not None]
    usable = [backend for backend, reason in reasons.items() if reason is None]
    if not usable:
        raise TargetError("this machine cannot run a GPU target; missing:\n" + "\n".join(lines))
    for line in lines:
        console.print(f"SKIPPED{line}", highlight=False)
    return usable


def flops_ratio_of(method: str, count: int) -> float:
    """FLOPs of the dense model over those of a method, on the first `count` texts, padding not counted."""
    subject = Subject.load(DEMO / method, DATA, count)
    return flops_ratio(subject.model.config, carried_rows(subject.model, subject.samples))


def build_case(
    method: str,
    backend: Backend,
    precision: str,
    plugin: bool,
    flops: float,
    args: argparse.Namespace,
    console: Console,
) -> tuple[Case, Path]:
    """Builds one artifact, whose gates check it on the GPU. Raises SkimError when that fails, or a gate does."""
    out = args.artifacts / f"{method}-{backend.target}-{precision}-{'plugin' if plugin else 'body'}"
    console.rule(out.name)
    config = BuildConfig(
        checkpoint=DEMO / method,
        dense=None if method == "dense" else DEMO / "dense",
        target=backend.target,
        precision=precision,
        plugin=plugin,
        compute_capability=backend.options_here().compute_capabilities,
        buckets=args.buckets,
        out=out,
        max_drop=BUDGET,
        metric_samples=args.texts,
        force=True,
    )
    started = time.perf_counter()
    artifact = build(config, console)
    return case_of(artifact, method, backend.target, plugin, time.perf_counter() - started, flops, console), out


def case_of(
    artifact: Artifact, method: str, target: str, plugin: bool, seconds: float, flops: float, console: Console
) -> Case:
    """What the manifest of an artifact says about it."""
    manifest = artifact.manifest
    print_gates(manifest.gates, console)
    metrics = [gate.figures["metric"] for gate in manifest.gates if "metric" in gate.figures]
    return Case(
        method=method,
        target=target,
        precision=manifest.engines[0].precision,
        plugin=plugin,
        engines=len(manifest.engines),
        engine_bytes=sum(artifact.file(record.file).stat().st_size for record in manifest.engines),
        build_seconds=round(seconds, 1),
        accuracy=float(metrics[0]) if metrics else None,
        flops_ratio=flops,
        gates=manifest.gates,
    )


def time_cases(paths: dict[str, Path], target: str, texts: Sequence[Text], batch: int, rounds: int) -> list[Timing]:
    """Every case with and without CUDA graphs, in turn on the same chunks, all engines loaded before.

    At batch 1 every text is answered before the next one starts, on one stream. Raises SkimError.
    """
    streams = 1 if batch == 1 else 2
    ways: dict[str, Callable[[Sequence[Text]], object]] = {}
    keys: dict[str, tuple[str, bool]] = {}
    for name, path in paths.items():
        for graphs in (True, False):
            runner = Runner(
                path, target, max_batch=batch, truncate=True, verify=False, streams=streams, cuda_graphs=graphs
            )
            runner.warm_up()
            runner(list(texts[:batch]))
            way = f"{name} {'with' if graphs else 'without'} graphs"
            ways[way], keys[way] = runner, (name, graphs)
    return [
        Timing(case=keys[way][0], batch=batch, cuda_graphs=keys[way][1], streams=streams, seconds=sum(chunks))
        for way, chunks in alternate(ways, texts, rounds).items()
    ]


def regroup_costs(device: Device, lengths: Sequence[int] = (32, 128, 256), width: int = 384) -> list[Regroup]:
    """Time of one regroup of 8 fp16 samples, as one of many in a CUDA graph, so that no launch is counted."""
    return [_regroup_cost(device, Bucket(batch=8, length=length), width) for length in lengths]


def _regroup_cost(device: Device, bucket: Bucket, width: int) -> Regroup:
    shape = (bucket.batch, bucket.length)
    tensors = (Tensor((*shape, width), np.dtype(np.float16)), *[Tensor(shape, np.dtype(np.int32))] * 2)
    source, target = (Rows(*(device.array(tensor) for tensor in tensors)) for _ in range(2))
    sources = [Place(source, index, bucket.length).source for index in range(bucket.batch)]
    stream = device.stream()
    stream.regroup(sources, target.target)
    stream.synchronize()

    def replayed() -> None:
        for _ in range(_REPLAYED):
            stream.regroup(sources, target.target)

    graph = stream.capture(replayed)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        stream.launch(graph)
        stream.synchronize()
        times.append((time.perf_counter() - started) / _REPLAYED)
    return Regroup(
        batch=bucket.batch, length=bucket.length, row_bytes=2 * width, microseconds=1e6 * float(np.median(times))
    )


def describe_machine() -> Machine:
    """This machine. Raises TargetError without a GPU."""
    gpu = find_gpu()
    if isinstance(gpu, str):
        raise TargetError(gpu)
    tools = {name: version for name, version in tool_versions().items() if name in ("torch", "tokenizers", "numpy")}
    for name in (*_LIBRARIES.values(), "cuda-bindings"):
        try:
            tools[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        driver=gpu.driver,
        cuda=gpu.cuda,
        processor=processor(),
        tools=tools,
    )


if __name__ == "__main__":
    main_of(parser, run)
