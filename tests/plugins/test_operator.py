"""`skimrt::token_compact` by the kernel's C function, which the tests compile for the host."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plugins.token_compact import operator
from plugins.token_compact.binding import TokenCompact

from .golden import GoldenCase, read_cases

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def library(host_library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(host_library))


def tensors_of(case: GoldenCase, dtype: torch.dtype) -> Tensors:
    hidden = torch.from_numpy(case.hidden(np.float32)).to(dtype)
    score, alive, position = (torch.from_numpy(array.copy()) for array in (case.score, case.alive, case.position))
    return hidden, score, alive, position


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", read_cases(), ids=lambda case: case.name)
def test_the_kernel_gives_what_the_operator_does(library: ctypes.CDLL, case: GoldenCase, dtype: torch.dtype) -> None:
    inputs, attributes = tensors_of(case, dtype), (case.threshold, case.capacity, bool(case.protect_first))
    found = operator.by_kernel(TokenCompact(library), inputs, *attributes, stream=None)
    for ours, theirs in zip(found, torch.ops.skimrt.token_compact(*inputs, *attributes), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_what_is_not_dense_is_copied_first(library: ctypes.CDLL) -> None:
    hidden = torch.randn(5, 2, 4).transpose(0, 1)  # [2, 5, 4]
    score, alive = torch.rand(5, 2).T, torch.ones(5, 2, dtype=torch.int32).T
    position = torch.arange(5, dtype=torch.int32).expand(2, 5)
    inputs = hidden, score, alive, position
    found = operator.by_kernel(TokenCompact(library), inputs, 0.5, 3, False, stream=None)
    for ours, theirs in zip(found, torch.ops.skimrt.token_compact(*inputs, 0.5, 3, False), strict=True):
        assert torch.equal(ours, theirs)


def test_a_refusal_of_the_kernel_is_an_error(library: ctypes.CDLL) -> None:
    hidden, rows = torch.zeros(1, 4097, 2), torch.zeros(1, 4097, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"token_compact of 1 x 4097 rows to 4097 of 8 bytes: .* \(CUDA 1\)"):
        operator.by_kernel(TokenCompact(library), (hidden, rows.float(), rows, rows), 0.5, 0, True, stream=None)


@pytest.fixture
def registered(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Callable[..., Tensors]]]:
    """What `use_kernel` registers, by device, with the host in the place of the GPU."""
    found: dict[str, Callable[..., Tensors]] = {}

    def register(device: str) -> Callable[[Callable[..., Tensors]], None]:
        def keep(kernel: Callable[..., Tensors]) -> None:
            assert device not in found
            found[device] = kernel

        return keep

    monkeypatch.setattr(operator, "TokenCompact", lambda: TokenCompact(library))
    monkeypatch.setattr(operator.token_compact, "register_kernel", register)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=None))
    operator.use_kernel.cache_clear()
    operator.use_kernel()
    operator.use_kernel()  # every engine that is loaded asks for it
    yield found
    operator.use_kernel.cache_clear()


def test_the_kernel_is_registered_once_and_for_cuda_alone(registered: dict[str, Callable[..., Tensors]]) -> None:
    assert list(registered) == ["cuda"]
    case = next(case for case in read_cases() if case.capacity == 0 and case.protect_first)
    inputs = tensors_of(case, torch.float32)
    found = registered["cuda"](*inputs, case.threshold)  # the dispatcher leaves trailing defaults out
    for ours, theirs in zip(found, torch.ops.skimrt.token_compact(*inputs, case.threshold), strict=True):
        assert torch.equal(ours, theirs)
