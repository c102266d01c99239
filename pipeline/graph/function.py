"""TokenCompact as an ONNX model-local function, which runs where no plugin of that name is registered."""

from __future__ import annotations

import onnx
from onnxscript import FLOAT, INT32, script
from onnxscript import opset20 as op
from onnxscript.onnx_types import TensorType
from onnxscript.values import Opset

from engines.stages import DOMAIN, OPERATOR

OPSET = 20
VERSION = 1
B, S = "B", "S"  # onnxscript reads the annotations below; as names, because linters strip quotes inside annotations
_EVERYTHING = 2**31 - 1  # an end after every row: Slice stops at the last


@script(Opset(DOMAIN, VERSION), default_opset=op)
def TokenCompact(
    hidden: TensorType,
    score: FLOAT[B, S],
    alive: INT32[B, S],
    position: INT32[B, S],
    threshold: float = 0.0,
    capacity: int = 0,
    protect_first: int = 1,
):
    """Computes each row's target index by running counts, then gathers whole rows in that order."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    length = op.Shape(score, start=1, end=2)
    first = op.Range(op.Constant(value_int=0), op.Squeeze(length), op.Constant(value_int=1)) == zero  # [S]
    protected = op.And(first, op.Constant(value_int=protect_first) != op.Constant(value_int=0))
    passed = op.Or(score >= op.Constant(value_float=threshold), protected)
    dead = op.Constant(value=onnx.helper.make_tensor("dead", onnx.TensorProto.INT32, [], [0]))
    keep = op.And(op.Not(alive == dead), passed)
    carried = op.Cast(op.Or(keep, first), to=onnx.TensorProto.INT64)  # [B, S]
    count = op.ReduceSum(carried, one, keepdims=1)  # [B, 1]
    front = op.CumSum(carried, op.Constant(value_int=1)) - one
    behind = op.CumSum(one - carried, op.Constant(value_int=1)) - one + count
    place = op.Where(carried == one, front, behind)  # [B, S], where each row goes
    source = op.Expand(
        op.Range(op.Constant(value_int=0), op.Squeeze(length), op.Constant(value_int=1)), op.Shape(place)
    )
    order = op.ScatterElements(source, place, source, axis=1)  # [B, S], where each row comes from
    limit = op.Constant(value_int=capacity)
    everything = op.Constant(value_int=_EVERYTHING)
    end = op.Where(limit == op.Constant(value_int=0), everything, limit)
    order = op.Slice(order, zero, op.Unsqueeze(end, zero), one)  # [B, C]
    packed = op.GatherND(hidden, op.Unsqueeze(order, op.Constant(value_ints=[-1])), batch_dims=1)
    packed_alive = op.GatherElements(op.Cast(keep, to=onnx.TensorProto.INT32), order, axis=1)
    packed_position = op.GatherElements(position, order, axis=1)
    counted = op.Cast(op.Squeeze(count, one), to=onnx.TensorProto.INT32)
    return packed, packed_alive, packed_position, counted


def token_compact_function() -> onnx.FunctionProto:
    """The function to append to a model that holds TokenCompact nodes (domain `skimrt`)."""
    function = TokenCompact.to_function_proto()
    assert function.name == OPERATOR and function.domain == DOMAIN
    return function
