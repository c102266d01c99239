"""Writes golden inputs and outputs of stages as Polygraphy's JSON, with which `polygraphy run` checks an engine."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from engines.buckets import Bucket
from engines.manifest import Manifest
from engines.plan import Unit, profile_stem
from pipeline.gates.expected import Expected
from pipeline.gates.states import edge_buckets, random_hidden, stack_states, walk_states
from pipeline.gates.tolerance import ERROR_RATIO, ERROR_SAMPLES, FP32_TOLERANCE, own_error
from pipeline.graph.evaluate import Arrays, near_threshold, run_module
from pipeline.graph.precision import dtype_of, reference_in
from pipeline.graph.stages import HeadStage, Stage, same_stage

FOLDER = "polygraphy"
RUNNER = "pytorch-fp32"


@dataclass(frozen=True)
class Golden:
    """Golden data of one profile.

    inputs, outputs: files below the artifact.
    tolerances:      by output, the largest absolute difference that gate 2 allows; 0 for integers.
    """

    unit: Unit
    bucket: Bucket
    inputs: str
    outputs: str
    tolerances: dict[str, float]


def write_golden(root: Path, expected: Expected, manifest: Manifest) -> list[Golden]:
    """Writes golden data for every stage at the edge buckets that some sample fits.

    The inputs are the reference's own states, the outputs are PyTorch's in float32. Only samples whose decisions
    survive rounding are used, since a token decided otherwise moves all rows after it. bf16 graphs get none, because
    the format has no such arrays.
    """
    if manifest.plan.precision == "bf16":
        return []
    (root / FOLDER).mkdir(exist_ok=True)
    written: list[Golden] = []
    narrow = expected.narrow
    for unit, stage, batches, more in _batches(expected, manifest):
        runs = [(bucket, inputs, run_module(stage, inputs)) for bucket, inputs in batches]
        allowed = FP32_TOLERANCE
        if narrow is not None:
            allowed = ERROR_RATIO * _own_error(
                stage, same_stage(narrow, stage), [*(inputs for _, inputs in batches), *more]
            )
        floats = [name for name, value in runs[0][2].items() if value.dtype == np.float32] if runs else []
        tolerances = {name: allowed if name in floats else 0.0 for name in stage.output_names}
        types = _input_types(root / manifest.plan.graphs[unit])
        for bucket, inputs, outputs in runs:
            stem = f"{FOLDER}/{profile_stem(unit, bucket)}"
            golden = Golden(unit, bucket, f"{stem}.inputs.json", f"{stem}.outputs.json", tolerances)
            typed = {name: value.astype(types[name]) for name, value in inputs.items()}
            (root / golden.inputs).write_text(json.dumps([_encoded(typed)]), "utf-8")
            (root / golden.outputs).write_text(json.dumps(_results(outputs)), "utf-8")
            written.append(golden)
    return written


def _batches(
    expected: Expected, manifest: Manifest
) -> Iterator[tuple[Unit, Stage | HeadStage, list[tuple[Bucket, Arrays]], list[Arrays]]]:
    """Returns, per unit, the batches that fill its edge buckets, and more batches to estimate PyTorch's error from."""
    model = expected.model
    rounding = expected.narrow or reference_in(model, "fp16")
    for spec, states in walk_states(model, expected.specs, expected.samples):
        stage, buckets = Stage(model, spec), edge_buckets(manifest.plan.buckets_of(spec.index))
        length = max(bucket.length for bucket in manifest.plan.buckets)
        near = near_threshold(stage, Stage(rounding, spec), _stacked(states, Bucket(batch=len(states), length=length)))
        decided = sorted((s for s, excused in zip(states, near, strict=True) if not excused), key=_rows, reverse=True)
        fitting = [(bucket, [s for s in decided if _rows(s) <= bucket.length]) for bucket in buckets]
        most = decided[:ERROR_SAMPLES]
        more = [_stacked(most, Bucket(batch=len(most), length=_rows(most[0])))] if most else []
        yield spec.index, stage, [(bucket, _stacked(chosen, bucket)) for bucket, chosen in fitting if chosen], more
    if manifest.plan.head_graph is not None:
        buckets = edge_buckets(manifest.plan.buckets_of("head"))
        yield "head", HeadStage(model), random_hidden(buckets, manifest.encoder.hidden_size), []


def _own_error(stage: Stage | HeadStage, narrow: Stage | HeadStage, batches: Sequence[Arrays]) -> float:
    """Returns PyTorch's largest error in the precision of `narrow` over the batches."""
    largest = 0.0
    for inputs in batches:
        expected, rounded = run_module(stage, inputs), run_module(narrow, inputs)
        largest = max(largest, own_error(dtype_of(narrow), [(rounded[name], expected[name]) for name in expected]))
    return largest


def _rows(state: Arrays) -> int:
    return len(state["alive"])


def _stacked(states: Sequence[Arrays], bucket: Bucket) -> Arrays:
    """Returns a full batch of the bucket's shape; too few samples are repeated, rows are padded with zeros."""
    return stack_states([states[slot % len(states)] for slot in range(bucket.batch)], bucket)


def _input_types(graph: Path) -> dict[str, np.dtype]:
    values = onnx.load(graph, load_external_data=False).graph.input
    return {v.name: onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in values}


def _encoded(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as Polygraphy writes them: a .npy file in base64."""
    encoded = {}
    for name, value in arrays.items():
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        encoded[name] = {"array": base64.b64encode(file.getvalue()).decode(), "polygraphy_class": "ndarray"}
    return encoded


def _results(outputs: Arrays) -> dict[str, Any]:
    """Polygraphy's RunResults of one runner and one iteration."""
    lazy = {n: {"values": array, "polygraphy_class": "LazyArray"} for n, array in _encoded(outputs).items()}
    iteration = {
        "outputs": lazy,
        "runtime": None,
        "runner_name": RUNNER,
        "polygraphy_class": "IterationResult",
    }
    return {"lst": [[RUNNER, [iteration]]], "polygraphy_class": "RunResults"}
