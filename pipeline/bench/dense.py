"""The dense model that an artifact is compared with, and the libraries that run it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engines.artifact import Artifact
from engines.errors import InputError, TargetError
from engines.head import Head
from engines.manifest import MANIFEST_NAME, Manifest
from engines.runner import Runner
from pipeline.builder.measure import Way
from pipeline.builder.stock import DenseGraph, Stock, StockModel, StockOnnxRuntime
from pipeline.builder.stock_torch import StockTorch, graph_of_checkpoint
from pipeline.model import PrunedTransformer, load_checkpoint
from pipeline.model.checkpoint import read_config

ENGINES = ("torch", "torch-compile", "onnxruntime", "openvino", "openvino-fp32", "skimrt")
"""What runs the dense model: PyTorch, the libraries with their own defaults, and an artifact of it."""


@dataclass(frozen=True)
class Dense:
    """A dense model.

    graph: of all of it. checkpoint: where its weights are. artifact: its own, where there is one.
    """

    graph: DenseGraph
    checkpoint: Path
    max_length: int
    artifact: Path | None = None

    @cached_property
    def model(self) -> PrunedTransformer:
        """The model in PyTorch. Raises InputError where it is not there any more."""
        return load_checkpoint(self.checkpoint)

    def way(self, engine: str, batch: int, max_length: int, threads: int | None) -> tuple[Way, str]:
        """What answers texts, `batch` at a time, cut at a length; and the precision that it computes in."""
        if engine == "skimrt":
            assert self.artifact is not None
            return runner_of(self.artifact, batch, max_length, threads)
        stock: Stock
        if engine in ("torch", "torch-compile"):
            stock = StockTorch(self.graph, self.model, batch, max_length, compiled=engine == "torch-compile")
        elif engine == "onnxruntime":
            stock = StockOnnxRuntime(self.graph, batch, max_length, threads)
        else:
            stock = StockModel(self.graph, batch, max_length, threads, fp32=engine == "openvino-fp32")
        return stock, stock.precision

    def refuse(self, engines: list[str]) -> None:
        """Raises InputError or TargetError, before anything is timed, for what cannot run here."""
        unknown = [engine for engine in engines if engine not in ENGINES]
        if unknown:
            raise InputError(f"--against: expected some of {', '.join(ENGINES)}, found {', '.join(unknown)}")
        if "skimrt" in engines and self.artifact is None:
            raise InputError("--against skimrt: expected a dense artifact in --dense, found a checkpoint; build it")
        missing = {"openvino": StockModel.missing, "openvino-fp32": StockModel.missing}
        missing["onnxruntime"] = StockOnnxRuntime.missing
        problems = [f"{engine}: {problem}" for engine in engines if (problem := missing.get(engine, _nothing)())]
        if problems:
            raise TargetError("; ".join(problems))
        if {"torch", "torch-compile"} & {*engines}:
            read_config(self.checkpoint)


def _nothing() -> None:
    """PyTorch is there where this module is."""


def runner_of(artifact: Path, batch: int, max_length: int, threads: int | None) -> tuple[Way, str]:
    """An artifact's runner with every engine loaded, and its precisions."""
    runner = Runner(artifact, threads=threads, max_batch=batch, truncate=True, verify=False, max_length=max_length)
    runner.warm_up()
    return runner, "+".join(sorted(runner.manifest.built[runner.backend.target]))


@contextmanager
def dense_of(artifact: Path, manifest: Manifest, given: Path | None) -> Iterator[Dense]:
    """The dense model: an artifact of it or its checkpoint, given, or where the build left or found it.

    Raises InputError where there is none, or one of other tokens or outputs.
    """
    beside = artifact.resolve().with_name(f"{artifact.resolve().name}-dense")
    if given is None and (beside / MANIFEST_NAME).is_file():
        given = beside
    if given is None and manifest.method == "dense":
        given = artifact
    arguments = manifest.build_arguments
    if given is None and "--dense" in arguments:
        given = Path(arguments[arguments.index("--dense") + 1])
    if given is None or not given.is_dir():
        raise InputError(
            f"dense model: expected it as {beside} or where the build found it, found none; name an artifact of it or "
            "its checkpoint with --dense"
        )
    with tempfile.TemporaryDirectory(prefix="skimrt-bench-") as folder:
        if (given / MANIFEST_NAME).is_file():
            theirs = Artifact.open(given, verify=False).manifest
            _refuse_other(given, theirs.method, theirs.head, manifest)
            yield Dense(DenseGraph.of_artifact(given), Path(theirs.checkpoint.path), theirs.max_length, given)
        else:
            config = read_config(given)
            _refuse_other(given, config.pruner.method, config.head, manifest)
            yield Dense(graph_of_checkpoint(given, Path(folder)), given, config.max_length)


def _refuse_other(given: Path, method: str, head: Head, manifest: Manifest) -> None:
    """Raises InputError unless it is a dense model with the artifact's outputs."""
    if method != "dense":
        raise InputError(f"--dense {given}: expected a dense model, found one that skips tokens ({method})")
    if (head.kind, head.outputs) != (manifest.head.kind, manifest.head.outputs):
        raise InputError(
            f"--dense {given}: expected a {manifest.head.kind} model with {manifest.head.outputs} output(s), found a "
            f"{head.kind} model with {head.outputs}"
        )
