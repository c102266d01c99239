"""Exported stages: valid ONNX with one operator, right at shapes that were not traced, in two runtimes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from torch import Tensor

from engines.backends.cpu_graph import write_cpu_graph
from engines.buckets import Bucket
from engines.errors import GateError, InputError
from pipeline.graph.export import example_inputs, export_stage
from pipeline.graph.stages import HeadStage, Stage, cut_stages, decision_layers
from tests.conftest import METHODS
from tests.graph.small import small_model

UNTRACED = (5, 11)
Exported = list[tuple[Stage | HeadStage, Path]]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """The stages of one small model of a method with their graphs, the head's too for the tagging model ("dense")."""
    done: dict[str, Exported] = {}

    def stages(method: str) -> Exported:
        if method not in done:
            model = small_model(method, head="tagging" if method == "dense" else "classification")
            folder = tmp_path_factory.mktemp(method)
            parts: list[Stage | HeadStage] = [Stage(model, spec) for spec in cut_stages(model, decision_layers(model))]
            parts += [HeadStage(model)] if model.config.head.token_level else []
            done[method] = [(part, folder / f"stage_{index}.onnx") for index, part in enumerate(parts)]
            for part, path in done[method]:
                export_stage(part, model.config, path)
        return done[method]

    return stages


def expected_at(stage: Stage | HeadStage, method: str, shape: tuple[int, int]) -> tuple[Arrays, list[np.ndarray]]:
    """Random inputs by name, and PyTorch's outputs."""
    inputs = example_inputs(stage, small_model(method).config, *shape)
    with torch.no_grad():
        outputs = stage(*inputs)
    feed = {name: value.numpy() for name, value in zip(stage.input_names, inputs, strict=True)}
    return feed, [value.numpy() for value in (outputs if isinstance(outputs, tuple) else (outputs,))]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Equal shapes and types, integers equal, floats to 1e-4."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-4 if theirs.dtype == np.float32 else 0, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_graphs_are_valid_and_hold_the_operator_once_per_cut(exported: Callable[[str], Exported], method: str) -> None:
    for stage, path in exported(method):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.input] == list(stage.input_names)
        assert [value.name for value in model.graph.output] == list(stage.output_names)
        for value in model.graph.input:  # batch and length are symbols
            assert all(dim.dim_param for dim in value.type.tensor_type.shape.dim[:2])
        nodes = [node for node in model.graph.node if node.domain == "skimrt"]
        if isinstance(stage, HeadStage) or stage.spec.last:
            assert not nodes and not model.functions
            continue
        (node,) = nodes
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert node.op_type == "TokenCompact"
        assert attributes == {
            "threshold": np.float32(stage.model.pruner.threshold(stage.spec.steps[-1].layer)),
            "capacity": 0,
            "protect_first": 1,
            "plugin_namespace": b"skimrt",
            "plugin_version": b"1",
        }
        assert [(function.domain, function.name) for function in model.functions] == [("skimrt", "TokenCompact")]


@pytest.mark.parametrize("method", METHODS)
def test_onnx_runtime_gives_what_pytorch_gives_at_an_untraced_shape(
    exported: Callable[[str], Exported], method: str
) -> None:
    for stage, path in exported(method):
        feed, expected = expected_at(stage, method, UNTRACED)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert_same(session.run(list(stage.output_names), feed), expected)


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_openvino_gives_the_same_once_the_function_is_inlined(
    exported: Callable[[str], Exported], method: str, tmp_path: Path
) -> None:
    import openvino

    stage, path = exported(method)[0]
    inlined = tmp_path / "inlined.onnx"
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(path)), inlined)
    compiled = openvino.Core().compile_model(inlined, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    feed, expected = expected_at(stage, method, UNTRACED)
    found = compiled(feed)
    assert_same([found[compiled.output(name)] for name in stage.output_names], expected)


class Baked(Stage):
    """The mistakes that tracing makes possible, on a stage that only adds up its inputs."""

    mistake = ""
    output_names = ("logits",)

    def forward(  # type: ignore[override]
        self, first: Tensor, second: Tensor, third: Tensor
    ) -> tuple[Tensor, ...]:
        """[B, S], a mean that differs where the size of the trace is taken for the size of the input."""
        length = 24 if torch.compiler.is_exporting() else first.shape[1]
        total = (first + second + third).float()
        if self.mistake == "value":
            return (total / length,)
        if self.mistake == "shape":
            return (total[:, :length].sum(1, keepdim=True).expand(-1, length) * 1.0,)
        if self.mistake == "reshape":
            return (total.reshape(-1, 1, length)[:, 0],)
        assert self.mistake == "branch"
        return (total * 2.0 if first.shape[1] == 24 else total,)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("value", r"stage_7\.onnx: output 'logits' at batch 1, length 7: expected PyTorch's values .* baked in"),
        ("shape", r"stage_7\.onnx: output 'logits' at batch 1, length 7: expected shape \[1, 7\], found \[1, 24\]"),
        ("reshape", r"stage_7\.onnx: the graph does not run at batch 1, length 7: "),
        ("branch", r"(?s)stage_7\.onnx: the graph does not run at batch 1, length 7: .* Got: 7 Expected: 24"),
    ],
)
def test_a_graph_that_holds_for_the_traced_shape_only_is_refused(tmp_path: Path, mistake: str, message: str) -> None:
    model = small_model("dense")
    stage = Baked(model, cut_stages(model, [])[0])
    stage.mistake = mistake
    with pytest.raises(GateError, match=message):
        export_stage(stage, model.config, tmp_path / "stage_7.onnx")


def test_weights_that_are_not_finite_are_no_fault_of_the_graph(tmp_path: Path) -> None:
    model = deepcopy(small_model("ltp"))
    with torch.no_grad():
        model.head.classifier.weight[0, 0] = torch.nan
    (*_, last) = cut_stages(model, decision_layers(model))
    with pytest.raises(InputError, match="'logits' of PyTorch itself: expected finite values, found NaN or infinity"):
        export_stage(Stage(model, last), model.config, tmp_path / "stage.onnx")


def test_a_small_model_is_made_static_without_warnings(
    exported, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its table of positions is small enough to be folded, but lies in the weights file by then."""
    (_, path), *_ = exported("dense")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        write_cpu_graph(path, [Bucket(batch=1, length=16)], tmp_path / "engine.onnx")
    assert not caplog.records
