"""Builds engines through torch-tensorrt: a traced stage is converted node by node, compaction becomes our plugin.

ONNX remains the default, because it can be checked without a GPU. This way needs torch-tensorrt 2.14, TensorRT and a
GPU. Its engines have the same tensor names and run in the same runner.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engines.buckets import Bucket
from engines.errors import TargetError
from pipeline.graph.export import example_inputs
from pipeline.graph.precision import Precision, as_taken, reference_in
from pipeline.graph.program import StageOfOperator
from pipeline.graph.stages import HeadStage, Stage
from pipeline.model.config import CheckpointConfig
from plugins.library import NAME, PluginError, library_path, load_into

_ATTRIBUTES = {"threshold": np.float32, "capacity": np.int32, "protect_first": np.int32}


def missing() -> str | None:
    """Says what this machine lacks to build through torch-tensorrt, and how to get it; None if it lacks nothing."""
    for package, module in (("torch-tensorrt", "torch_tensorrt"), ("tensorrt-cu13", "tensorrt")):
        if importlib.util.find_spec(module) is None:
            return f"the package {package} is not installed; pip install {package}"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device; install a CUDA build of PyTorch and an NVIDIA driver"
    try:
        library_path()
    except PluginError as error:
        return str(error)
    return None


def compile_stage(
    stage: Stage | HeadStage,
    config: CheckpointConfig,
    bucket: Bucket,
    precision: Precision = "fp32",
    options: Mapping[str, object] | None = None,
    device: str = "cuda",
) -> bytes:
    """The serialised engine of a stage (given in float32) for a bucket.

    options: further arguments of torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine, such as
             optimization_level, hardware_compatible or timing_cache_path.
    Raises TargetError when this machine lacks something.
    """
    lacking = missing()
    if lacking is not None:
        raise TargetError(f"frontend torch-tensorrt: {lacking}")
    convert = importlib.import_module("torch_tensorrt").dynamo.convert_exported_program_to_serialized_trt_engine
    if "output_binding_names" not in inspect.signature(convert).parameters:
        raise TargetError("frontend torch-tensorrt: expected version 2.14 or newer, found an older one; upgrade it")
    register_converter()
    narrow = reference_in(deepcopy(stage), precision).to(device)
    example = example_inputs(stage, config, bucket.batch, bucket.length)
    inputs = tuple(value.to(device) for value in as_taken(narrow, stage.input_names, example))
    names = stage.output_names
    return convert(
        trace(narrow, inputs),
        arg_inputs=inputs,
        arg_input_binding_names=tuple(stage.input_names),
        output_binding_names=names if len(names) > 1 else names[0],
        require_full_compilation=True,
        min_block_size=1,
        disable_tf32=True,  # as on the way through ONNX: TF32 products keep 10 bits of float32, scores included
        **(options or {}),
    )


def trace(stage: Stage | HeadStage, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Traces a stage for the static shapes of `inputs`, its compaction as the custom op `skimrt::token_compact`."""
    traced = _Traced(stage if isinstance(stage, HeadStage) else StageOfOperator(stage.model, stage.spec))
    with torch.no_grad():
        return torch.export.export(traced.eval(), inputs)


@cache
def register_converter() -> None:
    """Registers our plugin as the converter of the custom op, once. Loads the plugin library."""
    conversion = importlib.import_module("torch_tensorrt.dynamo.conversion")
    trt = importlib.import_module("tensorrt")
    load_into(trt)
    conversion.dynamo_tensorrt_converter(torch.ops.skimrt.token_compact.default)(convert_token_compact)


def convert_token_compact(
    ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str
) -> tuple[Any, ...]:
    """The converter: adds a layer of the plugin to `ctx.net`, and returns its four outputs."""
    trt = importlib.import_module("tensorrt")
    schema = target._schema.arguments
    values = {argument.name: argument.default_value for argument in schema}
    values |= {argument.name: value for argument, value in zip(schema, args, strict=False)} | dict(kwargs)
    types = {np.float32: trt.PluginFieldType.FLOAT32, np.int32: trt.PluginFieldType.INT32}
    # The fields point into these arrays until the plugin is made.
    arrays = {key: np.array([values[key]], dtype) for key, dtype in _ATTRIBUTES.items()}
    fields = [trt.PluginField(key, arrays[key], types[dtype]) for key, dtype in _ATTRIBUTES.items()]
    plugin = load_into(trt).create_plugin(name, trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)
    if plugin is None:
        raise PluginError(f"{NAME} {name!r}: expected a plugin for {values}, found none; TensorRT's log says why")
    tensors = [values[key] for key in ("hidden", "score", "alive", "position")]
    layer = ctx.net.add_plugin_v3(tensors, [], plugin)
    layer.name = name
    return tuple(layer.get_output(index) for index in range(4))


class _Traced(nn.Module):
    """A stage that copies outputs which are also inputs, because TensorRT would rename the input."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Takes and returns what the stage does."""
        outputs = self.stage(*inputs)
        if isinstance(outputs, Tensor):
            return outputs
        return tuple(value + 0 if any(value is given for given in inputs) else value for value in outputs)
