"""Which backend runs or compiles engines: the preferred one that is there and computes the precision right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.backends import BACKENDS, choose_backend, choose_builder, openvino, targets
from engines.buckets import Bucket
from engines.errors import InputError, TargetError


def test_the_preferred_available_backend_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (backend for backend in BACKENDS if backend.target == "cpu")
    assert choose_backend("cpu") is choose_backend("auto", built={"cpu": ["fp32"]}) is first
    assert choose_backend("cpu", second.provider, {"cpu": ["fp32"]}) is second
    monkeypatch.setattr(type(first), "available", lambda self: "the package is missing")
    assert choose_backend("cpu") is second
    monkeypatch.setattr(type(second), "available", lambda self: "so is this one")
    with pytest.raises(TargetError, match=r"(?s)the package is missing.*so is this one") as caught:
        choose_backend("cpu")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("overflows", [True, False])
def test_int8_is_left_to_a_provider_that_computes_it_right(overflows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (backend for backend in BACKENDS if backend.target == "cpu")
    monkeypatch.setattr(openvino, "_int8_overflows", lambda: overflows)
    expected = second if overflows else first
    assert choose_backend("cpu", built={"cpu": {"fp32", "int8"}}) is choose_builder("cpu", "int8") is expected
    assert choose_backend("cpu", built={"cpu": {"fp32"}}) is choose_builder("cpu") is first
    monkeypatch.setattr(type(second), "available", lambda self: "the package is missing")
    if overflows:
        with pytest.raises(TargetError, match=r"(?s)lacks an INT8 dot product.*--provider onnxruntime.*is missing"):
            choose_backend("auto", built={"cpu": {"int8"}})
        with pytest.raises(TargetError, match="--precision fp32"):
            choose_builder("cpu", "int8")


def test_bf16_is_left_to_a_provider_with_kernels_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (backend for backend in BACKENDS if backend.target == "cpu")
    assert choose_backend("cpu", built={"cpu": {"bf16"}}) is choose_builder("cpu", "bf16") is first
    with pytest.raises(TargetError, match=r"almost no kernels in bf16.*--precision fp32"):
        choose_backend("cpu", second.provider, {"cpu": {"bf16"}})
    monkeypatch.setattr(type(first), "available", lambda self: "the package is missing")
    with pytest.raises(TargetError, match=r"(?s)is missing.*install openvino"):
        choose_builder("cpu", "bf16")


def test_what_the_probe_says_of_this_machine_is_so(tmp_path: Path) -> None:
    """The largest values in a graph as calibration writes it, where the sums are exact or far off."""
    rows, width, largest = 16, 384, 127
    names = {"scale": np.float32(1), "zero": np.int8(0), "weight": np.full((width, width), largest, np.int8)}
    names |= {"scales": np.ones(width, np.float32), "zeros": np.zeros(width, np.int8)}
    onnx.save(
        onnx.helper.make_model(
            onnx.helper.make_graph(
                [
                    onnx.helper.make_node("QuantizeLinear", ["hidden", "scale", "zero"], ["q"]),
                    onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
                    onnx.helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["w"], axis=1),
                    onnx.helper.make_node("MatMul", ["x", "w"], ["packed"]),
                ],
                "product",
                [onnx.helper.make_tensor_value_info("hidden", onnx.TensorProto.FLOAT, [1, rows, width])],
                [onnx.helper.make_tensor_value_info("packed", onnx.TensorProto.FLOAT, [1, rows, width])],
                [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in names.items()],
            ),
            opset_imports=[onnx.helper.make_opsetid("", 20)],
            ir_version=10,
        ),
        tmp_path / "product.onnx",
    )
    for backend in (backend for backend in BACKENDS if backend.target == "cpu"):
        profile = backend.load(tmp_path / "product.onnx", 1).profile(Bucket(batch=1, length=rows))
        found = profile({"hidden": np.full((1, rows, width), largest, np.float32)})
        assert np.allclose(found["packed"], width * largest**2) == (backend.unfit("int8") is None)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    backend = next(backend for backend in BACKENDS if backend.provider == provider)
    assert f"the package {provider} is not installed" in str(backend.available())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"target": "tpu"}, "target 'tpu': expected auto or one of"),
        ({"provider": "pytorch"}, "provider 'pytorch': expected one of"),
        ({"target": "cpu", "built": {"elsewhere": ["fp32"]}}, "the artifact holds engines for elsewhere"),
        ({"built": {}}, "the artifact holds no engines"),
    ],
)
def test_impossible_choices_are_input_errors(arguments: dict, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        choose_backend(**arguments)


def test_loading_a_backend_needs_no_library_at_import() -> None:
    assert "cpu" in targets()
    assert {"openvino", "onnxruntime"} <= {backend.provider for backend in BACKENDS}


def test_importing_the_backends_loads_no_provider() -> None:
    code = "import sys, engines.backends; print(sorted({'openvino', 'onnxruntime', 'onnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
