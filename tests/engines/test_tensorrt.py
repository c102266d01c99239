"""Engines of TensorRT-RTX, really built, and what becomes of a library that refuses or is not there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engines.backends import BACKENDS, choose_backend, choose_builder, tensorrt
from engines.backends.base import Built, EngineOptions
from engines.backends.plugin import companion_digest, plugin_digest
from engines.backends.tensorrt import TensorRtBackend
from engines.backends.tensorrt_rtx import TensorRtRtxBackend
from engines.binding import Gpu
from engines.buckets import Bucket
from engines.errors import BuildError, InputError, TargetError
from engines.files import sha256
from plugins.library import ENVIRONMENT_VARIABLE, FILE_NAME, RTX_ALIAS_NAME
from tests.plugins.models import token_compact_model, token_compact_node

BUCKET = Bucket(batch=2, length=16)
H100 = Gpu("NVIDIA H100", "9.0", "13.0", "580.65.06")
LIBRARY = Path(__file__).resolve().parents[2] / "build" / "lib" / FILE_NAME


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin library as it was built here."""
    if not LIBRARY.is_file():
        pytest.skip(f"{FILE_NAME} is not built: it needs nvcc (cmake -S . -B build -G Ninja && cmake --build build)")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(LIBRARY))
    return LIBRARY


def plugin_layers(built: Built) -> int:
    """Layers of its profile that are plugins."""
    return sum(layer.kind == "custom_layer" for layer in built.layers[BUCKET])


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "12.0"])
@pytest.mark.parametrize("with_plugin", [False, True])
def test_an_engine_for_each_gpu(
    rtx: TensorRtRtxBackend, plugin: Path, graph: Path, tmp_path: Path, capability: str, with_plugin: bool
) -> None:
    out, seen = tmp_path / "engines" / "stage_0.plan", []
    options = EngineOptions(plugin=with_plugin, compute_capabilities=(capability,))
    built = rtx.build(graph, [BUCKET], out, options, lambda phase, done: seen.append((phase, done)))
    assert plugin_layers(built) == with_plugin and len(built.layers[BUCKET]) > with_plugin
    assert built.seconds is not None and built.peak_bytes is not None and built.peak_bytes > 50e6
    assert seen[0] == ("Building engine", 0.0) and seen[-1][1] > 0.5 and all(0 <= done <= 1 for _, done in seen)
    assert [path.name for path in out.parent.iterdir()] == ["stage_0.plan"], "neither log nor half an engine is left"
    binding = rtx.binding(options)
    assert binding.compute_capabilities == (capability,) and binding.gpu is None
    assert binding.plugin == (sha256(plugin) if with_plugin else None)


def quantized_linear(width: int = 64) -> onnx.ModelProto:
    """A linear layer between Q/DQ pairs, in fp16, its result compacted."""
    rng = np.random.default_rng(0)
    model = token_compact_model(token_compact_node(0.25), onnx.TensorProto.FLOAT16, ("B", "S", width))
    constants = {
        "x_scale": np.float16(0.05),
        "x_zero": np.int8(0),
        "weight": rng.normal(size=(width, width)).astype(np.float16),
        "w_scale": np.full(width, 0.02, np.float16),
        "w_zero": np.zeros(width, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "x_scale", "x_zero"], ["x_quantized"]),
        helper.make_node("DequantizeLinear", ["x_quantized", "x_scale", "x_zero"], ["x"]),
        helper.make_node("QuantizeLinear", ["weight", "w_scale", "w_zero"], ["w_quantized"], axis=1),
        helper.make_node("DequantizeLinear", ["w_quantized", "w_scale", "w_zero"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["hidden"]),
    ]
    rest = list(model.graph.node)[1:]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(model, full_check=True)
    return model


def test_the_memory_is_the_builders_own(rtx: TensorRtRtxBackend, graph: Path, tmp_path: Path) -> None:
    """However much this process holds, which decides how many builders run side by side."""
    ours = np.ones(1 << 27)  # 1 GiB
    built = rtx.build(graph, [BUCKET], tmp_path / "stage_0.plan")
    assert built.peak_bytes is not None and built.peak_bytes < ours.nbytes / 2


def test_quantized_products_run_in_int8(rtx: TensorRtRtxBackend, plugin: Path, tmp_path: Path) -> None:
    onnx.save(quantized_linear(), tmp_path / "stage_0.onnx")
    built = rtx.build(tmp_path / "stage_0.onnx", [BUCKET], tmp_path / "stage_0.plan", EngineOptions(plugin=True))
    assert plugin_layers(built) == 1
    (product,) = (layer for layer in built.layers[BUCKET] if layer.kind == "gemm")
    assert "Int8" in product.inputs and product.outputs == ("Half",)


def test_what_the_parser_does_not_know_is_an_input_error(rtx: TensorRtRtxBackend, tmp_path: Path) -> None:
    """Fault 16: an unknown operator."""
    model = token_compact_model(token_compact_node(0.25))
    model.graph.node[0].op_type = "NobodyKnows"
    onnx.save(model, tmp_path / "stage_0.onnx")
    with pytest.raises(InputError, match=r"(?s)stage_0\.onnx: tensorrt_rtx .* cannot parse it.*NobodyKnows"):
        rtx.build(tmp_path / "stage_0.onnx", [BUCKET], tmp_path / "stage_0.plan")


