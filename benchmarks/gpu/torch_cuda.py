"""A trial engine without TensorRT: a stage in PyTorch behind the project's own `Executable`.

What it is for: to run the device runner (streams, graphs, regrouping), the kernels and the gates on a GPU that no
engine library here knows. Its figures are of a trial, not of a target that the project supports.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.internals import queue_of
from engines.backends import torch_cuda
from engines.backends.base import PLAIN, Backend, Built, Engine, EngineOptions, Report
from engines.backends.device import Device, Tensor
from engines.backends.device_engine import DeviceProfile
from engines.backends.external_weights import Read
from engines.binding import Binding
from engines.buckets import Bucket
from engines.files import content_of
from pipeline.graph.export import example_inputs
from pipeline.graph.precision import Precision, dtype_of, reference_in
from pipeline.graph.stages import HeadStage, Stage
from pipeline.graph.torch_tensorrt import trace
from pipeline.model.config import CheckpointConfig

MODES = ("eager", "compile", "aoti")
"""PyTorch as it is, torch.compile, or an AOTInductor package."""
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.uint16, torch.int32: np.int32}
_GRAPHS_COMPILED = 256
"""Shapes of one module that torch.compile keeps: every bucket is one."""
Put = Callable[[int, Callable[[], None]], None]
"""Queues work on the stream of a handle."""


class TorchBackend(Backend):
    """The stages of one model as engines on a GPU.

    An engine's file names its stage; with `aoti` the packages of its buckets lie beside it.
    stages: by the stem of their graph's file name. host: the tests' stand-in device instead of the GPU; on it every
    line but CUDA's own runs.
    """

    target, provider, precisions = "torch", "torch", ("fp32", "fp16", "bf16")
    suffix = ".json"

    def __init__(
        self,
        stages: Mapping[str, Stage | HeadStage],
        config: CheckpointConfig,
        precision: Precision,
        mode: str = "eager",
        host: Device | None = None,
    ) -> None:
        self._stages, self._config, self.precision, self.mode = stages, config, precision, mode
        self._host, self._where = host, "cuda" if host is None else "cpu"
        self._narrow: dict[str, Any] = {}
        self._loaded: dict[Path, TorchEngine] = {}

    def available(self) -> str | None:
        return None if self._host is not None or torch.cuda.is_available() else "PyTorch finds no CUDA device"

    def device(self) -> Device:
        if self._host is not None:
            return self._host
        from engines.backends.cuda_device import cuda_device

        return cuda_device()

    def build(
        self,
        stage_graph: Path,
        buckets: Sequence[Bucket],
        out: Path,
        options: EngineOptions = PLAIN,
        report: Report | None = None,
    ) -> Built:
        out.write_text(json.dumps({"stage": stage_graph.stem}) + "\n", "utf-8")
        if self.mode == "aoti":
            for bucket in buckets:
                program = trace(self._module(stage_graph.stem), self._example(stage_graph.stem, bucket))
                torch._inductor.aoti_compile_and_package(program, package_path=str(_package(out, bucket)))
        return Built()

    def load(
        self, engine_file: Path, threads: int | None, binding: Binding | None = None, read: Read = content_of
    ) -> TorchEngine:
        key = engine_file.resolve()
        if key not in self._loaded:
            self._loaded[key] = TorchEngine(self, json.loads(read(engine_file).tobytes())["stage"], engine_file)
        return self._loaded[key]

    def executable(self, name: str, bucket: Bucket, package: Path | None = None) -> TorchExecutable:
        """A stage for a bucket; `package` is what `build` wrote in the mode aoti."""
        run: Any = self._module(name)
        if self.mode == "compile":
            torch._dynamo.config.cache_size_limit = _GRAPHS_COMPILED
            run = torch.compile(run, fullgraph=True, dynamic=False)
        elif self.mode == "aoti":
            run = torch._inductor.aoti_load_package(str(package))
        put = None if self._host is None else queue_of(self._host)
        return TorchExecutable(run, self._stages[name], self._example(name, bucket), put)

    def _module(self, name: str) -> Any:
        if name not in self._narrow:
            # A copy also in fp32: the gates compare with the model itself, which stays on the CPU.
            narrow = reference_in(deepcopy(self._stages[name]), self.precision)
            self._narrow[name] = narrow.to(self._where).eval()
        return self._narrow[name]

    def _example(self, name: str, bucket: Bucket) -> tuple[torch.Tensor, ...]:
        kind = dtype_of(self._module(name))
        values = example_inputs(self._stages[name], self._config, bucket.batch, bucket.length)
        return tuple(v.to(self._where, kind if v.is_floating_point() else v.dtype).contiguous() for v in values)


class TorchEngine(Engine):
    """A stage, with an executable for every bucket that is asked for."""

    def __init__(self, backend: TorchBackend, stage: str, file: Path) -> None:
        self._backend, self._stage, self._file = backend, stage, file
        self._profiles: dict[Bucket, DeviceProfile] = {}

    def profile(self, bucket: Bucket) -> DeviceProfile:
        if bucket not in self._profiles:
            executable = self._backend.executable(self._stage, bucket, _package(self._file, bucket))
            self._profiles[bucket] = DeviceProfile(self._backend.device(), executable)
        return self._profiles[bucket]


def _package(engine_file: Path, bucket: Bucket) -> Path:
    return engine_file.with_name(f"{engine_file.stem}_b{bucket.batch}_s{bucket.length}.pt2")


class TorchExecutable:
    """A stage for one bucket. put: queues work on a stream that is not CUDA's."""

    scratch_bytes = 0

    def __init__(
        self,
        run: Callable[..., Any],
        stage: Stage | HeadStage,
        example: Sequence[torch.Tensor],
        put: Put | None = None,
    ) -> None:
        self._run, self.put = run, put
        self.inputs = _described(stage.input_names, example)
        self.outputs = _described(stage.output_names, self.run(example))

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The stage's outputs."""
        with torch.no_grad():
            found = self._run(*inputs)
        return tuple(found) if isinstance(found, list | tuple) else (found,)

    def execution(self, scratch: int, stream: int) -> TorchExecution:
        """A new context."""
        return TorchExecution(self)


