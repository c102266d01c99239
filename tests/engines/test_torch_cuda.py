"""Engines of the target torch on a GPU, as far as they can be seen without one: tensors of the host in its place."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from engines.backends import torch_cuda
from engines.backends.device import Tensor
from engines.backends.torch_cuda import TorchCudaEngine, TorchExecutable
from engines.backends.torch_file import Contents, Model, TensorOf
from engines.buckets import Bucket

BUCKET = Bucket(batch=2, length=3)
CONTENTS = Contents(
    models=(Model(name="b2_s3", batch=(2, 2), length=(3, 3)),),
    inputs=(
        TensorOf(name="hidden", dtype="BF16", shape=("batch", "length", 4)),
        TensorOf(name="alive", dtype="I32", shape=("batch", "length")),
    ),
    outputs=(
        TensorOf(name="packed", dtype="BF16", shape=("batch", "length", 4)),
        TensorOf(name="count", dtype="I32", shape=("batch",)),
    ),
)


def stage(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Stands for a model: doubles the rows that are alive, and counts them."""
    hidden, alive = tensors
    return [2 * hidden * alive[:, :, None], alive.sum(1, dtype=torch.int32)]


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts the host in the place of the GPU. What is asked of CUDA, in order."""
    asked: list[str] = []

    @contextmanager
    def noted(name: str) -> Iterator[None]:
        asked.append(f"in {name}")
        yield
        asked.append(f"out of {name}")

    def at(address: int, tensor: Tensor) -> torch.Tensor:
        raw = (ctypes.c_uint8 * tensor.nbytes).from_address(address)
        return torch.from_numpy(np.frombuffer(memoryview(raw), tensor.dtype).reshape(tensor.shape))

    monkeypatch.setattr(torch.cuda, "MemPool", lambda: object())
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle: handle)
    monkeypatch.setattr(torch.cuda, "stream", lambda handle: noted(f"stream {handle}"))
    monkeypatch.setattr(torch.cuda, "use_mem_pool", lambda pool: noted("pool"))
    monkeypatch.setattr(torch_cuda, "tensor_at", at)
    monkeypatch.setattr(torch_cuda, "make_workspace", lambda: asked.append("workspace"))
    return asked


def test_a_run_reads_and_writes_where_it_is_bound(on_host: list[str]) -> None:
    executable = TorchExecutable(stage, CONTENTS, BUCKET)
    assert executable.inputs["hidden"] == Tensor((2, 3, 4), np.dtype(np.uint16))
    assert executable.outputs["count"] == Tensor((2,), np.dtype(np.int32)) and executable.scratch_bytes == 0
    arrays = {n: np.zeros(t.shape, t.dtype) for n, t in {**executable.inputs, **executable.outputs}.items()}
    execution = executable.execution(0, 7)
    for name, array in arrays.items():
        execution.bind(name, array.ctypes.data)
    hidden = torch.arange(24, dtype=torch.bfloat16).reshape(2, 3, 4)
    arrays["hidden"][...] = hidden.view(torch.uint16).numpy()
    arrays["alive"][...] = [[1, 1, 0], [1, 0, 0]]
    execution.enqueue(7)
    execution.enqueue(7)
    packed = torch.from_numpy(arrays["packed"]).view(torch.bfloat16)
    assert torch.equal(packed, 2 * hidden * torch.from_numpy(arrays["alive"])[:, :, None])
    assert arrays["count"].tolist() == [2, 1]
    once = ["in stream 7", "in pool", "out of pool", "out of stream 7"]
    # cuBLAS's workspace is the stream's, made once, and not in the pool of a context.
    assert on_host == ["in stream 7", "workspace", *once[1:], *once]


def test_a_profile_is_made_once_of_the_bucket_s_own_model() -> None:
    class Package:
        contents = CONTENTS

        def __init__(self) -> None:
            self.asked: list[Bucket] = []

        def model(self, bucket: Bucket) -> Any:
            self.asked.append(bucket)
            return stage

    package = Package()
    engine = TorchCudaEngine(None, package)  # type: ignore[arg-type]
    assert engine.profile(BUCKET) is engine.profile(BUCKET) and package.asked == [BUCKET]
    assert engine.profile(BUCKET).input_shapes == {"hidden": (2, 3, 4), "alive": (2, 3)}
