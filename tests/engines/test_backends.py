"""Backends of the target cpu: engine files, shared weights, and errors for what is no graph."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines import backends
from engines.backends import BACKENDS, cpu_graph
from engines.buckets import Bucket
from engines.errors import InputError, TargetError
from tests.engines.toy import WIDTH, WORDS, Toy

SMALL, LARGE = Bucket(batch=1, length=4), Bucket(batch=3, length=12)


def backend_of(provider: str) -> backends.Backend:
    return next(backend for backend in BACKENDS if backend.provider == provider)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(Toy().graph(0), tmp_path / "stage_0.onnx")
    return tmp_path / "stage_0.onnx"


def feeds(bucket: Bucket) -> dict[str, np.ndarray]:
    rng, shape = np.random.default_rng(0), (bucket.batch, bucket.length)
    ids = rng.integers(0, WORDS - 1, shape, dtype=np.int32)
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "alive": np.ones_like(ids)}


@pytest.mark.parametrize("bucket", [SMALL, LARGE])
def test_a_profile_has_static_shapes_and_its_own_buffers(
    graph: Path, tmp_path: Path, provider: str, bucket: Bucket
) -> None:
    backend = backend_of(provider)
    backend.build(graph, [SMALL, LARGE], tmp_path / "engines" / "one.onnx")
    engine = backend.load(tmp_path / "engines" / "one.onnx", threads=1)
    other = engine.profile(SMALL if bucket == LARGE else LARGE)
    profile = engine.profile(bucket)
    first = profile(feeds(bucket))
    assert first["packed"].shape == (bucket.batch, bucket.length, WIDTH)
    assert first["packed_position"].dtype == first["count"].dtype == np.int32
    assert {name: buffer.shape for name, buffer in profile.inputs.items()} == dict.fromkeys(
        ("input_ids", "token_type_ids", "alive"), (bucket.batch, bucket.length)
    )
    for name, buffer in feeds(bucket).items():
        profile.inputs[name][...] = buffer
    other(feeds(SMALL if bucket == LARGE else LARGE))
    in_place = profile.run()
    for name, value in first.items():
        np.testing.assert_array_equal(in_place[name], value)
    profile.inputs["alive"][...] = 0
    profile.run()
    assert first["count"].min() >= 1 and first["packed_alive"].any(), "a call's results are copies"
    with pytest.raises(ValueError, match="input_ids"):
        profile(feeds(SMALL if bucket == LARGE else LARGE))


def test_a_bucket_beyond_those_of_the_build_is_refused(graph: Path, tmp_path: Path) -> None:
    """OpenVINO's memory is laid out for the largest one."""
    backend_of("openvino").build(graph, [SMALL, LARGE], tmp_path / "one.onnx")
    engine = backend_of("openvino").load(tmp_path / "one.onnx", 1)
    for batch, length in ((4, 12), (1, 13), (1, 3)):
        with pytest.raises(InputError, match=f"it has no profile {batch}x{length}"):
            engine.profile(Bucket(batch=batch, length=length))


def test_both_providers_agree(graph: Path, tmp_path: Path) -> None:
    results = []
    for backend in BACKENDS:
        if backend.target == "cpu":
            backend.build(graph, [LARGE], tmp_path / backend.provider / "one.onnx")
            engine = backend.load(tmp_path / backend.provider / "one.onnx", None)
            results.append(engine.profile(LARGE)(feeds(LARGE)))
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], atol=1e-6)


def test_an_input_that_is_passed_through(tmp_path: Path, provider: str) -> None:
    """The last stage returns `alive` and `position` as they came; a provider may merge such tensors' names."""
    onnx.save(Toy(thresholds=()).graph(0), tmp_path / "stage_0.onnx")
    backend = backend_of(provider)
    backend.build(tmp_path / "stage_0.onnx", [SMALL], tmp_path / "one.onnx")
    engine = backend.load(tmp_path / "one.onnx", None)
    found = engine.profile(SMALL)({**feeds(SMALL), "alive": np.array([[1, 1, 0, 0]], np.int32)})
    assert found["final_alive"].tolist() == [[1, 1, 0, 0]]
    assert found["final_position"].tolist() == [[0, 1, 2, 3]]


def test_large_weights_are_in_a_file_of_their_own(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_graph, "_SHARED_FROM", 64)
    out, weights = tmp_path / "engines", tmp_path / "engines" / "stage_0.onnx.weights"
    cpu_graph.write_cpu_graph(graph, [SMALL, LARGE], out / "stage_0.onnx")
    assert sorted(out.iterdir()) == [out / "stage_0.onnx", weights]
    assert weights.stat().st_size >= Toy().table.nbytes
    model = onnx.load(out / "stage_0.onnx", load_external_data=False)
    (external,) = (tensor for tensor in model.graph.initializer if tensor.external_data)
    entries = {entry.key: entry.value for entry in external.external_data}
    assert entries["location"] == weights.name and int(entries["offset"]) % 4096 == 0
    for backend in BACKENDS:
        if backend.target == "cpu" and backend.available() is None:
            assert backend.load(out / "stage_0.onnx", None)
    monkeypatch.undo()
    cpu_graph.write_cpu_graph(graph, [SMALL, LARGE], out / "stage_0.onnx")
    assert [path.name for path in out.iterdir()] == ["stage_0.onnx"], "what nothing refers to is not left"