def test_a_node_that_does_not_become_the_plugin_is_refused(
    rtx: TensorRtRtxBackend, plugin: Path, tmp_path: Path
) -> None:
    """Fault 18: never the function's body when the plugin was asked for."""
    node = token_compact_node(0.25)
    attributes = [attribute for attribute in node.attribute if attribute.name != "plugin_namespace"]
    del node.attribute[:]
    node.attribute.extend(attributes)
    onnx.save(token_compact_model(node), tmp_path / "stage_0.onnx")
    with pytest.raises(BuildError, match="expected 1 plugin layers for skimrt::TokenCompact, found 0"):
        rtx.build(tmp_path / "stage_0.onnx", [BUCKET], tmp_path / "stage_0.plan", EngineOptions(plugin=True))


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_a_plugin_library_that_is_none(
    rtx: TensorRtRtxBackend, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / FILE_NAME
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))
    options = EngineOptions(plugin=True)
    if content is None:
        with pytest.raises(TargetError, match="expected a file, found none"):
            rtx.binding(options)
    with pytest.raises(BuildError, match=r"expected (a file|an ELF shared library), found"):
        rtx.build(graph, [BUCKET], tmp_path / "stage_0.plan", options)


def shim(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that takes the place of a library in the worker."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))


STANDARD = """
import ctypes, json, pathlib
import tensorrt_rtx
globals().update({name: value for name, value in vars(tensorrt_rtx).items() if not name.startswith("__")})
__version__ = "11.4.0.106"
class Runtime:
    def __init__(self, logger): pass
    def deserialize_cuda_engine(self, plan): return self
    def create_engine_inspector(self): return self
    def get_engine_information(self, form):
        layer = {"Name": "mha", "LayerType": "kgen", "Inputs": [], "Outputs": [], "Metadata": "[ONNX Layer: compact]"}
        return json.dumps({"Layers": [layer]})
"""


def test_standard_tensorrt_takes_the_same_way(
    rtx: TensorRtRtxBackend, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TensorRT-RTX under its name, whose builder has the same interface: timing cache, options, inspector."""
    shim(tmp_path / "shim", "tensorrt", STANDARD, monkeypatch)
    out = tmp_path / "engines" / "stage_0.plan"
    options = EngineOptions(optimization_level=2, workspace=256)
    first = TensorRtBackend().build(graph, [BUCKET], out, options)
    assert [layer.name for layer in first.layers[BUCKET]] == ["mha"] and out.stat().st_size > 0
    assert (out.parent / "timing.cache").is_file()
    assert TensorRtBackend().build(graph, [BUCKET], out, options).layers == first.layers


@pytest.fixture
def on_h100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TensorRtBackend]:
    """Standard TensorRT 11.4 on an H100, as far as it can be had without."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13")
    shim(tmp_path / "shim", "tensorrt", STANDARD, monkeypatch)
    monkeypatch.syspath_prepend(str(tmp_path / "shim"))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: H100)
    monkeypatch.setattr(tensorrt, "missing_cuda", lambda: None)
    yield TensorRtBackend()
    sys.modules.pop("tensorrt", None)  # the stand-in was imported, and is not there for anyone else


def test_the_binding_is_that_of_the_machine(on_h100: TensorRtBackend, plugin: Path) -> None:
    assert on_h100.available() is None and on_h100.missing_to_build() is None
    binding = on_h100.binding(EngineOptions(plugin=True, compatibility="same-compute-capability"))
    assert (binding.version, binding.gpu, binding.driver) == ("11.4.0.106", "NVIDIA H100", "580.65.06")
    assert on_h100.mismatch(binding) is None


def test_an_engine_that_does_not_fit_is_never_deserialised(on_h100: TensorRtBackend, tmp_path: Path) -> None:
    """Fault 21. The file is no engine at all, which would be the next error."""
    (tmp_path / "stage_0.plan").write_bytes(b"not an engine")
    binding = on_h100.binding(EngineOptions()).model_copy(update={"version": "11.1.0.2"})
    with pytest.raises(TargetError, match=r"built by tensorrt 11\.1\.0\.2, here is 11\.4\.0\.106; build the artifact"):
        on_h100.load(tmp_path / "stage_0.plan", None, binding)
    with pytest.raises(InputError, match="expected an engine bound to tensorrt"):
        on_h100.load(tmp_path / "stage_0.plan", None)


def test_what_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 29."""
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: "no NVIDIA driver is installed")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reason = str(TensorRtBackend().available())
    package = "the package tensorrt is not installed (pip install 'skimrt[gpu]')"
    cuda = "the package cuda-python is not installed; pip install 'skimrt[gpu]'"
    assert reason == f"{package}; no NVIDIA driver is installed; {cuda}"
    assert "pip install 'skimrt[rtx]'" in str(TensorRtRtxBackend().missing_to_build())
    with pytest.raises(TargetError, match=r"cannot build for it: the package tensorrt is not.*--export-only"):
        choose_builder("tensorrt")
    with pytest.raises(TargetError, match="no NVIDIA driver"):
        choose_backend("auto", built={"tensorrt": ["fp16"], "tensorrt-rtx": ["fp16"]})


def test_options_that_a_target_does_not_have() -> None:
    given = EngineOptions(compute_capabilities=("8.9",), workspace=1, plugin=True)
    by_target = {backend.target: backend.refuse_unused(given) for backend in BACKENDS}
    assert by_target["tensorrt"] == ["compute capabilities: the target tensorrt has no such option"]
    assert by_target["tensorrt-rtx"] == ["workspace: the target tensorrt-rtx has no such option"]
    assert len(by_target["cpu"]) == 3


def test_what_lies_beside_the_plugin_is_digested_when_it_is_there(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / FILE_NAME))
    (tmp_path / FILE_NAME).write_bytes(b"plugin")
    assert companion_digest() is None
    (tmp_path / RTX_ALIAS_NAME).write_bytes(b"one")
    assert companion_digest() == sha256(tmp_path / RTX_ALIAS_NAME)
    (tmp_path / RTX_ALIAS_NAME).write_bytes(b"another")
    assert companion_digest() == sha256(tmp_path / RTX_ALIAS_NAME) != plugin_digest()
