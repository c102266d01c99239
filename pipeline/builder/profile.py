"""A short profile of the target: a few stages at a few lengths, kept for the next build on the same machine."""

from __future__ import annotations

import logging
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from calib.int8.qdq import quantize_graph
from calib.int8.scheme import QuantizationScheme
from engines.backends import Engine
from engines.buckets import Bucket
from engines.errors import InputError
from engines.files import digest_of
from engines.loading import on_all_cores
from engines.machine import processor, tool_versions
from engines.writing import write_whole
from pipeline.builder.target import BuildTarget
from pipeline.graph.export import Export, export_stage
from pipeline.graph.stages import Stage, StageSpec, attentions, cut_stages, decision_layers
from pipeline.model.transformer import PrunedTransformer
from pipeline.planning.costs import CostTable, Kind

_log = logging.getLogger(__name__)

_LENGTHS = 7
_SHORTEST = 4
_ROUNDS = 5
_LONG_CALL = 0.05
"""Seconds of a call beside which it does not matter whether the engine's weights were in the cache."""
_REPEATS, _REPEATED = (2, 16), 0.01
"""Fewest and most calls that are timed in a row, and their seconds in all: short ones become faster over the first."""


def cost_table(
    model: PrunedTransformer,
    target: BuildTarget,
    batches: Sequence[int],
    threads: int | None = None,
    scheme: QuantizationScheme | None = None,
    export: Export = export_stage,
) -> CostTable:
    """The table of this machine for models of this shape: read if it was measured before, else measured now.

    target: runs here. scheme: the layers that are in INT8; their ranges change no time.
    export: writes the graphs of the stages.
    """
    path = _cache() / f"{_key(model, target, batches, threads, scheme)}.json"
    if path.is_file():
        try:
            return CostTable.read(path)
        except InputError as error:
            _log.warning("%s; the costs are measured again", error)
    table = measure_costs(model, target, batches, threads, scheme, export)
    try:
        write_whole(path, (table.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        _log.warning("costs are not kept for the next build: %s: %s; set SKIMRT_CACHE", path, error.strerror)
    return table


def measure_costs(
    model: PrunedTransformer,
    target: BuildTarget,
    batches: Sequence[int],
    threads: int | None,
    scheme: QuantizationScheme | None = None,
    export: Export = export_stage,
) -> CostTable:
    """Compiles and times one stage of each kind."""
    specs, sizes = profiled_stages(model), sorted({1, *batches})
    lengths = profiled_lengths(model.config.max_length)
    shapes = [Bucket(batch=batch, length=length) for batch in sizes for length in lengths]
    files: dict[tuple[Kind, int, int], Path] = {}
    with tempfile.TemporaryDirectory(prefix="skimrt-profile-") as directory:
        for kind, spec in specs.items():
            graph = Path(directory) / f"{kind}.onnx"
            export(Stage(model, spec), model.config, graph, target.graph_precision)
            if scheme is not None:
                quantize_graph(graph, scheme, graph)
            compiled = _compile(target, graph, shapes)
            files |= {(kind, bucket.batch, bucket.length): file for bucket, file in compiled.items()}
        loaded = on_all_cores(lambda file: target.backend.load(file, threads, target.binding), files.values(), threads)
    engines = dict(zip(files, loaded, strict=True))
    for engine in engines.values():
        _fill(engine, model.config.encoder.vocab_size)
    alone, together = _times(engines)
    return CostTable(
        processor=processor(),
        tools=tool_versions(),
        lengths=lengths,
        layers={kind: attentions(spec) for kind, spec in specs.items()},
        alone_seconds={kind: [alone[kind, length] for length in lengths] for kind in specs},
        together_seconds={
            kind: {batch: [together[kind, batch, length] for length in lengths] for batch in sizes} for kind in specs
        },
    )


def profiled_stages(model: PrunedTransformer) -> dict[Kind, StageSpec]:
    """The shortest first, middle and last stage that the model can be cut into, as far as there are, and all of it."""
    points = decision_layers(model)
    found: dict[Kind, StageSpec] = {"whole": cut_stages(model, [])[0]}
    if points:
        pieces = cut_stages(model, points)
        found |= {"first": pieces[0], "last": pieces[-1]}
    if len(points) > 1:
        found["middle"] = pieces[len(pieces) // 2]
    return found


def profiled_lengths(longest: int) -> list[int]:
    """A few lengths up to the longest, closer together where they are short."""
    return sorted({max(1, round(x)) for x in np.geomspace(min(_SHORTEST, longest), longest, _LENGTHS)})


def _times(engines: dict[tuple[Kind, int, int], Engine]) -> tuple[dict, dict]:
    """Median seconds of a call among calls of other engines (batch 1), and of calls that follow each other."""
    for engine in engines.values():
        engine(engine.inputs)
    order, rng = [key for key in engines if key[1] == 1], random.Random(0)
    scattered: dict[tuple[Kind, int, int], list[float]] = {key: [] for key in order}
    for _ in range(_ROUNDS):
        rng.shuffle(order)  # as in a run, no engine finds its weights in the cache
        for key in order:
            scattered[key].append(_seconds(engines[key]))
    repeated: dict[tuple[Kind, int, int], list[float]] = {key: [] for key in engines}
    for _ in range(3):
        for key, engine in engines.items():
            first = _seconds(engine)
            repeated[key] += [first] if first > _LONG_CALL else [_seconds(engine) for _ in range(_repeats(first))]
    return (
        {(kind, length): statistics.median(scattered[kind, _, length]) for kind, _, length in order},
        {key: statistics.median(times) for key, times in repeated.items()},
    )


def _repeats(seconds: float) -> int:
    """How many calls of so many seconds to time in a row."""
    fewest, most = _REPEATS
    return min(most, max(fewest, round(_REPEATED / seconds)))


def _compile(target: BuildTarget, graph: Path, shapes: Sequence[Bucket]) -> dict[Bucket, Path]:
    """The engine file of a graph for every shape, beside it."""
    files = {bucket: graph.with_name(f"{graph.stem}_{bucket}{target.backend.suffix}") for bucket in shapes}
    for bucket, file in files.items():
        target.backend.build(graph, bucket, file, target.options)
    return files


def _seconds(engine: Engine) -> float:
    """Of a call with its inputs copied in and its outputs copied out, as the runner does."""
    started = time.perf_counter()
    engine(engine.inputs)
    return time.perf_counter() - started


def _fill(engine: Engine, words: int) -> None:
    """Real-looking rows, all alive: what dies inside a stage costs as much as what lives."""
    rng = np.random.default_rng(0)
    for name, buffer in engine.inputs.items():
        match name:
            case "hidden":
                values = rng.standard_normal(buffer.shape, np.float32)
                # A bf16 buffer takes the bits of its values, the upper half of float32.
                buffer[...] = values.view(np.uint32) >> 16 if buffer.dtype == np.uint16 else values
            case "input_ids":
                buffer[...] = rng.integers(words, size=buffer.shape)
            case "position":
                buffer[...] = np.arange(buffer.shape[1])
            case "alive":
                buffer[...] = 1
            case _:
                buffer[...] = 0


def _cache() -> Path:
    """Where tables are kept between builds: SKIMRT_CACHE, or the user's cache directory."""
    base = os.environ.get("SKIMRT_CACHE") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "skimrt" / "profiles"


def _key(
    model: PrunedTransformer,
    target: BuildTarget,
    batches: Sequence[int],
    threads: int | None,
    scheme: QuantizationScheme | None,
) -> str:
    config = model.config
    inputs = {
        "table": CostTable.model_fields["schema_version"].default,
        "encoder": config.encoder.model_dump(exclude={"vocab_size", "max_positions"}),
        "method": config.pruner.method,
        "points": decision_layers(model),
        "predictor_hidden": config.pruner.predictor_hidden,
        "lengths": profiled_lengths(config.max_length),
        "provider": target.backend.provider,
        "precision": target.graph_precision,
        "options": asdict(target.options),
        "binding": None if target.binding is None else target.binding.model_dump(),
        "batches": sorted({1, *batches}),
        "threads": threads,
        "processor": processor(),
        "cpus": os.cpu_count(),
        "tools": tool_versions(),
    }
    if scheme is not None:
        inputs["int8"] = [sorted(scheme.ranges), sorted(scheme.shifts)]
    return digest_of(inputs)[:32]
