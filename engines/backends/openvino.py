"""The target `cpu` through OpenVINO."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import Arrays, Engine, Profile
from engines.backends.cpu import CpuBackend
from engines.binding import Binding
from engines.buckets import Bucket
from engines.errors import InputError
from engines.stages import INPUT_NAMES, OUTPUT_NAMES

_FIRST_USE = threading.Lock()


class OpenVinoBackend(CpuBackend):
    """Compiles when it loads; all engines share OpenVINO's one thread pool."""

    provider = "openvino"

    def unfit(self, precision: str) -> str | None:
        if precision == "int8" and _int8_overflows():
            return (
                "its sums of INT8 products overflow on this CPU, which lacks an INT8 dot product (VNNI); run it with "
                "--provider onnxruntime, or build with --precision fp32"
            )
        return None

    def load(self, engine_file: Path, threads: int | None, binding: Binding | None = None) -> Engine:
        config: dict[str, Any] = {
            # One stream that uses every thread for one call.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Also where the CPU would prefer bf16: the precision is the artifact's choice.
            "INFERENCE_PRECISION_HINT": "f32",
            # Pinned threads of many engines, or of several processes, wait for the same cores while others idle.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = _core().compile_model(engine_file, "CPU", config)
        except RuntimeError as error:
            raise InputError(f"{engine_file}: OpenVINO cannot compile it: {error}") from None
        return _OpenVinoEngine(compiled)


class _OpenVinoEngine(Engine):
    """A compiled model with dynamic shapes: it repacks the weights once, and a request of it runs one shape."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._profiles: dict[Bucket, _OpenVinoProfile] = {}

    def profile(self, bucket: Bucket) -> Profile:
        if bucket not in self._profiles:
            self._profiles[bucket] = _OpenVinoProfile(self._compiled, bucket)
        return self._profiles[bucket]


class _OpenVinoProfile(Profile):
    """An infer request whose input tensors are our arrays."""

    def __init__(self, compiled: Any, bucket: Bucket) -> None:
        self._request = compiled.create_infer_request()
        self._names = [_name(port) for port in compiled.outputs]
        self.inputs: dict[str, np.ndarray] = {}
        for port in compiled.inputs:
            widths = [dimension.get_length() for dimension in list(port.partial_shape)[2:]]
            array = np.zeros((bucket.batch, bucket.length, *widths), dtype=port.element_type.to_dtype())
            self._request.set_tensor(port, _tensor(array))
            self.inputs[_name(port)] = array

    def run(self) -> Arrays:
        self._request.infer(share_outputs=True)
        return {name: tensor.data for name, tensor in zip(self._names, self._request.output_tensors, strict=True)}


def _name(port: Any) -> str:
    """The ONNX name of a port; an output that is an input passed through carries both names."""
    wanted = INPUT_NAMES if port.node.get_type_name() == "Parameter" else OUTPUT_NAMES
    return next(name for name in port.get_names() if name in wanted)


def _tensor(array: np.ndarray) -> Any:
    import openvino

    return openvino.Tensor(array, shared_memory=True)


@cache
def _int8_overflows() -> bool:
    """Whether a product of the largest INT8 values comes out too small, as it does where 16 bits hold sums of two."""
    import openvino
    from openvino import opset13 as ops

    rows, width, largest = 8, 64, 127
    x = ops.parameter([rows, width], np.float32)
    quantized = ops.fake_quantize(x, np.float32(-128), np.float32(127), np.float32(-128), np.float32(127), 256)
    scales = ops.constant(np.ones((1, width), np.float32))
    weight = ops.multiply(ops.convert(ops.constant(np.full((width, width), largest, np.int8)), np.float32), scales)
    model = openvino.Model([ops.matmul(quantized, weight, False, False)], [x])
    found = _core().compile_model(model, "CPU")(np.full((rows, width), largest, np.float32))[0]
    return not np.allclose(found, width * largest**2)


def _core() -> Any:
    with _FIRST_USE:
        return _first_core()


@cache
def _first_core() -> Any:
    import openvino

    # The first call fills a table of the library with the GIL released; a second thread that calls it meanwhile would
    # wait for that table with the GIL held, and both for ever.
    openvino.Type.f32.to_dtype()
    return openvino.Core()
