"""Tries whether TensorRT-RTX runs on this GPU, and built for which compute capabilities.

python -m benchmarks.gpu.rtx --out rtx.json

Every case is a process of its own: it builds a tiny engine, deserialises, runs, compares, captures and replays it, and
tells how far it came. The last case is the plugin, built for what has run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.gpu.probe import version
from pipeline.cli import main_of

CAPABILITIES = {"current": [1], "default": [], "8.0": [80], "8.9": [89], "8.0 to 12.0": [80, 86, 89, 120], "9.0": [90]}
"""Numbers of ComputeCapability, which has none for 9.0; 1 is the GPU that is there, [] the library's default."""
_PLUGIN = "plugin "
_RESULT = "RESULT "
Arrays = Mapping[str, np.ndarray]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu.rtx", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--out", type=Path, metavar="FILE", help="where the record is written")
    p.add_argument("--case", help="one case, in this process")
    return p


def run(args: argparse.Namespace) -> int:
    """Tries all cases and writes what came of them; or one."""
    if args.case:
        print(_RESULT + json.dumps(try_case(args.case)))
        return 0
    found = try_all()
    print(found.get("verdict", found.get("missing")))
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1, default=str) + "\n", "utf-8")
    return 0


def try_all() -> dict[str, Any]:
    """Every case, each in a process of its own, and the verdict."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return {"missing": "tensorrt_rtx cannot be imported: have all its parts arrived?"}
    cases: dict[str, dict[str, Any]] = {}
    for name in CAPABILITIES:
        cases[name] = _in_a_process(name)
    ran = [name for name, case in cases.items() if case.get("right")]
    plugin = _PLUGIN + (ran[0] if ran else "current")
    cases[plugin] = _in_a_process(plugin)
    ran = [name for name, case in cases.items() if case.get("right")]
    verdict = f"runs on this GPU, built for {', '.join(ran)}" if ran else "does not run on this GPU"
    return {"version": version("tensorrt-rtx-cu13"), "cases": cases, "verdict": verdict}


def _in_a_process(name: str) -> dict[str, Any]:
    started = time.perf_counter()
    command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.gpu.rtx", "--case", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        lines = [line for line in done.stdout.splitlines() if line.startswith(_RESULT)]
        case: dict[str, Any] = {"died": done.returncode, "stderr": done.stderr[-1500:]}
        if lines:
            case = json.loads(lines[-1].removeprefix(_RESULT))
    except subprocess.TimeoutExpired:
        case = {"died": "60 seconds were over"}
    case["seconds"] = round(time.perf_counter() - started, 1)
    short = {key: value for key, value in case.items() if key not in ("messages", "stderr", "known")}
    print(f"{name}: {json.dumps(short)}", *case.get("messages", [])[:2], sep="\n    ", flush=True)
    return case


def try_case(name: str) -> dict[str, Any]:
    """How far one case comes; an error is part of the answer."""
    found: dict[str, Any] = {}
    try:
        _try(name, found)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"[:800]
    return found


def _try(name: str, found: dict[str, Any]) -> None:
    trt: Any = importlib.import_module("tensorrt_rtx")

    messages = found["messages"] = list[str]()

    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps warnings and errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity.name not in ("VERBOSE", "INFO"):
                messages.append(f"{severity.name} {message[:400]}")

    found["known"] = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    log, with_plugin = Log(), name.startswith(_PLUGIN)
    feeds, expected, model = plugin_model(trt) if with_plugin else product_model()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    onnx_parser = trt.OnnxParser(network, log)
    found["parsed"] = onnx_parser.parse(model)
    config, values = builder.create_builder_config(), CAPABILITIES[name.removeprefix(_PLUGIN)]
    if values:
        config.num_compute_capabilities = len(values)
        for index, value in enumerate(values):
            found["capability_taken"] = config.set_compute_capability(trt.ComputeCapability(value), index)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    found["built"], found["build_seconds"] = plan is not None, round(time.perf_counter() - started, 2)
    if plan is None:
        return
    runtime = trt.Runtime(log)
    validity, diagnostics = runtime.get_engine_validity(bytes(plan))
    found["validity"], found["diagnostics"] = str(validity), str(diagnostics)
    engine = runtime.deserialize_cuda_engine(bytes(plan))
    found["deserialised"] = engine is not None
    if engine is not None:
        _run_engine(trt, engine, feeds, expected, found)


def _run_engine(trt: ModuleType, engine: Any, feeds: Arrays, expected: Arrays, found: dict[str, Any]) -> None:
    import torch

    started = time.perf_counter()
    # As engines/backends/cuda_tensorrt.py does it.
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    found["context"], found["context_seconds"] = context is not None, round(time.perf_counter() - started, 2)
    if context is None:
        return
    found["scratch_bytes"] = engine.device_memory_size_v2
    scratch = torch.empty(max(1, engine.device_memory_size_v2), device="cuda", dtype=torch.uint8)
    if engine.device_memory_size_v2:
        context.set_device_memory(scratch.data_ptr(), engine.device_memory_size_v2)
    tensors = {name: torch.from_numpy(value).cuda() for name, value in feeds.items()}
    for name, value in expected.items():
        tensors[name] = torch.zeros(value.shape, device="cuda", dtype=torch.from_numpy(value).dtype)
    for name, tensor in tensors.items():
        context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    started = time.perf_counter()
    found["enqueued"] = context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    found["first_run_seconds"] = round(time.perf_counter() - started, 3)

    def right() -> bool:
        return all(np.allclose(tensors[name].cpu().numpy(), value, atol=2e-2) for name, value in expected.items())

    found["right"] = right()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        found["captured"] = context.execute_async_v3(stream.cuda_stream)
    for name in expected:
        tensors[name].fill_(7)
    graph.replay()
    torch.cuda.synchronize()
    found["replay_right"] = right()


def product_model() -> tuple[Arrays, Arrays, bytes]:
    """Inputs, expected outputs and the graph of a matrix product with a ReLU in fp16."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, 8, 64)).astype(np.float16), (rng.normal(size=(64, 64)) / 8).astype(np.float16)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, [4, 8, 64]) for n in ("x", "z")]
    graph = helper.make_graph(nodes, "probe", values[:1], values[1:], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    expected = np.maximum(x.astype(np.float32) @ w.astype(np.float32), 0).astype(np.float16)
    return {"x": x}, {"z": expected}, model.SerializeToString()


def plugin_model(trt: ModuleType) -> tuple[Arrays, Arrays, bytes]:
    """The first golden case of TokenCompact, as the tests build it; registers the plugin."""
    import onnx

    from plugins.library import load_into
    from tests.plugins.golden import read_cases
    from tests.plugins.models import token_compact_model, token_compact_node

    load_into(trt)
    case = read_cases()[0]
    node = token_compact_node(case.threshold, case.capacity, case.protect_first)
    model = token_compact_model(node, onnx.TensorProto.FLOAT16, (*case.score.shape, case.width))
    hidden = case.hidden(np.float16)
    feeds = {"input": hidden, "score": case.score, "alive": case.alive, "position": case.position}
    expected = {
        "output": np.take_along_axis(hidden, case.source[:, :, None], axis=1),
        "packed_alive": case.packed_alive,
        "packed_position": case.packed_position,
        "count": case.count,
    }
    return feeds, expected, model.SerializeToString()


if __name__ == "__main__":
    main_of(parser, run)
