"""A short profile of the target: a few stages at a few lengths, kept for the next build on the same machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from calib.qdq import quantize_graph
from calib.scheme import QuantizationScheme
from engines.backends import Backend, Engine
from engines.buckets import Bucket
from engines.files import write_whole
from engines.loading import on_all_cores
from pipeline.graph.export import Export, export_stage
from pipeline.graph.fused import chain_compactions
from pipeline.graph.stages import Stage, StageSpec, cut_stages, decision_layers
from pipeline.measure import processor
from pipeline.model.transformer import PrunedTransformer
from pipeline.planning.costs import CostTable, Kind
from pipeline.versions import tool_versions

Key = TypeVar("Key")

_LENGTHS = 7
_SHORTEST = 4
_ROUNDS, _REPEATS = 5, 2
_LONG_CALL = 0.05
"""Seconds of a call beside which it does not matter whether the engine's weights were in the cache."""
_COMPACTIONS = 4
"""TokenCompacts of the longer of the two chains that tell what a call costs beside them."""


def cost_table(
    model: PrunedTransformer,
    backend: Backend,
    batches: Sequence[int],
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
    scheme: QuantizationScheme | None = None,
    export: Export = export_stage,
) -> CostTable:
    """The table of this machine for models of this shape: read if it was measured before, else measured now.

    scheme: the layers that are in INT8; their ranges change no time.
    export: writes the graphs of the stages.
    """
    path = _cache() / f"{_key(model, backend, batches, threads, scheme)}.json"
    if path.is_file():
        return CostTable.read(path)
    with tempfile.TemporaryDirectory(prefix="skimrt-profile-") as directory:
        table = measure_costs(model, backend, batches, threads, Path(directory), tick, scheme, export)
    write_whole(path, (table.model_dump_json(indent=1) + "\n").encode())
    return table


def measure_costs(
    model: PrunedTransformer,
    backend: Backend,
    batches: Sequence[int],
    threads: int | None,
    directory: Path,
    tick: Callable[[], None] = lambda: None,
    scheme: QuantizationScheme | None = None,
    export: Export = export_stage,
) -> CostTable:
    """Compiles and times one stage of each kind. `tick` is called after each of them, and after the timing."""
    specs = profiled_stages(model)
    lengths = profiled_lengths(model.config.max_length)
    files: dict[tuple[Kind, int, int], Path] = {}
    for kind, spec in specs.items():
        graph = directory / f"{kind}.onnx"
        export(Stage(model, spec), model.config, graph)
        if scheme is not None:
            quantize_graph(graph, scheme, graph)
        for batch in sorted({1, *batches}):
            for length in lengths:
                files[kind, batch, length] = file = directory / f"{kind}_b{batch}_s{length}{backend.suffix}"
                backend.build(graph, Bucket(batch=batch, length=length), file)
        tick()
    engines = _load(backend, files, threads)
    for engine in engines.values():
        _fill(engine, model.config.encoder.vocab_size)
    alone, together = _times(engines)
    boundary = _boundary_times(model.config.encoder.hidden_size, backend, batches, lengths, threads, directory)
    tick()
    return CostTable(
        processor=processor(),
        tools=tool_versions(),
        lengths=lengths,
        layers={kind: attentions(spec) for kind, spec in specs.items()},
        alone_seconds={kind: [alone[kind, length] for length in lengths] for kind in specs},
        together_seconds={
            kind: {batch: [together[kind, batch, length] for length in lengths] for batch in sorted({1, *batches})}
            for kind in specs
        },
        boundary_seconds=boundary,
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


def attentions(spec: StageSpec) -> int:
    """How many layers' attention a stage has."""
    return sum(step.kind == "attend" for step in spec.steps)


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
            repeated[key] += [first] if first > _LONG_CALL else [_seconds(engine) for _ in range(_REPEATS)]
    return (
        {(kind, length): statistics.median(scattered[kind, _, length]) for kind, _, length in order},
        {key: statistics.median(times) for key, times in repeated.items()},
    )


def _boundary_times(
    width: int, backend: Backend, batches: Sequence[int], lengths: Sequence[int], threads: int | None, directory: Path
) -> dict[int, list[float]]:
    """Seconds, by batch and length, of taking rows to an engine and back: a call of one TokenCompact, without it."""
    found: dict[int, list[float]] = {batch: [] for batch in sorted({1, *batches})}
    chains = {count: directory / f"compactions_{count}.onnx" for count in (1, _COMPACTIONS)}
    files: dict[tuple[int, int, int], Path] = {}
    for count, graph in chains.items():
        chain_compactions(count, width, graph)
        for batch in found:
            for length in lengths:
                files[count, batch, length] = file = directory / f"{graph.stem}_b{batch}_s{length}{backend.suffix}"
                backend.build(graph, Bucket(batch=batch, length=length), file)
    engines = _load(backend, files, threads)
    for engine in engines.values():
        _fill(engine, 1)
    times = {key: statistics.median(_seconds(engine) for _ in range(2 * _ROUNDS)) for key, engine in engines.items()}
    for batch, seconds in found.items():
        for length in lengths:
            one, more = times[1, batch, length], times[_COMPACTIONS, batch, length]
            seconds.append(max(0.0, one - max(0.0, (more - one) / (_COMPACTIONS - 1))))
    return found


def _load(backend: Backend, files: Mapping[Key, Path], threads: int | None) -> dict[Key, Engine]:
    """The engine of every file, loaded on all cores."""
    loaded = on_all_cores(lambda file: backend.load(file, threads), files.values(), threads)
    return dict(zip(files, loaded, strict=True))


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
                buffer[...] = rng.standard_normal(buffer.shape)
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
    base = os.environ.get("SKIMRT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "skimrt" / "profiles"


def _key(
    model: PrunedTransformer,
    backend: Backend,
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
        "lengths": profiled_lengths(config.max_length),
        "provider": backend.provider,
        "batches": sorted({1, *batches}),
        "threads": threads,
        "processor": processor(),
        "cpus": os.cpu_count(),
        "tools": tool_versions(),
    }
    if scheme is not None:
        inputs["int8"] = sorted(scheme.ranges)
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:32]
