"""Profiles the target: a few stages at a few lengths, kept for the next build on the same machine."""

from __future__ import annotations

import logging
import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from calib.int8.qdq import quantize_graph
from calib.int8.scheme import QuantizationScheme
from engines.backends import Profile
from engines.buckets import Bucket
from engines.errors import InputError
from engines.files import digest_of
from engines.loading import on_all_cores
from engines.machine import cache_folder, processor, tool_versions
from engines.writing import write_whole
from pipeline.builder.own_time import own_seconds
from pipeline.builder.target import BuildTarget
from pipeline.builder.timed_calls import Call, calls_of
from pipeline.graph.export import Export, export_stage
from pipeline.graph.stages import Stage, StageSpec, attentions, cut_stages, decision_layers
from pipeline.model.transformer import PrunedTransformer
from pipeline.planning.costs import CostTable, Kind

_log = logging.getLogger(__name__)

_LENGTHS = 7
_SHORTEST = 4
_ROUNDS = 5
_LONG_CALL = 0.05
"""Calls that take longer than this many seconds do not depend on whether the weights were in the cache."""
_REPEATS, _REPEATED = (2, 16), 0.01
"""Fewest and most calls timed in a row, and their total seconds: short calls get faster after the first ones."""


def cost_table(
    model: PrunedTransformer,
    target: BuildTarget,
    batches: Sequence[int],
    threads: int | None = None,
    scheme: QuantizationScheme | None = None,
    export: Export = export_stage,
) -> CostTable:
    """Returns this machine's table for models of this shape, from the cache or measured now.

    target: can run here. scheme: the layers in INT8; their ranges do not change the time. export: writes the graphs of
            the stages.
    """
    path = cache_folder("profiles") / f"{cost_key(model, target, batches, threads, scheme)}.json"
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
    profiles: dict[tuple[Kind, int, int], Profile] = {}
    files: dict[Kind, Path] = {}
    with tempfile.TemporaryDirectory(prefix="skimrt-profile-") as directory:
        for kind, spec in specs.items():
            graph = Path(directory) / f"{kind}.onnx"
            export(Stage(model, spec), model.config, graph, target.graph_precision)
            if scheme is not None:
                quantize_graph(graph, scheme, graph)
            files[kind] = graph.with_name(f"{kind}-engine{target.backend.suffix}")
            target.backend.build(graph, shapes, files[kind], target.options)
        loaded = on_all_cores(lambda file: target.backend.load(file, threads, target.binding), files.values(), threads)
    for kind, engine in zip(files, loaded, strict=True):
        profiles |= {(kind, shape.batch, shape.length): engine.profile(shape) for shape in shapes}
    calls = calls_of(profiles, model.config.encoder.vocab_size, model.config.head.token_level)
    alone, together = _times(calls)
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
    """Returns the shortest first, middle and last stage of the model, if it has them, and the whole model."""
    points = decision_layers(model)
    stages: dict[Kind, StageSpec] = {"whole": cut_stages(model, [])[0]}
    if points:
        pieces = cut_stages(model, points)
        stages |= {"first": pieces[0], "last": pieces[-1]}
    if len(points) > 1:
        stages["middle"] = pieces[len(pieces) // 2]
    return stages


def profiled_lengths(longest: int) -> list[int]:
    """Returns a few lengths up to the longest, closer together where they are short."""
    return sorted({max(1, round(x)) for x in np.geomspace(min(_SHORTEST, longest), longest, _LENGTHS)})


def _times(calls: dict[tuple[Kind, int, int], Call]) -> tuple[dict, dict]:
    """Returns the median seconds of a call between calls of other engines (batch 1), and of calls in a row.

    What other work on the machine makes them wait does not count.
    """
    for call in calls.values():
        call()
    order, rng = [key for key in calls if key[1] == 1], random.Random(0)
    scattered: dict[tuple[Kind, int, int], list[float]] = {key: [] for key in order}
    for _ in range(_ROUNDS):
        rng.shuffle(order)  # as in a run, no engine finds its weights in the cache
        for key in order:
            scattered[key].append(own_seconds(calls[key]))
    repeated: dict[tuple[Kind, int, int], list[float]] = {key: [] for key in calls}
    for _ in range(3):
        for key, call in calls.items():
            first = own_seconds(call)
            repeated[key] += [first] if first > _LONG_CALL else [own_seconds(call) for _ in range(_repeats(first))]
    return (
        {(kind, length): statistics.median(scattered[kind, _, length]) for kind, _, length in order},
        {key: statistics.median(times) for key, times in repeated.items()},
    )


def _repeats(seconds: float) -> int:
    """Returns how many calls of the given duration to time in a row."""
    fewest, most = _REPEATS
    return min(most, max(fewest, round(_REPEATED / seconds)))


def cost_key(
    model: PrunedTransformer,
    target: BuildTarget,
    batches: Sequence[int],
    threads: int | None,
    scheme: QuantizationScheme | None,
) -> str:
    """A file name made of everything that the times of a model's stages depend on."""
    config = model.config
    inputs = {
        "table": CostTable.model_fields["schema_version"].default,
        "method": config.pruner.method,
        "points": decision_layers(model),
        "predictor_hidden": config.pruner.predictor_hidden,
        "lengths": profiled_lengths(config.max_length),
        "batches": sorted({1, *batches}),
        **where_timed(model, target, threads),
    }
    if scheme is not None:
        inputs["int8"] = [sorted(scheme.ranges), sorted(scheme.shifts)]
    return digest_of(inputs)[:32]


def where_timed(model: PrunedTransformer, target: BuildTarget, threads: int | None) -> dict[str, object]:
    """What the times of an encoder depend on, whatever drops its tokens: its sizes, the target and the machine."""
    return {
        "encoder": model.config.encoder.model_dump(exclude={"vocab_size", "max_positions"}),
        "provider": target.backend.provider,
        "precision": target.graph_precision,
        "options": asdict(target.options),
        "binding": None if target.binding is None else target.binding.model_dump(),
        "threads": threads,
        "processor": processor(),
        "cpus": os.cpu_count(),
        "tools": tool_versions(),
    }
