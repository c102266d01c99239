"""Stage graphs in fp16 and bf16: what is narrow, what stays float32, and how large the error is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from calib.data import read_examples
from engines.buckets import Bucket
from engines.errors import InputError
from engines.tokenization import TextEncoder
from pipeline.gates.states import fill_bucket, walk_states
from pipeline.graph.evaluate import Arrays, GraphSession, near_threshold, round_explicitly, run_module
from pipeline.graph.export import example_inputs, export_stage
from pipeline.graph.precision import DTYPES, dtype_of, reference_in
from pipeline.graph.stages import HeadStage, Stage, cut_stages, decision_layers
from pipeline.model import PrunedTransformer, load_checkpoint
from pipeline.model.checkpoint import tokenizer_path
from pipeline.model.positions import mask_fill
from tests.graph.small import small_model

CHECKPOINTS = Path(__file__).parents[2] / "demo" / "checkpoints"
KINDS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
NARROW = ("fp16", "bf16")
METHODS = ("ltp", "transkimmer", "tagging")
SHAPE = (4, 30)
Exported = list[tuple[Stage | HeadStage, Path]]


def parts_of(model: PrunedTransformer) -> list[Stage | HeadStage]:
    """All that is exported of a model that is cut at every decision."""
    stages: list[Stage | HeadStage] = [Stage(model, spec) for spec in cut_stages(model, decision_layers(model))]
    return [*stages, HeadStage(model)] if model.config.head.token_level else stages


def model_of(method: str) -> PrunedTransformer:
    """A small model; "tagging" is LTP with a token-level head."""
    return small_model("ltp", head="tagging") if method == "tagging" else small_model(method)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    """The float32 stages of a small model with their graphs in a precision."""
    done: dict[tuple[str, str], Exported] = {}

    def graphs(method: str, precision: str) -> Exported:
        if (method, precision) not in done:
            folder, model = tmp_path_factory.mktemp(f"{method}-{precision}"), model_of(method)
            done[method, precision] = [(part, folder / f"{i}.onnx") for i, part in enumerate(parts_of(model))]
            for part, path in done[method, precision]:
                export_stage(part, model.config, path, precision)
        return done[method, precision]

    return graphs


def random_inputs(stage: Stage | HeadStage, model: PrunedTransformer) -> Arrays:
    """A batch with padding."""
    values = example_inputs(stage, model.config, *SHAPE)
    return {name: value.numpy() for name, value in zip(stage.input_names, values, strict=True)}


def types_of(graph: onnx.GraphProto) -> dict[str, int]:
    """Element type by name of every tensor of an inferred graph."""
    values = (*graph.input, *graph.output, *graph.value_info)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {t.name: t.data_type for t in graph.initializer}


def ancestors(graph: onnx.GraphProto, names: Iterable[str]) -> set[str]:
    """Outputs of the nodes that `names` are computed from, in nodes that are in order."""
    found = set(names)
    for node in reversed(graph.node):
        if found & set(node.output):
            found |= set(node.input)
    return found


def errors_of(stage: Stage | HeadStage, path: Path, inputs: Arrays, precision: str, real: int) -> tuple[float, float]:
    """Largest error of a graph, and of PyTorch in its precision, where both decide as float32 does for sure."""
    wide, narrow = run_module(stage, inputs), reference_in(stage, precision)
    compared = np.arange(len(next(iter(inputs.values())))) < real
    if isinstance(stage, Stage) and isinstance(narrow, Stage):
        compared &= ~near_threshold(stage, narrow, inputs)
    if not compared.any():
        return 0.0, 0.0
    graph, torch_ = GraphSession(path)(inputs), run_module(narrow, inputs)
    for name, value in wide.items():
        if np.issubdtype(value.dtype, np.integer):
            np.testing.assert_array_equal(graph[name][compared], value[compared])
    floats = [name for name, value in wide.items() if value.dtype == np.float32]
    return tuple(
        max(float(np.abs(found[n][compared] - wide[n][compared]).max()) for n in floats)  # type: ignore[return-value]
        for found in (graph, torch_)
    )


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("method", METHODS)
def test_hidden_is_narrow_and_logits_scores_and_integers_are_not(
    exported: Callable[[str, str], Exported], method: str, precision: str
) -> None:
    for _, path in exported(method, precision):
        graph = onnx.load(path).graph
        for value in (*graph.input, *graph.output):
            expected = TensorProto.INT32
            if value.name in ("hidden", "packed", "final_hidden"):
                expected = KINDS[precision]
            elif value.name == "logits":
                expected = TensorProto.FLOAT
            assert value.type.tensor_type.elem_type == expected, value.name


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("method", METHODS)
def test_matrix_products_are_narrow_but_those_of_scores(
    exported: Callable[[str, str], Exported], method: str, precision: str
) -> None:
    products = scores = 0
    for _, path in exported(method, precision):
        graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
        types = types_of(graph)
        compacts = [node for node in graph.node if node.op_type == "TokenCompact"]
        outputs = [node.input[0] for node in compacts] or [value.name for value in graph.output]
        needed = ancestors(graph, outputs)  # by what is not a score
        for node in compacts:
            assert types[node.input[1]] == TensorProto.FLOAT
        for node in graph.node:
            if node.op_type in ("Softmax", "LayerNormalization"):
                assert types[node.input[0]] == TensorProto.FLOAT, node.name
            if node.op_type in ("MatMul", "Gemm"):
                found = {types[name] for name in node.input}
                assert found == {KINDS[precision] if node.output[0] in needed else TensorProto.FLOAT}, node.name
                products += 1
                scores += node.output[0] not in needed
    # Attention 6, feed-forward 2, head 2 or 1; LTP sums its probabilities with 1, Transkimmer's predictor has 2.
    assert (products, scores) == {"ltp": (11, 1), "transkimmer": (12, 2), "tagging": (10, 1)}[method]


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("method", METHODS)
def test_the_error_is_at_most_twice_that_of_pytorch(
    exported: Callable[[str, str], Exported], method: str, precision: str
) -> None:
    for stage, path in exported(method, precision):
        error, reference = errors_of(stage, path, random_inputs(stage, model_of(method)), precision, SHAPE[0])
        assert error <= 2 * reference, path.name


@pytest.mark.parametrize("method", METHODS)
def test_onnx_runtime_takes_fp16_graphs_as_they_are(exported: Callable[[str, str], Exported], method: str) -> None:
    for stage, path in exported(method, "fp16"):
        inputs, model = random_inputs(stage, model_of(method)), model_of(method)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feed = {n: v.astype(np.float16) if v.dtype == np.float32 else v for n, v in inputs.items()}
        found = dict(zip(stage.output_names, session.run(list(stage.output_names), feed), strict=True))
        wide, narrow = run_module(stage, inputs), reference_in(stage, "fp16")
        assert model.config.encoder.layers == 1  # one decision at most, so that rows are compared before any flip
        if isinstance(stage, Stage) and isinstance(narrow, Stage):
            assert not near_threshold(stage, narrow, inputs).any()
        for name, value in run_module(narrow, inputs).items():
            limit = 2 * np.abs(value - wide[name]).max() if value.dtype == np.float32 else 0
            assert np.abs(found[name].astype(np.float64) - wide[name]).max() <= limit, name


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_a_sample_without_a_living_token_gives_finite_numbers(
    exported: Callable[[str, str], Exported], method: str, precision: str
) -> None:
    for stage, path in exported(method, precision):
        inputs = random_inputs(stage, model_of(method))
        inputs["alive"][0] = 0
        for name, value in GraphSession(path)(inputs).items():
            assert np.isfinite(value).all(), name


def test_the_mask_is_made_once_however_many_layers_use_it(tmp_path: Path) -> None:
    model = small_model("dense", layers=3)
    (spec,) = cut_stages(model, [])
    export_stage(Stage(model, spec), model.config, tmp_path / "stage_0.onnx", "fp16")
    graph = onnx.load(tmp_path / "stage_0.onnx").graph
    fills = [
        t.name
        for t in graph.initializer
        if not t.dims and onnx.numpy_helper.to_array(t) == np.float16(mask_fill(torch.float16))
    ]
    masks = [node for node in graph.node if set(node.input) & set(fills)]
    assert len(masks) == 1 and sum(node.op_type == "Softmax" for node in graph.node) == 3


def test_the_operators_body_is_typed_by_what_it_is_given(exported: Callable[[str, str], Exported]) -> None:
    for precision in NARROW:
        _, path = exported("ltp", precision)[0]
        inlined = onnx.inliner.inline_local_functions(onnx.load(path))
        types = types_of(onnx.shape_inference.infer_shapes(inlined, strict_mode=True).graph)
        (gather,) = [node for node in inlined.graph.node if node.op_type == "GatherND"]
        assert [types[name] for name in (gather.input[0], gather.output[0])] == [KINDS[precision]] * 2
        assert types[gather.input[1]] == TensorProto.INT64


def test_in_fp32_the_reference_is_the_model_itself() -> None:
    model = small_model("ltp")
    assert reference_in(model, "fp32") is model


@pytest.mark.parametrize("precision", NARROW)
def test_the_reference_is_a_copy_that_scores_and_normalises_in_float32(precision: str) -> None:
    model = small_model("transkimmer")
    narrow = reference_in(model, precision)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for name, part in narrow.named_modules():
        if isinstance(part, nn.LayerNorm) or name.startswith("pruner"):
            assert {p.dtype for p in part.parameters()} <= {torch.float32}, name
        elif isinstance(part, nn.Linear | nn.Embedding):
            assert {p.dtype for p in part.parameters()} == {DTYPES[precision]}, name
    assert dtype_of(narrow) == dtype_of(HeadStage(narrow)) == DTYPES[precision]
    ids = torch.randint(4, 30, (2, 9))
    output = narrow(ids)
    assert output.logits.dtype == output.score.dtype == torch.float32
    assert output.last_hidden_state.dtype == DTYPES[precision]


def test_an_unknown_precision_and_a_weight_beyond_fp16_are_refused() -> None:
    with pytest.raises(InputError, match=r"precision 'fp8': expected one of fp32, fp16, bf16"):
        reference_in(small_model("ltp"), "fp8")  # type: ignore[arg-type]
    layer = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(layer[0].weight, 7e4)
    with pytest.raises(InputError, match=r"weights up to 65504, found 7e\+04 in 0; build in bf16 or fp32"):
        reference_in(layer, "fp16")
    assert torch.isfinite(reference_in(layer, "bf16")[0].weight).all()


def test_an_overflow_that_onnx_runtime_would_hide_is_seen() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["a", "a"], ["b"]),  # 300 * 300 is beyond fp16
        helper.make_node("Sqrt", ["b"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "overflow", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    found = []
    for variant in (model, round_explicitly(model)):
        session = onnxruntime.InferenceSession(variant.SerializeToString(), providers=["CPUExecutionProvider"])
        found.append(float(session.run(None, {"x": np.array([300.0], np.float32)})[0][0]))
    assert found[0] == pytest.approx(300, rel=1e-2) and found[1] == float("inf")


def test_a_score_at_the_threshold_is_near_it_and_one_far_away_is_not() -> None:
    model = deepcopy(small_model("threshold"))
    stage = Stage(model, cut_stages(model, decision_layers(model))[0])
    inputs = random_inputs(stage, model)
    with torch.no_grad():
        score = model(*(torch.from_numpy(inputs[name]) for name in ("input_ids", "alive"))).score[0]
    for threshold, expected in ((float(score[1, 3]), True), (5.0, False)):
        model.pruner.constants = [threshold]  # type: ignore[assignment]
        assert near_threshold(stage, reference_in(stage, "fp16"), inputs)[1] == expected


@pytest.mark.slow
@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_demo_checkpoints_err_at_most_twice_as_much_as_pytorch(tmp_path: Path, method: str, precision: str) -> None:
    checkpoint = CHECKPOINTS / method
    model = load_checkpoint(checkpoint)
    encoder = TextEncoder(tokenizer_path(checkpoint), 128, model.config.encoder.type_vocab_size)
    samples = encoder([example.content for example in read_examples("movie-reviews", "test")[:32]])
    for spec, states in walk_states(model, cut_stages(model, decision_layers(model)), samples):
        stage, path = Stage(model, spec), tmp_path / f"{spec.name}.onnx"
        export_stage(stage, model.config, path, precision)
        filled = fill_bucket(states, Bucket(batch=32, length=128))
        error, reference = errors_of(stage, path, filled[0], precision, filled[1])
        assert 0 < error <= 2 * reference, spec.name
