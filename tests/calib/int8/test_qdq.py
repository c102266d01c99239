"""Q/DQ in stage graphs: where they are, what they compute, and that PyTorch's simulation computes the same."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from calib.int8.equalise import equalised
from calib.int8.qdq import linear_layers, quantize_graph, quantize_graphs
from calib.int8.ranges import choose_ranges, collect_histograms
from calib.int8.scheme import LEVELS, QuantizationScheme, groups, quantizable_layers, weight_scales
from calib.int8.simulation import QuantizedLinear, simulate
from engines.backends.onnxruntime import session_options
from engines.errors import GateError, InputError
from pipeline.graph.export import example_inputs, export_stage
from pipeline.graph.stages import Stage, cut_stages
from pipeline.model import PrunedTransformer
from tests.graph.small import random_samples, small_model

METHODS = ("ltp", "transkimmer")


def scheme_of(model: PrunedTransformer) -> QuantizationScheme:
    """Every layer quantised, with minmax ranges of random samples; inputs that can be are equalised."""
    histograms = collect_histograms(model, random_samples(6))
    some, all_ = equalised(model, histograms), choose_ranges(histograms, "minmax")
    return QuantizationScheme(ranges={**all_.ranges, **some.ranges}, shifts=some.shifts)


@pytest.fixture(scope="module", params=METHODS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Two stages of a model of two layers, their graphs, and the quantised ones."""
    model, folder = copy.deepcopy(small_model(request.param, layers=2)), tmp_path_factory.mktemp(request.param)
    with torch.no_grad():  # outliers, as trained models have them
        for block in model.attention:
            block.norm.weight[3], block.norm.bias[5] = 20.0, 8.0
    specs = cut_stages(model, [1])
    sources = [folder / f"{spec.name}.onnx" for spec in specs]
    for spec, path in zip(specs, sources, strict=True):
        export_stage(Stage(model, spec), model.config, path)
    targets = [path.with_name(f"{path.stem}-int8.onnx") for path in sources]
    found = quantize_graphs(sources, scheme_of(model), targets)
    return model, specs, sources, targets, found


def test_every_layer_of_the_model_is_in_one_stage(exported) -> None:
    model, _, sources, _, found = exported
    names = [layer for layers in found for layer in layers]
    assert sorted(names) == sorted(quantizable_layers(model)) and len(names) == len(set(names)) == 12
    for source, layers in zip(sources, found, strict=True):
        for name, (node,) in linear_layers(onnx.load(source)).items():
            (weight,) = (t for t in onnx.load(source).graph.initializer if t.name == node.input[1])
            expected = model.get_submodule(name).weight.detach().numpy().T
            assert np.array_equal(numpy_helper.to_array(weight), expected), name
            assert name in layers or not name.startswith(("attention", "feed_forward"))


def test_weighted_products_and_nothing_else_read_int8(exported) -> None:
    _, _, _, targets, found = exported
    for target, layers in zip(targets, found, strict=True):
        graph = onnx.load(target).graph
        values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        by_output = {output: node for node in graph.node for output in node.output}
        readers = [
            n
            for n in graph.node
            if any(by_output.get(i) and by_output[i].op_type == "DequantizeLinear" for i in n.input)
        ]
        assert {node.op_type for node in readers} == {"MatMul"} and len(readers) == len(layers)
        for node in readers:
            activation, weight = (by_output[name] for name in node.input)
            assert values[activation.input[1]].shape == ()  # per tensor
            assert values[weight.input[0]].dtype == np.int8
            assert values[weight.input[1]].shape == (values[weight.input[0]].shape[1],)  # per output channel
            for dequantize in (activation, weight):
                assert not values[dequantize.input[2]].any()  # symmetric
        quantized = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
        assert len(quantized) == len(set(quantized)) == len(groups(layers))  # query, key and value share one
        scores = [n for n in graph.node if n.op_type == "TokenCompact"]
        assert all(by_output[n.input[1]].op_type != "DequantizeLinear" for n in scores)


def test_only_quantizelinear_reads_what_was_divided(exported) -> None:
    _, _, sources, targets, found = exported
    for source, target, layers in zip(sources, targets, found, strict=True):
        graph, plain = onnx.load(target).graph, onnx.load(source).graph
        divisions = {node.output[0]: node for node in graph.node if node.name.endswith(".equalise")}
        assert len(divisions) == sum(layer.endswith("up") for layer in layers) == 1
        for node in graph.node:
            assert node.op_type == "QuantizeLinear" or not divisions.keys() & set(node.input)
        readers = {node.name: list(node.input) for node in plain.node if node.op_type != "MatMul"}
        for node in graph.node:  # residual additions, scores and predictors
            assert list(node.input) == readers.get(node.name, list(node.input))


@pytest.mark.parametrize("shape", [(1, 7), (3, 32)])
def test_simulation_and_graph_compute_the_same(exported, shape: tuple[int, int]) -> None:
    model, specs, sources, targets, _ = exported
    simulated = simulate(model, scheme_of(model))
    for spec, source, target in zip(specs, sources, targets, strict=True):
        stage = Stage(simulated, spec)
        inputs = example_inputs(stage, model.config, *shape)
        feed = {name: value.numpy() for name, value in zip(stage.input_names, inputs, strict=True)}
        with torch.no_grad():
            expected = [value.numpy() for value in stage(*inputs)]
        plain, ours = (
            onnxruntime.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"]).run(
                list(stage.output_names), feed
            )
            for path in (source, target)
        )
        # A value between two levels may be rounded to either by another order of summation.
        close = np.abs(ours[0] - expected[0]) < 1e-4
        assert close.mean() > 0.9
        assert np.abs(ours[0] - expected[0]).mean() < 0.2 * np.abs(plain[0] - expected[0]).mean()


