"""bf16 on a CPU: OpenVINO computes in it what the graph types so, and in float32 scores, softmax and layer norm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.backends.openvino import OpenVinoBackend
from engines.buckets import Bucket
from pipeline.graph.evaluate import near_threshold, run_module
from pipeline.graph.export import example_inputs, export_stage
from pipeline.graph.precision import reference_in
from pipeline.graph.stages import Stage, cut_stages, decision_layers
from tests.graph.small import small_model

BUCKET = Bucket(batch=32, length=30)


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_engines_err_at_most_twice_as_much_as_pytorch(tmp_path: Path, method: str) -> None:
    model, backend, kinds = small_model(method), OpenVinoBackend(), set[tuple[str, str]]()
    for spec in cut_stages(model, decision_layers(model)):
        stage, graph, file = Stage(model, spec), tmp_path / f"{spec.name}.onnx", tmp_path / f"{spec.name}-engine.onnx"
        export_stage(stage, model.config, graph, "bf16")
        backend.build(graph, [BUCKET], file)
        values = example_inputs(stage, model.config, BUCKET.batch, BUCKET.length)
        inputs = {name: value.numpy() for name, value in zip(stage.input_names, values, strict=True)}
        engine = backend.load(file, threads=1)
        found = engine.profile(BUCKET)(inputs)
        narrow = reference_in(stage, "bf16")
        wide, rounded, undecided = (
            run_module(stage, inputs),
            run_module(narrow, inputs),
            near_threshold(stage, narrow, inputs),
        )
        for name, value in wide.items():
            assert found[name].dtype == value.dtype, "what NumPy has no type for is float32 outside"
            ours, theirs, torchs = (array[~undecided] for array in (found[name], value, rounded[name]))
            limit = 2 * np.abs(torchs - theirs).max() if value.dtype == np.float32 else 0
            assert np.abs(ours - theirs).max() <= limit, name
        for node in engine._request.compiled.get_runtime_model().get_ops():  # type: ignore[attr-defined]
            info = {key: node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")}
            kinds.add((info["layerType"], info["runtimePrecision"]))
    assert {kind for kind, precision in kinds if precision == "bf16"}.isdisjoint({"Softmax", "MVN", "Reduce"})
    assert ("Softmax", "f32") in kinds and ("MVN", "f32") in kinds
    native = "avx512_bf16" in Path("/proc/cpuinfo").read_text("utf-8")
    assert (("FullyConnected", "bf16") in kinds) or not native
