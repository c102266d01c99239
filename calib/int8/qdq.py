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
    """Writes the quantised graph of every stage; returns the INT8 layers of each.

    A stage without such layers is written unchanged. Raises GateError for a layer that is in no graph.
    """
    quantised = [quantize_graph(source, scheme, target) for source, target in zip(sources, targets, strict=True)]
    present = {layer for layers in quantised for layer in layers}
    # The exporter makes one product of layers that read one tensor and have equal weights; they share their range.
    present |= {layer for layers in groups(scheme.ranges).values() if present & set(layers) for layer in layers}
    if missing := set(scheme.ranges) - present:
        raise GateError(
            f"INT8: the stage graphs hold no linear layer {', '.join(sorted(missing))}; they are not those of the "
            "calibrated model: build again with --no-resume"
        )
    return quantised


def quantize_graph(source: Path, scheme: QuantizationScheme, target: Path) -> list[str]:
    """One stage graph, in fp32 or fp16. Activations per tensor and weights per output channel, symmetric; outputs stay
    as they are."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.load(source)
    layers = {name: nodes for name, nodes in linear_layers(model).items() if name in scheme.ranges}
    products = [node for nodes in layers.values() for node in nodes]
    _unshare(model, layers)
    _equalise(model, layers, scheme)
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    ranges = {}
    for name, nodes in layers.items():
        for node in nodes:
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
            nodes_to_quantize=[node.name for node in products],
            nodes_to_exclude=[],
            op_types_to_quantize=["MatMul"],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
        )
        quantizer.quantize_model()
        _restore_other_readers(quantizer.model.model, products)
        quantizer.model.topological_sort()
        model = quantizer.model.model
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    return list(layers)


def _unshare(model: onnx.ModelProto, layers: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Gives every use of a layer weights of its own: ONNX Runtime cannot load products in INT8 that share theirs."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, nodes in layers.items():
        for use, node in enumerate(nodes[1:], 1):
            copied = onnx.TensorProto()
            copied.CopyFrom(initializers[node.input[1]])
            copied.name = node.input[1] = f"{name}.weight.use_{use}"
            model.graph.initializer.append(copied)


def _equalise(model: onnx.ModelProto, layers: Mapping[str, list[onnx.NodeProto]], scheme: QuantizationScheme) -> None:
    """Divides inputs by the scheme's powers of two, as a product with their inverses, and multiplies the weights."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, nodes in layers.items():
        factors, inverse = scheme.factors(name), f"{name}.inverse_factors"
        if factors is None:
            continue
        for weight in _own_weights(model, name, nodes, initializers):
            values, data_type = numpy_helper.to_array(weight), weight.data_type
            weight.CopyFrom(numpy_helper.from_array(values * factors[:, None].astype(values.dtype), weight.name))
        model.graph.initializer.append(numpy_helper.from_array((1 / factors).astype(values.dtype), inverse))
        for use, node in enumerate(nodes):
            own = f"{name}.{use}" if use else name  # layers that share their weights are one layer, used more than once
            quotient = f"{own}.equalised"
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(quotient, data_type, None))
            division = onnx.helper.make_node("Mul", [node.input[0], inverse], [quotient], name=f"{own}.equalise")
            model.graph.node.insert(list(model.graph.node).index(node), division)
            node.input[0] = quotient


def _own_weights(
    model: onnx.ModelProto,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    initializers: Mapping[str, onnx.TensorProto],
) -> list[onnx.TensorProto]:
    """The weights of a layer, as tensors that no other layer reads: equal ones may be one tensor."""
    own = []
    for number, tensor in enumerate(dict.fromkeys(node.input[1] for node in nodes)):
        weight = initializers[tensor]
        readers = [node for node in nodes if node.input[1] == tensor]
        if sum(list(node.input).count(tensor) for node in model.graph.node) > len(readers):
            copied = model.graph.initializer.add()
            copied.CopyFrom(weight)
            copied.name = f"{name}.weight" + (f".{number}" if number else "")
            for node in readers:
                node.input[1] = copied.name
            weight = copied
        own.append(weight)
    return own


def _restore_other_readers(model: onnx.ModelProto, layers: Collection[onnx.NodeProto]) -> None:
    """Reconnects residual additions, scores and predictors to the float tensor, since the quantiser redirects every
    reader.
    """
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


def linear_layers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The MatMul of every linear layer by the layer's name in the model, one for each time that it is used.

    The exporter notes the module that a node came from: the last but one of its scopes, as "model.attention.0.query".
    """
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    products: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
        if node.op_type == "MatMul" and node.input[1] in weights and scopes is not None:
            products.setdefault(ast.literal_eval(scopes)[-2].removeprefix("model."), []).append(node)
    return products
