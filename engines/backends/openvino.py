"""The target `cpu` through OpenVINO."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import Arrays, Engine, Profile
from engines.backends.cpu import CpuBackend
from engines.backends.cpu_graph import BOUNDS, parse_bounds
from engines.backends.external_weights import BFLOAT16, Read, Weight, external_weights, with_inputs
from engines.binding import Binding
from engines.buckets import Bucket
from engines.errors import InputError, TargetError
from engines.files import content_of
from engines.quiet import openvino_package
from engines.stages import INPUT_NAMES, OUTPUT_NAMES, static_shape

_FIRST_USE = threading.Lock()
_NO_MORE_THREADS = "Resource temporarily unavailable"
"""What C++ says of a thread that the system refuses."""


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

    def load(
        self, engine_file: Path, threads: int | None, binding: Binding | None = None, read: Read = content_of
    ) -> Engine:
        graph = read(engine_file)
        weights = external_weights(engine_file, graph, read)
        try:
            model = core().read_model(with_inputs(graph, weights), b"")
            _set_weights(model, weights)
            return _OpenVinoEngine(compile_on_cpu(_bounded(model), threads), weights)
        except RuntimeError as error:
            if _NO_MORE_THREADS in str(error):
                raise TargetError(
                    f"{engine_file}: OpenVINO cannot start its threads, two for every engine: the process is at its "
                    "limit of processes (ulimit -u, or a container's); raise that, use --threads 1, which needs none, "
                    "or build with fewer buckets"
                ) from None
            raise InputError(f"{engine_file}: OpenVINO cannot compile it: {error}") from None


def compile_on_cpu(model: Any, threads: int | None) -> Any:
    """Compiles a model, or a file with one, as all of ours are. Raises RuntimeError."""
    config: dict[str, Any] = {
        # One stream that uses every thread for one call. Of one thread it is the caller's: a stream of its own
        # costs every engine two threads, and every call the way to them and back.
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 0 if threads == 1 else 1,
        # Also where the CPU would prefer bf16: the precision is the artifact's choice. What a graph in bf16 types as
        # bf16 is computed in it, and what it types as float32 (scores, softmax, layer norm) is not.
        "INFERENCE_PRECISION_HINT": "f32",
        # Pinned threads of many engines, or of several processes, wait for the same cores while others idle.
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return core().compile_model(model, "CPU", config)


def _set_weights(model: Any, weights: Sequence[Weight]) -> None:
    """Puts constants in the place of the inputs that stand for the weights, which share the weights' memory."""
    constants = {weight.name: _constant(weight) for weight in weights}
    for port in list(model.inputs):
        (name,) = port.get_names() & constants.keys() or {None}
        if name is not None:
            port.node.output(0).replace(constants[name].output(0))
            model.remove_parameter(port.node)
    model.validate_nodes_and_infer_types()


def _constant(weight: Weight) -> Any:
    openvino, values = openvino_package(), weight.values
    if weight.kind == BFLOAT16:
        values = openvino.Tensor(values, openvino.Shape(list(values.shape)), openvino.Type.bf16)
    return openvino.opset13.constant(values, shared_memory=True)


class _Request:
    """A compiled model with dynamic shapes, which repacks the weights once, and one request that runs every shape.

    A request for each shape is no faster, and keeps outputs of its own.
    weights: what the model's constants refer to, and must live as long. bound: the bucket whose tensors it has.
    """

    def __init__(self, compiled: Any, weights: Sequence[Weight]) -> None:
        self.compiled, self.request, self._weights = compiled, compiled.create_infer_request(), weights
        self.names = [port_name(port) for port in compiled.outputs]
        self.bound: Bucket | None = None


