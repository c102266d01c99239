"""The target `cpu` through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import Arrays, Engine, Profile
from engines.backends.cpu import CpuBackend
from engines.backends.external_weights import Read, external_weights
from engines.binding import Binding
from engines.buckets import Bucket
from engines.errors import InputError
from engines.files import content_of
from engines.quiet import onnxruntime_package
from engines.stages import static_shape


class OnnxRuntimeBackend(CpuBackend):
    """One session for each engine. Threads must not spin: a staged run's sessions would fight for the cores."""

    provider = "onnxruntime"

    def unfit(self, precision: str) -> str | None:
        if precision == "bf16":
            return "it has almost no kernels in bf16; install openvino, or build with --precision fp32"
        return None

    def load(
        self, engine_file: Path, threads: int | None, binding: Binding | None = None, read: Read = content_of
    ) -> Engine:
        onnxruntime = onnxruntime_package()

        options = session_options()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = read(engine_file)
        weights = external_weights(engine_file, graph, read)
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weight.values) for weight in weights]
        options.add_external_initializers([weight.name for weight in weights], values)
        try:
            session = onnxruntime.InferenceSession(bytes(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class of their own
            raise InputError(f"{engine_file}: ONNX Runtime cannot load it: {error}") from None
        return _OnnxRuntimeEngine(session)


def session_options() -> Any:
    """The options of any session, whose values are right on every CPU."""
    onnxruntime = onnxruntime_package()

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns where it cannot fold a constant
    # On x86 without an INT8 dot product (VNNI), the faster of its INT8 products overflow: 16 bits hold sums of two.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


class _OnnxRuntimeEngine(Engine):
    """A session with symbolic shapes."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._profiles: dict[Bucket, _OnnxRuntimeProfile] = {}

    def profile(self, bucket: Bucket) -> Profile:
        if bucket not in self._profiles:
            self._profiles[bucket] = _OnnxRuntimeProfile(self._session, bucket)
        return self._profiles[bucket]


class _OnnxRuntimeProfile(Profile):
    """Arrays of one shape, bound once: the inputs at once, the outputs when the first run has shaped them."""

    def __init__(self, session: Any, bucket: Bucket) -> None:
        self._session, self._binding = session, session.io_binding()
        self.inputs: dict[str, np.ndarray] = {}
        self._outputs: dict[str, np.ndarray] = {}
        for value in session.get_inputs():
            shape = static_shape(value.shape, bucket.batch, bucket.length)
            self.inputs[value.name] = array = np.zeros(shape, dtype=_DTYPES[value.type])
            self._binding.bind_ortvalue_input(value.name, _borrowed(array))

    def run(self) -> Arrays:
        if not self._outputs:
            names = [value.name for value in self._session.get_outputs()]
            found = self._session.run(names, self.inputs)
            self._outputs = {name: np.ascontiguousarray(value) for name, value in zip(names, found, strict=True)}
            for name, array in self._outputs.items():
                self._binding.bind_ortvalue_output(name, _borrowed(array))
        else:
            self._session.run_with_iobinding(self._binding)
        return self._outputs


def _borrowed(array: np.ndarray) -> Any:
    """An OrtValue in the memory of an array, which has to live as long."""
    return onnxruntime_package().OrtValue.ortvalue_from_numpy(array)


_DTYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
