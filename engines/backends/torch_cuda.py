"""An engine of the target `torch` on a GPU: AOTInductor's models over the device's own buffers, captured as graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engines.backends.base import Engine
from engines.backends.device import Device, Tensor
from engines.backends.device_engine import DeviceProfile
from engines.backends.torch_file import Contents, Run
from engines.buckets import Bucket

if TYPE_CHECKING:
    from engines.backends.torch_package import TorchPackage


class TorchCudaEngine(Engine):
    """The profiles of a package: each is a model of its own, and all of them use one copy of the weights."""

    def __init__(self, device: Device, package: TorchPackage) -> None:
        self._device, self._package = device, package
        self._profiles: dict[Bucket, DeviceProfile] = {}

    def profile(self, bucket: Bucket) -> DeviceProfile:
        if bucket not in self._profiles:
            executable = TorchExecutable(self._package.model(bucket), self._package.contents, bucket)
            self._profiles[bucket] = DeviceProfile(self._device, executable)
        return self._profiles[bucket]


class TorchExecutable:
    """A model for one bucket."""

    scratch_bytes = 0
    """A context's own pool holds what a run allocates."""

    def __init__(self, run: Run, contents: Contents, bucket: Bucket) -> None:
        self.run = run
        self.inputs, self.outputs = (
            {value.name: Tensor(value.shape_at(bucket), value.numpy) for value in values}
            for values in (contents.inputs, contents.outputs)
        )
        self.narrow = {value.name for value in (*contents.inputs, *contents.outputs) if value.dtype == "BF16"}

    def execution(self, scratch: int, stream: int) -> TorchExecution:
        """A new context."""
        return TorchExecution(self)


class TorchExecution:
    """A context. What PyTorch allocates in its runs stays its own, because a graph holds those addresses."""

    def __init__(self, executable: TorchExecutable) -> None:
        import torch

        self._executable = executable
        self._views: dict[str, Any] = {}
        self._pool = torch.cuda.MemPool()
        self._warm: set[int] = set()

    def bind(self, name: str, address: int) -> None:
        """Where a tensor lies from now on."""
        import torch

        view = tensor_at(address, {**self._executable.inputs, **self._executable.outputs}[name])
        self._views[name] = view.view(torch.bfloat16) if name in self._executable.narrow else view

    def enqueue(self, stream: int) -> None:
        """Queues one run."""
        import torch

        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            if stream not in self._warm:
                self._warm.add(stream)
                make_workspace()
            with torch.cuda.use_mem_pool(self._pool):
                found = self._executable.run([self._views[name] for name in self._executable.inputs])
                for name, value in zip(self._executable.outputs, found, strict=True):
                    self._views[name].copy_(value)


def tensor_at(address: int, tensor: Tensor) -> Any:
    """The array at an address of the GPU, as a tensor of PyTorch over the same memory."""
    import torch

    return torch.as_tensor(_Memory(address, tensor), device="cuda")


class _Memory:
    """Device memory as PyTorch takes it without a copy."""

    def __init__(self, address: int, tensor: Tensor) -> None:
        self.__cuda_array_interface__ = {
            "shape": tensor.shape,
            "typestr": tensor.dtype.str,
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def make_workspace() -> None:
    """Lets cuBLAS make the stream's workspace now: in a context's pool it would belong to that context."""
    import torch

    for dtype in (torch.float32, torch.float16):
        x = torch.ones(8, 8, device="cuda", dtype=dtype)
        torch.nn.functional.linear(x, x, x[0])