class TorchExecution:
    """A context. What PyTorch allocates in its runs stays its own, because a graph holds those addresses."""

    def __init__(self, executable: TorchExecutable) -> None:
        self._executable = executable
        self._views: dict[str, torch.Tensor] = {}
        self._pool = torch.cuda.MemPool() if executable.put is None else None
        self._warm: set[int] = set()

    def bind(self, name: str, address: int) -> None:
        """Where a tensor lies from now on."""
        tensor = {**self._executable.inputs, **self._executable.outputs}[name]
        self._views[name] = tensor_at(address, tensor, on_gpu=self._executable.put is None)

    def enqueue(self, stream: int) -> None:
        """Queues one run."""
        if self._executable.put is not None:
            self._executable.put(stream, self._run)
            return
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            if stream not in self._warm:
                self._warm.add(stream)
                torch_cuda.make_workspace()
            assert self._pool is not None
            with torch.cuda.use_mem_pool(self._pool):
                self._run()

    def _run(self) -> None:
        found = self._executable.run([self._views[name] for name in self._executable.inputs])
        for name, value in zip(self._executable.outputs, found, strict=True):
            self._views[name].copy_(value)


def tensor_at(address: int, tensor: Tensor, on_gpu: bool) -> torch.Tensor:
    """The array at an address, as a PyTorch tensor over the same memory."""
    if on_gpu:
        found = torch_cuda.tensor_at(address, tensor)
    else:
        raw = (ctypes.c_uint8 * tensor.nbytes).from_address(address)
        found = torch.from_numpy(np.frombuffer(memoryview(raw), tensor.dtype).reshape(tensor.shape))
    return found.view(torch.bfloat16) if tensor.dtype == np.uint16 else found


def _described(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[str, Tensor]:
    return {n: Tensor(tuple(t.shape), np.dtype(_NUMPY[t.dtype])) for n, t in zip(names, tensors, strict=True)}