def test_functions_are_inlined_and_shapes_stay_symbolic(graph: Path, tmp_path: Path) -> None:
    cpu_graph.write_cpu_graph(graph, [SMALL, LARGE], tmp_path / "one.onnx")
    model = onnx.load(tmp_path / "one.onnx")
    assert "TokenCompact" not in {node.op_type for node in model.graph.node} and not model.functions
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["B", "S"]
    (bounds,) = (entry.value for entry in model.metadata_props if entry.key == cpu_graph.BOUNDS)
    assert bounds == "1-3x4-12" and cpu_graph.parse_bounds(bounds) == ((1, 3), (4, 12))
    assert not list(tmp_path.glob("*.partial"))


def test_keys_are_transposed_in_two_steps_that_give_the_same(tmp_path: Path, provider: str) -> None:
    """The second of them swaps the last two axes, which a product of matrices does by itself."""
    helper, heads = onnx.helper, np.array([0, 0, 2, WIDTH // 2], np.int64)
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        for name, shape in (("hidden", ["batch", "length", WIDTH]), ("packed", None))
    )
    nodes = [
        helper.make_node("Reshape", ["hidden", "heads"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["queries"], "queries", perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["rows"], ["keys"], "keys", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["queries", "keys"], ["packed"]),
    ]
    graph = helper.make_graph(nodes, "scores", inputs, outputs, [onnx.numpy_helper.from_array(heads, "heads")])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "scores.onnx")
    cpu_graph.write_cpu_graph(tmp_path / "scores.onnx", [LARGE], tmp_path / "one.onnx")
    steps = [node for node in onnx.load(tmp_path / "one.onnx").graph.node if node.op_type == "Transpose"]
    assert [list(step.attribute[0].ints) for step in steps] == [[0, 2, 1, 3], [0, 2, 1, 3], [0, 1, 3, 2]]

    hidden = np.random.default_rng(0).standard_normal((LARGE.batch, LARGE.length, WIDTH), np.float32)
    found = backend_of(provider).load(tmp_path / "one.onnx", 1).profile(LARGE)({"hidden": hidden})["packed"]
    rows = hidden.reshape(LARGE.batch, LARGE.length, 2, -1)
    np.testing.assert_allclose(found, np.einsum("bqhd,bkhd->bhqk", rows, rows), atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a graph"])
def test_what_is_no_graph_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stage_0.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"stage_0\.onnx"):
        cpu_graph.write_cpu_graph(tmp_path / "stage_0.onnx", [SMALL], tmp_path / "one.onnx")
    assert not (tmp_path / "one.onnx").exists()


def test_a_graph_of_one_static_shape_is_an_input_error(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_value = 16
    onnx.save(model, graph)
    with pytest.raises(InputError, match=r"expected a symbolic shape, found \['B', 16\]"):
        cpu_graph.write_cpu_graph(graph, [SMALL, LARGE], tmp_path / "one.onnx")


def test_an_engine_file_that_cannot_be_loaded(tmp_path: Path, provider: str) -> None:
    (tmp_path / "one.onnx").write_bytes(b"not a graph")
    with pytest.raises(InputError, match=r"one\.onnx"):
        backend_of(provider).load(tmp_path / "one.onnx", None)


def test_weights_outside_the_folder_are_refused(graph: Path, tmp_path: Path, provider: str) -> None:
    """Fault 15: an engine that refers to a file above its folder."""
    (tmp_path / "secret").write_bytes(Toy().table.tobytes())
    model = Toy().graph(0)
    for tensor in model.graph.initializer:
        if tensor.name == "table":
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "stage_0.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"stage_0\.onnx"):
        cpu_graph.write_cpu_graph(tmp_path / "inner" / "stage_0.onnx", [SMALL], tmp_path / "one.onnx")


def test_the_first_engines_of_a_process_may_be_loaded_at_once() -> None:
    """What a first engine asks OpenVINO for used to lock two threads for ever, in a fresh process only."""
    code = """
import sys, threading, openvino
from engines.backends.openvino import core

sys.setswitchinterval(1e-6)
together = threading.Barrier(8)

def first_use():
    together.wait()
    core()
    openvino.Type.f32.to_dtype()

threads = [threading.Thread(target=first_use) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_a_limit_of_processes_is_named(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of("openvino")
    backend.build(graph, [SMALL], tmp_path / "one.onnx")

    def refuse(*_: object) -> None:
        raise RuntimeError("Exception from src/inference/src/cpp/core.cpp:112: Resource temporarily unavailable")

    monkeypatch.setattr("openvino.Core.compile_model", refuse)
    with pytest.raises(TargetError, match=r"limit of processes .*--threads 1"):
        backend.load(tmp_path / "one.onnx", None)


def test_engines_of_one_thread_start_none(graph: Path, tmp_path: Path) -> None:
    backend = backend_of("openvino")
    backend.build(graph, [SMALL], tmp_path / "one.onnx")
    engines, before = [backend.load(tmp_path / "one.onnx", 1)], len(os.listdir("/proc/self/task"))
    engines += [backend.load(tmp_path / "one.onnx", 1) for _ in range(8)]
    for engine in engines:
        engine.profile(SMALL)(feeds(SMALL))
    assert len(os.listdir("/proc/self/task")) <= before + 2