def test_layers_that_are_left_out_keep_their_float_weights(exported, tmp_path: Path) -> None:
    model, _, sources, _, _ = exported
    scheme = scheme_of(model)
    kept = ["feed_forward.0.up", "feed_forward.0.down"]
    found = quantize_graph(sources[0], scheme.without(kept), tmp_path / "some.onnx")
    assert not set(found) & set(kept)
    layers = linear_layers(onnx.load(tmp_path / "some.onnx"))
    assert set(kept) <= set(layers)
    assert quantize_graph(sources[0], scheme.only([]), tmp_path / "none.onnx") == []
    assert onnx.load(tmp_path / "none.onnx").graph == onnx.load(sources[0]).graph


def zero_key_biases(model: PrunedTransformer) -> None:
    """They do nothing under a softmax."""
    for block in model.attention:
        block.key.bias.zero_()


def equal_layers(model: PrunedTransformer) -> None:
    """Keys are queries, and both blocks have one feed-forward."""
    for block in model.attention:
        block.key.load_state_dict(block.query.state_dict())
    model.feed_forward[1].load_state_dict(model.feed_forward[0].state_dict())


def no_biases(model: PrunedTransformer) -> None:
    """As converters write them of models that have none."""
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.zero_()


@pytest.mark.parametrize("change", [zero_key_biases, equal_layers, no_biases])
def test_layers_are_found_whatever_tensors_the_exporter_merges(change, tmp_path: Path) -> None:
    model = copy.deepcopy(small_model("ltp", layers=2))
    with torch.no_grad():
        change(model)
    scheme, (spec,) = scheme_of(model), cut_stages(model, [])
    source, target = tmp_path / "stage_0.onnx", tmp_path / "stage_0-int8.onnx"
    export_stage(Stage(model, spec), model.config, source)
    (found,) = quantize_graphs([source], scheme, [target])
    merged = {"attention.0.key", "attention.1.key"} if change is equal_layers else set()
    assert set(found) | merged == set(quantizable_layers(model)) == set(scheme.ranges)
    inputs = example_inputs(Stage(model, spec), model.config, 3, 16)
    with torch.no_grad():
        plain, expected = (Stage(m, spec)(*inputs)[0].numpy() for m in (model, simulate(model, scheme)))
    session = onnxruntime.InferenceSession(str(target), session_options(), providers=["CPUExecutionProvider"])
    feed = {value.name: tensor.numpy() for value, tensor in zip(session.get_inputs(), inputs, strict=True)}
    ours = session.run(None, feed)[0]
    assert np.abs(ours - expected).mean() < 0.2 * np.abs(plain - expected).mean()


def test_a_tensor_that_two_layers_share_is_multiplied_for_one_of_them(exported, tmp_path: Path) -> None:
    model, _, sources, _, _ = exported
    graph, layer = onnx.load(sources[0]), "feed_forward.0.up"
    weight = linear_layers(graph)[layer][0].input[1]
    graph.graph.node.append(onnx.helper.make_node("Identity", [weight], ["other"]))
    before = next(numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == weight)
    onnx.save(graph, tmp_path / "shared.onnx")
    assert layer in quantize_graph(tmp_path / "shared.onnx", scheme_of(model).only([layer]), tmp_path / "some.onnx")
    after = onnx.load(tmp_path / "some.onnx").graph
    assert np.array_equal(next(numpy_helper.to_array(t) for t in after.initializer if t.name == weight), before)


def test_a_layer_that_no_graph_holds_is_an_error(exported, tmp_path: Path) -> None:
    model, _, sources, _, _ = exported
    with pytest.raises(GateError, match=r"no linear layer .*feed_forward\.1\.down") as error:
        quantize_graphs(sources[:1], scheme_of(model), [tmp_path / "a.onnx"])
    assert "attention.0.query" not in str(error.value)


def test_a_quantised_layer_rounds_input_and_weight_to_int8() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 8)
    x, scale = 3 * torch.randn(5, 16), 2.0 / LEVELS
    steps = (x / scale).round().clamp(-128, 127)
    assert (steps == 127).any()  # some of it is clipped
    scales = weight_scales(linear.weight.detach())
    levels = (linear.weight.detach() / scales[:, None]).round()
    assert levels.abs().amax(1).eq(LEVELS).all()
    expected = (steps @ levels.T) * scale * scales + linear.bias
    assert torch.allclose(QuantizedLinear(linear, scale)(x), expected, atol=1e-5)


def test_simulation_changes_only_a_copy_and_only_named_layers() -> None:
    model = small_model("ltp", layers=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scheme = scheme_of(model).only(["attention.0.output"])
    simulated = simulate(model, scheme)
    assert isinstance(simulated.attention[0].output, QuantizedLinear)
    assert [name for name, m in simulated.named_modules() if isinstance(m, QuantizedLinear)] == ["attention.0.output"]
    assert not any(isinstance(module, QuantizedLinear) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_scheme_of_another_model_is_refused() -> None:
    scheme = QuantizationScheme(ranges={"attention.7.query": 1.0, "head.pooler": 1.0})
    with pytest.raises(InputError, match=r"found attention\.7\.query, head\.pooler"):
        simulate(small_model("ltp"), scheme)


def test_groups_hold_every_layer_once_and_share_inputs() -> None:
    layers = quantizable_layers(small_model("ltp", layers=2))
    found = groups(layers)
    assert sorted(name for names in found.values() for name in names) == sorted(layers)
    assert found["attention.1.qkv"] == [f"attention.1.{leaf}" for leaf in ("query", "key", "value")]
    assert found["feed_forward.0.up"] == ["feed_forward.0.up"] and len(found) == 8
