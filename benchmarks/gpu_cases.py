"""The artifacts that `make test-gpu` measures: how they are built, described and timed."""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gpu_results import BATCHES, Case, Machine, Timing
from engines.artifact import Artifact
from engines.backends import Backend, Engine
from engines.backends.gpu import find_gpu
from engines.errors import TargetError
from engines.machine import processor, tool_versions
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.builder.config import DEMO, BuildConfig
from pipeline.builder.measure import alternate
from pipeline.builder.steps import build
from pipeline.builder.subject import Subject
from pipeline.cli import print_gates
from pipeline.model.flops import flops_ratio
from pipeline.model.retention import carried_rows

METHODS = ("dense", "ltp", "transkimmer")
DATA, BUDGET = "movie-reviews", 3.0
"""The shipped models' texts, and the points that they may lose; see pipeline.demo."""
LIBRARIES = {"torch": "torch", "tensorrt": "tensorrt-cu13", "tensorrt-rtx": "tensorrt-rtx-cu13"}
"""The GPU targets, and the distribution of each one's library."""
_LENGTHS = (32, 64, 96, 128, 192, 256)
_FEW_LENGTHS = (128, 256)
"""Of the target torch, which compiles a model for every bucket, each the better part of a minute."""


@dataclass(frozen=True)
class Variant:
    """What one artifact is built as. plugin: TokenCompact is our plugin; otherwise the operator's function body."""

    method: str
    backend: Backend
    precision: str
    plugin: bool

    @property
    def name(self) -> str:
        """Such as ltp tensorrt fp16 plugin."""
        end = "plugin" if self.plugin else "body"
        return f"{self.method} {self.backend.target} {self.precision} {end}"


def shapes_of(backend: Backend, asked: str | None) -> str:
    """The buckets to compile: those asked for, else some lengths in every batch size.

    Given, not planned: the costs alone that a plan is made from need some fifty engines for each precision and method,
    with and without the plugin.
    """
    lengths = _FEW_LENGTHS if backend.target == "torch" else _LENGTHS
    return asked or ",".join(f"{batch}x{length}" for batch in BATCHES for length in lengths)


def flops_ratio_of(method: str, count: int) -> float:
    """FLOPs of the dense model over those of a method, on the first `count` texts, padding not counted."""
    subject = Subject.load(DEMO / method, DATA, count)
    return flops_ratio(subject.model.config, carried_rows(subject.model, subject.samples))


def build_case(variant: Variant, flops: float, args: argparse.Namespace, console: Console) -> tuple[Case, Path]:
    """Builds one artifact, whose gates check it on the GPU. Raises SkimError when that fails, or a gate does."""
    out = args.artifacts / variant.name.replace(" ", "-")
    console.rule(out.name)
    config = BuildConfig(
        checkpoint=DEMO / variant.method,
        dense=None if variant.method == "dense" else DEMO / "dense",
        target=variant.backend.target,
        precision=variant.precision,
        plugin=variant.plugin,
        device="cuda" if variant.backend.target == "torch" else None,
        compute_capability=variant.backend.options_here().compute_capabilities,
        buckets=shapes_of(variant.backend, args.buckets),
        out=out,
        max_drop=BUDGET,
        metric_samples=args.texts,
        force=True,
    )
    started = time.perf_counter()
    artifact = build(config, console)
    return case_of(artifact, variant, time.perf_counter() - started, flops, console), out


def case_of(artifact: Artifact, variant: Variant, seconds: float, flops: float, console: Console) -> Case:
    """What the manifest of an artifact says about it."""
    manifest = artifact.manifest
    print_gates(manifest.gates, console)
    metrics = [gate.figures["metric"] for gate in manifest.gates if "metric" in gate.figures]
    return Case(
        method=variant.method,
        target=variant.backend.target,
        precision=variant.precision,
        plugin=variant.plugin,
        engines=len(manifest.engines),
        engine_bytes=sum(artifact.file(record.file).stat().st_size for record in manifest.engines),
        build_seconds=round(seconds, 1),
        accuracy=float(metrics[0]) if metrics else None,
        flops_ratio=flops,
        gates=manifest.gates,
    )


def time_cases(
    paths: dict[str, Path], backend: Backend, texts: Sequence[Text], batch: int, rounds: int
) -> list[Timing]:
    """Every case with and without CUDA graphs, in turn on the same chunks, all engines loaded before; dense first.

    An engine is loaded once for both. At batch 1 every text is answered before the next one starts, on one stream.
    Raises SkimError.
    """
    streams = 1 if batch == 1 else 2
    sharing = copy.copy(backend)
    loaded: dict[Path, Engine] = {}

    def load(file: Path, *arguments: Any) -> Engine:
        if file not in loaded:
            loaded[file] = backend.load(file, *arguments)
        return loaded[file]

    sharing.load = load  # type: ignore
    ways: dict[str, Callable[[Sequence[Text]], object]] = {}
    keys: dict[str, tuple[str, bool]] = {}
    for name, path in paths.items():
        for graphs in (True, False):
            runner = Runner(
                path, sharing, max_batch=batch, truncate=True, verify=False, streams=streams, cuda_graphs=graphs
            )
            runner.warm_up()
            runner(list(texts[:batch]))
            way = f"{name} {'with' if graphs else 'without'} graphs"
            ways[way], keys[way] = runner, (name, graphs)
    seconds = {keys[way]: sum(chunks) for way, chunks in alternate(ways, texts, rounds).items()}
    return list(_timings(seconds, batch, streams))


def _timings(seconds: dict[tuple[str, bool], float], batch: int, streams: int) -> Iterator[Timing]:
    dense, _ = next(iter(seconds))
    for (name, graphs), taken in seconds.items():
        yield Timing(
            case=name,
            batch=batch,
            cuda_graphs=graphs,
            streams=streams,
            seconds=taken,
            dense_seconds=seconds[dense, graphs],
        )


def describe_machine() -> Machine:
    """This machine. Raises TargetError without a GPU."""
    gpu = find_gpu()
    if isinstance(gpu, str):
        raise TargetError(gpu)
    tools = {name: version for name, version in tool_versions().items() if name in ("torch", "tokenizers", "numpy")}
    for name in (*LIBRARIES.values(), "cuda-bindings"):
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
