"""A profile of a TensorRT engine as what the device runner executes, for the modules tensorrt and tensorrt_rtx."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from engines.backends.device import Tensor
from engines.buckets import Bucket
from engines.errors import InputError, SkimError


class TensorRtExecutable:
    """One optimisation profile of an ICudaEngine.

    trt:   the module that deserialised the engine. index: of the profile.
    Raises InputError for an engine that has tensors of other shapes than a stage's, or of a type we do not run.
    """

    def __init__(self, trt: ModuleType, engine: Any, index: int, bucket: Bucket) -> None:
        self._engine, self._index = engine, index
        self._strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.scratch_bytes: int = engine.get_device_memory_size_for_profile_v2(index)
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        types = {
            trt.DataType.FLOAT: np.float32,
            trt.DataType.HALF: np.float16,
            trt.DataType.BF16: np.uint16,
            trt.DataType.INT32: np.int32,
        }
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            symbolic, dtype = tuple(engine.get_tensor_shape(name)), types.get(engine.get_tensor_dtype(name))
            # Of every tensor of a stage the first dimension is the batch, and the second, if it is open, the length.
            sizes = (bucket.batch, bucket.length, *symbolic[2:])
            shape = tuple(size if size >= 0 else sizes[axis] for axis, size in enumerate(symbolic))
            if dtype is None or min(shape, default=1) < 1:
                raise InputError(
                    f"tensor {name!r}: expected [batch, length, ...] of fp32, fp16, bf16 or int32, found "
                    f"{list(symbolic)} of {engine.get_tensor_dtype(name)}; build the engine again"
                )
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[name] = Tensor(shape, np.dtype(dtype))

    def execution(self, scratch: int, stream: int) -> TensorRtExecution:
        """A new execution context, its activations at `scratch`, set up on a stream. Raises SkimError when there is too
        little memory, or TensorRT refuses the profile."""
        context = self._engine.create_execution_context(self._strategy)
        if context is None:
            raise SkimError(
                f"engine {self._engine.name!r}: expected an execution context, found none; TensorRT's log says why: if "
                "the device's memory is short use fewer streams or buckets"
            )
        if self.scratch_bytes:
            context.set_device_memory(scratch, self.scratch_bytes)
        chosen = context.set_optimization_profile_async(self._index, stream)
        if not chosen or not all(context.set_input_shape(name, t.shape) for name, t in self.inputs.items()):
            raise SkimError(f"engine {self._engine.name!r}: TensorRT refused profile {self._index}; its log says why")
        return TensorRtExecution(context, self)


class TensorRtExecution:
    """An IExecutionContext; keeps its engine."""

    def __init__(self, context: Any, executable: TensorRtExecutable) -> None:
        self._context, self._executable = context, executable

    def bind(self, name: str, address: int) -> None:
        """Where a tensor lies from now on. Raises SkimError when TensorRT refuses it."""
        if not self._context.set_tensor_address(name, address):
            raise SkimError(f"tensor {name!r}: TensorRT refused the address {address:#x}; its log says why")

    def enqueue(self, stream: int) -> None:
        """Queues one run. Raises SkimError when TensorRT refuses, also while a stream is captured."""
        if not self._context.execute_async_v3(stream):
            raise SkimError("execute_async_v3: expected success, found a refusal; TensorRT's log says why")
