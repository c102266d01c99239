"""Puts a quantisation scheme into stage graphs: QuantizeLinear and DequantizeLinear in front of linear layers.

ONNX Runtime's quantiser places the nodes. It takes the graph as exported, with the operator's function in it, without
TensorRT; nvidia-modelopt needs `import tensorrt` for a graph with a custom operator and pins older versions of onnx and
ONNX Runtime. The ranges are our own (`ranges.py`): no library's calibrator leaves out padding and dropped tokens.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import numpy_helper

from calib.int8.scheme import QuantizationScheme, groups
from engines.errors import GateError

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of an exported node: the modules that it lies in, from the outermost one, then the operation."""


def quantize_graphs(sources: Sequence[Path], scheme: QuantizationScheme, targets: Sequence[Path]) -> list[list[str]]:
    """Writes the quantised graph of every stage; returns the layers of each that are now INT8.

    A stage without a layer of the scheme is written as it is. Raises GateError when a layer is in none of the graphs.
    """
    found = [quantize_graph(source, scheme, target) for source, target in zip(sources, targets, strict=True)]
    present = {layer for layers in found for layer in layers}
    # The exporter makes one product of layers that read one tensor and have equal weights; they share their range.
    present |= {layer for layers in groups(scheme.ranges).values() if present & set(layers) for layer in layers}
    if missing := set(scheme.ranges) - present:
        raise GateError(
            f"INT8: the stage graphs hold no linear layer {', '.join(sorted(missing))}; they are not those of the "
            "calibrated model: build again with --no-resume"
        )
    return found


def quantize_graph(source: Path, scheme: QuantizationScheme, target: Path) -> list[str]:
    """One stage graph, in fp32 or fp16. Activations per tensor and weights per output channel, symmetric; outputs stay
    as they are."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.load(source)
    layers = {name: node for name, node in linear_layers(model).items() if name in scheme.ranges}
    _equalise(model, layers, scheme)
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    ranges = {}
    for name, node in layers.items():
        # The scales have the type of what they scale.
        range_ = onnx.helper.tensor_dtype_to_np_dtype(weights[node.input[1]]).type(scheme.ranges[name])
        ranges[node.input[0]] = TensorData(lowest=-range_, highest=range_)
    if layers:
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[node.name for node in layers.values()],
            nodes_to_exclude=[],
            op_types_to_quantize=["MatMul"],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
        )
        quantizer.quantize_model()
        _restore_other_readers(quantizer.model.model, layers.values())
        quantizer.model.topological_sort()
        model = quantizer.model.model
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    return list(layers)


def _equalise(model: onnx.ModelProto, layers: Mapping[str, onnx.NodeProto], scheme: QuantizationScheme) -> None:
    """Divides inputs by the scheme's powers of two, as a product with their inverses, and multiplies the weights."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, node in layers.items():
        factors = scheme.factors(name)
        if factors is None:
            continue
        source, weight = node.input[0], initializers[node.input[1]]
        values, quotient, inverse = numpy_helper.to_array(weight), f"{name}.equalised", f"{name}.inverse_factors"
        if sum(list(other.input).count(weight.name) for other in model.graph.node) > 1:
            # Equal weights may be one tensor, and the other layer's are not to be multiplied.
            weight = model.graph.initializer.add(name=f"{name}.weight")
            node.input[1] = weight.name
        weight.CopyFrom(numpy_helper.from_array(values * factors[:, None].astype(values.dtype), weight.name))
        model.graph.initializer.append(numpy_helper.from_array((1 / factors).astype(values.dtype), inverse))
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(quotient, weight.data_type, None))
        division = onnx.helper.make_node("Mul", [source, inverse], [quotient], name=f"{name}.equalise")
        model.graph.node.insert(list(model.graph.node).index(node), division)
        node.input[0] = quotient


def _restore_other_readers(model: onnx.ModelProto, layers: Collection[onnx.NodeProto]) -> None:
    """Gives residual additions, scores and predictors the float tensor back: the quantiser redirects every reader."""
    quantized = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    floats = {
        node.output[0]: quantized[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized
    }
    names = {node.name for node in layers}
    for node in model.graph.node:
        if node.name not in names:
            node.input[:] = [floats.get(name, name) for name in node.input]


def quantized_products(model: onnx.ModelProto) -> list[str]:
    """The matrix products of two dequantised tensors, by the name of the node."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and dequantized.issuperset(node.input)]


def linear_layers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The product of every linear layer on [batch, length, width], by the layer's name in the model.

    A product with a constant matrix, named by the innermost module that it lies in ("attention.0.query"). Names of
    tensors tell nothing: the exporter merges equal ones.
    """
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return {
        _module_of(node): node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in matrices
    }


def _module_of(node: onnx.NodeProto) -> str:
    (scopes,) = (entry.value for entry in node.metadata_props if entry.key == _SCOPES)
    *_, module, _ = ast.literal_eval(scopes)
    return str(module).removeprefix("model.")
