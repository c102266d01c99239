"""Precisions of a stage: which parts of a model are narrowed, and what stays float32.

Embeddings, linear layers, attention products and the residual stream are in the precision; layer norm, softmax, token
scores (with Transkimmer's predictors) and logits are float32. The types live in the module, so PyTorch and the graph
exported from it are typed alike, and TensorRT's strongly typed networks need no flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from engines.errors import InputError
from engines.stages import POOLED
from pipeline.model.pruners import Pruner

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Module = TypeVar("Module", bound=nn.Module)


def graph_precision(precision: str, machine_bound: bool) -> Precision:
    """The number format of the graphs of engines in a precision; in INT8 that of the layers that are not quantised.

    machine_bound: whether the engines run only on the machine that they are compiled for.
    """
    if precision == "int8":
        return "fp16" if machine_bound else "fp32"
    return cast("Precision", precision)


def reference_in(model: Module, precision: Precision) -> Module:
    """PyTorch's counterpart of a graph in `precision`: a narrowed copy of a model, stage or head; itself in fp32.

    Raises InputError for an unknown precision, and for a weight that the precision cannot hold.
    """
    if precision not in DTYPES:
        raise InputError(f"precision {precision!r}: expected one of {', '.join(get_args(Precision))}")
    dtype = DTYPES[precision]
    if dtype == torch.float32:
        return model
    narrow = deepcopy(model)
    scoring = {part for pruner in narrow.modules() if isinstance(pruner, Pruner) for part in pruner.modules()}
    for name, part in narrow.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding) and part not in scoring:
            largest, limit = float(part.weight.detach().abs().max()), torch.finfo(dtype).max
            if largest > limit:
                raise InputError(
                    f"precision {precision!r}: expected weights up to {limit:.5g}, found {largest:.3g} in {name}; "
                    "build in bf16 or fp32"
                )
            part.to(dtype)
    return narrow


def as_taken(stage: nn.Module, names: Sequence[str], values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The inputs of these names in the types that a stage takes: floats in its precision, but what is pooled."""
    dtype = dtype_of(stage)
    return tuple(
        value.to(dtype) if value.is_floating_point() and name != POOLED else value
        for name, value in zip(names, values, strict=True)
    )


def dtype_of(module: nn.Module) -> torch.dtype:
    """Returns the type of `hidden` in a model, stage or head: that of its first weights."""
    return next(module.parameters()).dtype
