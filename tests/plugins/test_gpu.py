"""The kernels, the plugin in an engine and the Python binding on a CUDA device; skipped without one."""

from __future__ import annotations

import importlib
import subprocess

import numpy as np
import onnx
import pytest
import torch

from plugins.library import load_into, open_library, require_plugin_layers
from plugins.regroup.binding import NO_POSITION, Regroup, Source, Target
from plugins.token_compact.operator import token_compact, use_kernel

from .conftest import require_package
from .golden import read_cases
from .models import token_compact_model, token_compact_node
from .native import BUILD

pytestmark = pytest.mark.gpu

SOURCES = BUILD.parent / "plugins"
SKIPPED = 77


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device that PyTorch can use")
    return torch.device("cuda")


def run(*command: object, seconds: float = 120) -> None:
    """Runs a test program; its status 77 is a skip."""
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=seconds)
    if result.returncode == SKIPPED:
        pytest.skip(result.stdout.strip().splitlines()[-1])
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("operator", ["token_compact", "regroup"])
def test_kernel_on_the_device_and_as_a_cuda_graph(plugin_library, operator: str) -> None:
    run(BUILD / "bin" / f"{operator}_device", SOURCES / operator / "cases.txt")


@pytest.mark.slow
def test_compute_sanitizer(plugin_library) -> None:
    run(SOURCES / "testing" / "compute_sanitizer.sh", BUILD, seconds=600)


def test_regroup_through_the_binding(plugin_library, cuda: torch.device) -> None:
    hidden = torch.randn(3, 4, 6, device=cuda, dtype=torch.float16)
    alive = torch.ones(3, 4, device=cuda, dtype=torch.int32)
    position = torch.arange(12, device=cuda, dtype=torch.int32).view(3, 4)
    out = torch.full((2, 5, 6), 7, device=cuda, dtype=torch.float16)
    out_alive, out_position = torch.full((2, 2, 5), 7, device=cuda, dtype=torch.int32)
    source = Source(hidden.data_ptr(), alive.data_ptr(), position.data_ptr(), sample=2, length=4)
    target = Target(out.data_ptr(), out_alive.data_ptr(), out_position.data_ptr(), batch=2, length=5, row_bytes=12)
    torch.cuda.synchronize()
    Regroup(open_library(plugin_library))([source, Source()], target, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    assert torch.equal(out[0, :4], hidden[2]) and not out[0, 4].any() and not out[1].any()
    assert out_alive.tolist() == [[1, 1, 1, 1, 0], [0] * 5]
    assert out_position.tolist() == [[8, 9, 10, 11, NO_POSITION], [NO_POSITION] * 5]


@pytest.mark.parametrize("case", read_cases(), ids=lambda case: case.name)
def test_token_compact_of_pytorch_by_the_kernel(plugin_library, cuda: torch.device, case) -> None:
    """Eagerly, and as a replayed CUDA graph, as an engine of the target torch has it."""
    use_kernel()
    arrays = case.hidden(np.float16), case.score, case.alive, case.position
    inputs = [torch.from_numpy(array.copy()) for array in arrays]
    attributes = case.threshold, case.capacity, bool(case.protect_first)
    expected, on_device = token_compact(*inputs, *attributes), [tensor.to(cuda) for tensor in inputs]
    found = [token_compact(*on_device, *attributes)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found.append(token_compact(*on_device, *attributes))
    graph.replay()
    torch.cuda.synchronize()
    for outputs in found:
        for ours, theirs in zip(outputs, expected, strict=True):
            assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("case", read_cases(), ids=lambda case: case.name)
def test_plugin_in_an_engine(plugin_library, cuda: torch.device, log, case) -> None:
    require_package("tensorrt", "tensorrt")
    trt = importlib.import_module("tensorrt")

    load_into(trt, plugin_library)
    logger = log(trt).logger
    batch, length = case.score.shape
    node = token_compact_node(case.threshold, case.capacity, case.protect_first)
    model = token_compact_model(node, onnx.TensorProto.FLOAT16, (batch, length, case.width))
    builder = trt.Builder(logger)
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    require_plugin_layers(trt, network, expected=1)
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    context = trt.Runtime(logger).deserialize_cuda_engine(plan).create_execution_context()

    hidden = case.hidden(np.float16)
    rows = case.source.shape[1]
    arrays = {"input": hidden, "score": case.score, "alive": case.alive, "position": case.position}
    tensors = {name: torch.from_numpy(array).to(cuda) for name, array in arrays.items()}
    tensors["output"] = torch.empty(batch, rows, case.width, device=cuda, dtype=torch.float16)
    tensors |= {
        name: torch.empty(batch, rows, device=cuda, dtype=torch.int32) for name in ("packed_alive", "packed_position")
    }
    tensors["count"] = torch.empty(batch, device=cuda, dtype=torch.int32)
    for name, tensor in tensors.items():
        context.set_tensor_address(name, tensor.data_ptr())

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        assert context.execute_async_v3(stream.cuda_stream)
    for name in ("output", "packed_alive", "packed_position", "count"):
        tensors[name].fill_(7)
    graph.replay()
    torch.cuda.synchronize()
    expected = {
        "output": np.take_along_axis(hidden, case.source[:, :, None], axis=1),
        "packed_alive": case.packed_alive,
        "packed_position": case.packed_position,
        "count": case.count,
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name].cpu().numpy(), array)
