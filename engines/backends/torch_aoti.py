"""The target `torch`: stages that AOTInductor compiles ahead of time, for a CPU or for any NVIDIA GPU.

PyTorch is imported when an engine is loaded, never before.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from engines.backends.base import PLAIN, Arrays, Backend, Built, Engine, EngineOptions, Profile, Report, program_file
from engines.backends.device import Device
from engines.backends.external_weights import Read
from engines.backends.gpu import find_gpu
from engines.backends.isolated import compile_isolated
from engines.backends.plugin import plugin_digest, use_kernel
from engines.backends.torch_file import Contents, Run
from engines.backends.torch_package import TorchPackage
from engines.backends.torch_worker import TorchRequest
from engines.binding import Binding
from engines.buckets import Bucket
from engines.errors import InputError, TargetError
from engines.files import content_of
from engines.machine import instruction_sets

_WORKER = "engines.backends.torch_worker"


class TorchBackend(Backend):
    """What both devices share. device_name: "cpu" or "cuda", as PyTorch calls it."""

    target = "torch"
    isolated = True
    machine_bound = True
    suffix = ".safetensors"
    reads_program = True
    device_name: ClassVar[Literal["cpu", "cuda"]]

    def missing_to_build(self) -> str | None:
        missing = [self.available(), _missing_compiler()]
        return "; ".join(reason for reason in missing if reason) or None

    def build(
        self,
        stage_graph: Path,
        buckets: Sequence[Bucket],
        out: Path,
        options: EngineOptions = PLAIN,
        report: Report | None = None,
    ) -> Built:
        shapes = tuple((bucket.batch, bucket.length) for bucket in buckets)
        request = TorchRequest(str(program_file(stage_graph)), str(out), self.device_name, shapes, options.plugin)
        return compile_isolated(request, report, _WORKER)

    def load(
        self, engine_file: Path, threads: int | None, binding: Binding | None = None, read: Read = content_of
    ) -> Engine:
        if binding is None or not self.is_for(binding):
            raise InputError(f"{engine_file}: expected an engine bound to torch on {self.device_name}, found {binding}")
        problem = self.mismatch(binding)
        if problem is not None:
            raise TargetError(f"{engine_file}: {problem}; build the artifact again on this machine")
        if binding.plugin is not None:
            use_kernel()
        return self._engine(TorchPackage(engine_file, read(engine_file), self.device_name), threads)

    @abstractmethod
    def _engine(self, package: TorchPackage, threads: int | None) -> Engine:
        """The engine of a package."""


class TorchCpuBackend(TorchBackend):
    """On the CPU: one model with the bounds of all its buckets, bound to the instructions of the CPU that built it."""

    provider = "torch-cpu"
    precisions = ("fp32", "bf16")
    on_cpu = True
    device_name = "cpu"

    def available(self) -> str | None:
        return _missing_torch()

    def is_for(self, binding: Binding) -> bool:
        return binding.library == "torch" and binding.cpu is not None

    def binding(self, options: EngineOptions) -> Binding:
        return Binding(
            library="torch",
            version=_torch_version(self.target),
            cpu=" ".join(instruction_sets()),
            compiler=_compiler_version(),
        )

    def mismatch(self, binding: Binding) -> str | None:
        return binding.mismatch_on_cpu(_torch_version(self.target), instruction_sets())

    def _engine(self, package: TorchPackage, threads: int | None) -> Engine:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)  # of the process: PyTorch has no others
        return _CpuEngine(package)


class TorchCudaBackend(TorchBackend):
    """On an NVIDIA GPU: a model of static shapes for each bucket, bound to the GPU."""

    provider = "torch-cuda"
    precisions = ("fp32", "fp16", "bf16")
    plugin_by_default = True
    options = frozenset({"plugin"})
    device_name = "cuda"

    def available(self) -> str | None:
        gpu = find_gpu()
        if isinstance(gpu, str):
            return gpu
        missing = _missing_torch()
        if missing is not None:
            return missing
        import torch

        from engines.backends.cuda_device import missing_cuda

        if not torch.cuda.is_available():
            return f"PyTorch {torch.__version__} finds no CUDA device; install a CUDA build of PyTorch"
        return missing_cuda()

    def is_for(self, binding: Binding) -> bool:
        return binding.library == "torch" and binding.cpu is None

    def binding(self, options: EngineOptions) -> Binding:
        gpu = find_gpu()
        if isinstance(gpu, str):
            raise TargetError(f"target {self.target}: {gpu}")
        return Binding(
            library="torch",
            version=_torch_version(self.target),
            compute_capabilities=(gpu.compute_capability,),
            gpu=gpu.name,
            cuda=gpu.cuda,
            driver=gpu.driver,
            compiler=_compiler_version(),
            plugin=plugin_digest() if options.plugin else None,
        )

    def mismatch(self, binding: Binding) -> str | None:
        gpu = find_gpu()
        if isinstance(gpu, str):
            return gpu
        try:
            plugin = plugin_digest() if binding.plugin is not None else None
        except TargetError:
            plugin = None
        return binding.mismatch(_torch_version(self.target), gpu, plugin)

    def device(self) -> Device:
        from engines.backends.cuda_device import cuda_device

        return cuda_device()

    def _engine(self, package: TorchPackage, threads: int | None) -> Engine:
        from engines.backends.torch_cuda import TorchCudaEngine

        return TorchCudaEngine(self.device(), package)


class _CpuEngine(Engine):
    """The profiles of a package, whose one model takes every shape within its bounds."""

    def __init__(self, package: TorchPackage) -> None:
        self._package = package
        self._profiles: dict[Bucket, _CpuProfile] = {}

    def profile(self, bucket: Bucket) -> Profile:
        if bucket not in self._profiles:
            self._profiles[bucket] = _CpuProfile(self._package.model(bucket), self._package.contents, bucket)
        return self._profiles[bucket]


class _CpuProfile(Profile):
    """Input arrays of one shape, which the model reads where they are."""

    def __init__(self, model: Run, contents: Contents, bucket: Bucket) -> None:
        import torch

        self._model, self._names = model, [output.name for output in contents.outputs]
        self.inputs = {value.name: np.zeros(value.shape_at(bucket), value.numpy) for value in contents.inputs}
        self._tensors = [torch.from_numpy(array) for array in self.inputs.values()]

    def run(self) -> Arrays:
        found = self._model(list(self._tensors))
        return {name: value.numpy() for name, value in zip(self._names, found, strict=True)}


def _missing_torch() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "the package torch is not installed (pip install 'skimrt[cpu]')"
    return None


def _torch_version(target: str) -> str:
    missing = _missing_torch()
    if missing:
        raise TargetError(f"target {target}: {missing}")
    return importlib.metadata.version("torch")


def _compiler() -> str | None:
    """The C++ compiler that AOTInductor calls, if it is there."""
    return shutil.which(os.environ.get("CXX", "g++"))


def _missing_compiler() -> str | None:
    if _compiler() is None:
        name = os.environ.get("CXX", "g++")
        return f"the C++ compiler {name} is not installed (apt-get install g++, or set CXX to another one)"
    return None


@cache
def _version_of(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or [compiler])[0].strip()


def _compiler_version() -> str | None:
    compiler = _compiler()
    return None if compiler is None else _version_of(compiler)