class _OpenVinoEngine(Engine):
    """The profiles of a request."""

    def __init__(self, compiled: Any, weights: Sequence[Weight]) -> None:
        self._request = _Request(compiled, weights)
        self._profiles: dict[Bucket, _OpenVinoProfile] = {}

    def profile(self, bucket: Bucket) -> Profile:
        if bucket not in self._profiles:
            sizes = list(self._request.compiled.inputs[0].partial_shape)[:2]
            if any(
                n < d.min_length or n > d.max_length >= 0
                for n, d in zip((bucket.batch, bucket.length), sizes, strict=True)
            ):
                raise InputError(f"engine of batch and length {sizes}: it has no profile {bucket}; build it again")
            self._profiles[bucket] = _OpenVinoProfile(self._request, bucket)
        return self._profiles[bucket]


class _OpenVinoProfile(Profile):
    """Input arrays of one shape, which are the request's tensors when it runs them."""

    def __init__(self, request: _Request, bucket: Bucket) -> None:
        self._request, self._bucket = request, bucket
        self.inputs: dict[str, np.ndarray] = {}
        for port in request.compiled.inputs:
            shape = static_shape(_declared(port), bucket.batch, bucket.length)
            self.inputs[port_name(port)] = np.zeros(shape, dtype=port.element_type.to_dtype())
        self._tensors = [shared_tensor(array) for array in self.inputs.values()]

    def run(self) -> Arrays:
        ours = self._request
        if ours.bound != self._bucket:
            for index, tensor in enumerate(self._tensors):
                ours.request.set_input_tensor(index, tensor)
            ours.bound = self._bucket
        ours.request.infer(share_outputs=True)
        return {name: tensor.data for name, tensor in zip(ours.names, ours.request.output_tensors, strict=True)}


def _bounded(model: Any) -> Any:
    """The model with the bounds of its buckets on batch and length, for which OpenVINO lays out its memory once."""
    openvino, metadata = openvino_package(), ["framework", BOUNDS]
    if model.has_rt_info(metadata):
        sizes = [openvino.Dimension(*ends) for ends in parse_bounds(model.get_rt_info(metadata).astype(str))]
        model.reshape(
            {
                port: openvino.PartialShape(
                    [sizes[axis] if size is None else size for axis, size in enumerate(_declared(port))]
                )
                for port in model.inputs
            }
        )
    return model


def _declared(port: Any) -> list[int | None]:
    """The sizes of a port; None for those that the bucket says."""
    return [None if size.is_dynamic else size.get_length() for size in port.partial_shape]


def port_name(port: Any) -> str:
    """The ONNX name of a port; an output that is an input passed through carries both names."""
    wanted = INPUT_NAMES if port.node.get_type_name() == "Parameter" else OUTPUT_NAMES
    return next(name for name in port.get_names() if name in wanted)


def shared_tensor(array: np.ndarray) -> Any:
    """A tensor in the memory of an array, which has to live as long."""
    return openvino_package().Tensor(array, shared_memory=True)


@cache
def _int8_overflows() -> bool:
    """Whether a product of the largest INT8 values comes out too small, as it does where 16 bits hold sums of two."""
    openvino = openvino_package()
    ops = openvino.opset13

    rows, width, largest = 8, 64, 127
    x = ops.parameter([rows, width], np.float32)
    quantized = ops.fake_quantize(x, np.float32(-128), np.float32(127), np.float32(-128), np.float32(127), 256)
    scales = ops.constant(np.ones((1, width), np.float32))
    weight = ops.multiply(ops.convert(ops.constant(np.full((width, width), largest, np.int8)), np.float32), scales)
    model = openvino.Model([ops.matmul(quantized, weight, False, False)], [x])
    found = core().compile_model(model, "CPU")(np.full((rows, width), largest, np.float32))[0]
    return not np.allclose(found, width * largest**2)


def core() -> Any:
    """OpenVINO's core, one for the process."""
    with _FIRST_USE:
        return _first_core()


@cache
def _first_core() -> Any:
    openvino = openvino_package()
    # The first call fills a table of the library with the GIL released; a second thread that calls it meanwhile would
    # wait for that table with the GIL held, and both for ever.
    openvino.Type.f32.to_dtype()
    return openvino.Core()
