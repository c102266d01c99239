"""torch-tensorrt as a way in: the trace for real, the converter and the call against stand-ins, the refusals."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engines.backends.base import EngineOptions
from engines.buckets import Bucket
from engines.errors import BuildError, InputError, TargetError
from pipeline.builder.config import BuildConfig
from pipeline.builder.target import BuildTarget
from pipeline.builder.traced_backend import TracedBackend, settings
from pipeline.graph import torch_tensorrt as frontend
from pipeline.graph.export import example_inputs
from pipeline.graph.stages import HeadStage, Stage, cut_stages, decision_layers
from plugins.token_compact.operator import token_compact

OPERATOR = torch.ops.skimrt.token_compact.default
BUCKET = Bucket(batch=2, length=8)


def stages_of(model) -> list[Stage | HeadStage]:
    stages: list[Stage | HeadStage] = [Stage(model, spec) for spec in cut_stages(model, decision_layers(model))]
    return [*stages, HeadStage(model)] if model.config.head.token_level else stages


@pytest.mark.parametrize("head", ["classification", "tagging"])
@pytest.mark.parametrize("method", ["dense", "ltp", "transkimmer"])
def test_the_trace_computes_what_the_stage_computes(tiny_model, method: str, head: str) -> None:
    """With the custom op at every cut, and no output that is an input."""
    model = tiny_model(method, head)
    for stage in stages_of(model):
        inputs = example_inputs(stage, model.config, 2, 8)
        program = frontend.trace(stage, inputs)
        calls = [node for node in program.graph.nodes if node.target is OPERATOR]
        assert len(calls) == (isinstance(stage, Stage) and not stage.spec.last)
        signature = program.graph_signature
        assert not set(signature.user_inputs) & set(signature.user_outputs)
        with torch.no_grad():
            expected, found = stage(*inputs), program.module()(*inputs)
        for ours, theirs in zip(_tuple(found), _tuple(expected), strict=True):
            torch.testing.assert_close(ours, theirs)


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


class FakeTensorRt:
    """tensorrt, as far as the converter needs it."""

    PluginFieldType = SimpleNamespace(FLOAT32="float32", INT32="int32")
    TensorRTPhase = SimpleNamespace(BUILD="build")

    @staticmethod
    def PluginField(name, array, kind):
        return name, array, kind

    PluginFieldCollection = list


class FakeCreator:
    def __init__(self, makes: object) -> None:
        self.makes = makes
        self.asked: list = []

    def create_plugin(self, name, fields, phase):
        self.asked.append((name, {key: (array.tolist(), array.dtype.name, kind) for key, array, kind in fields}, phase))
        return self.makes


class FakeNetwork:
    def __init__(self) -> None:
        self.layers: list = []

    def add_plugin_v3(self, tensors, shapes, plugin):
        layer = SimpleNamespace(tensors=tensors, plugin=plugin, get_output=lambda index: f"output {index}")
        self.layers.append(layer)
        return layer


@pytest.fixture
def creator(monkeypatch: pytest.MonkeyPatch) -> FakeCreator:
    made = FakeCreator("the plugin")
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt)  # type: ignore[arg-type]
    monkeypatch.setattr(frontend, "load_into", lambda trt: made)
    return made


@pytest.mark.parametrize("written", ["as in the trace", "defaults left out", "by name"])
def test_the_converter_adds_the_plugin(creator: FakeCreator, written: str) -> None:
    context = SimpleNamespace(net=FakeNetwork())
    args: tuple[object, ...] = ("hidden", "score", "alive", "position", 0.25, 0, True)
    kwargs: dict[str, object] = {}
    if written == "defaults left out":
        args = args[:5]
    elif written == "by name":
        args, kwargs = args[:4], {"threshold": 0.25, "protect_first": True}
    outputs = frontend.convert_token_compact(context, OPERATOR, args, kwargs, "cut")
    assert outputs == ("output 0", "output 1", "output 2", "output 3")
    (layer,) = context.net.layers
    assert (layer.name, layer.plugin, layer.tensors) == ("cut", "the plugin", ["hidden", "score", "alive", "position"])
    fields = {
        "threshold": ([0.25], "float32", "float32"),
        "capacity": ([0], "int32", "int32"),
        "protect_first": ([1], "int32", "int32"),
    }
    assert creator.asked == [("cut", fields, "build")]


def test_the_fields_are_those_of_the_plugin(tiny_model) -> None:
    """The attributes of the graph's node are what the plugin reads; the converter hands over the same ones."""
    stage = stages_of(tiny_model("ltp"))[0]
    assert isinstance(stage, Stage)
    assert set(frontend._ATTRIBUTES) == set(stage.compact_attributes) - {"plugin_namespace", "plugin_version"}
    arguments = [argument.name for argument in OPERATOR._schema.arguments]
    assert arguments == ["hidden", "score", "alive", "position", *frontend._ATTRIBUTES]


def test_a_plugin_that_cannot_be_made_is_an_error(creator: FakeCreator) -> None:
    creator.makes = None
    with pytest.raises(RuntimeError, match="TokenCompact 'cut': expected a plugin"):
        frontend.convert_token_compact(
            SimpleNamespace(net=FakeNetwork()), OPERATOR, ("h", "s", "a", "p", 0.5), {}, "cut"
        )


@pytest.fixture
def torch_tensorrt(creator: FakeCreator, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch_tensorrt that remembers what it was asked."""
    asked = SimpleNamespace(converters={}, calls=[])

    def convert(program, *, arg_inputs, arg_input_binding_names=None, output_binding_names=None, **settings) -> bytes:
        asked.calls.append((program, arg_inputs, arg_input_binding_names, output_binding_names, settings))
        return b"plan"

    def converter(target):
        return lambda function: asked.converters.setdefault(target, function)

    conversion = SimpleNamespace(dynamo_tensorrt_converter=converter)
    dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=convert, conversion=conversion)
    asked.module = SimpleNamespace(dynamo=dynamo)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", asked.module)
    monkeypatch.setitem(sys.modules, "torch_tensorrt.dynamo.conversion", conversion)
    monkeypatch.setattr(frontend, "missing", lambda: None)
    frontend.register_converter.cache_clear()
    yield asked
    frontend.register_converter.cache_clear()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_are_asked_for_with_our_names_and_types(torch_tensorrt, tiny_model, precision: str) -> None:
    model = tiny_model("ltp", "tagging")
    for stage in stages_of(model):
        torch_tensorrt.calls.clear()
        plan = frontend.compile_stage(stage, model.config, BUCKET, precision, {"optimization_level": 5}, device="cpu")
        assert plan == b"plan"
        ((program, inputs, input_names, output_names, settings),) = torch_tensorrt.calls
        assert input_names == tuple(stage.input_names) and len(inputs) == len(input_names)
        assert output_names == (stage.output_names if len(stage.output_names) > 1 else stage.output_names[0])
        always = {"require_full_compilation": True, "min_block_size": 1, "disable_tf32": True}
        assert settings == {**always, "optimization_level": 5}
        floats = {value.dtype for value in inputs if value.is_floating_point()}
        assert floats <= {torch.float32 if precision == "fp32" else torch.float16}
        assert {tuple(value.shape[:2]) for value in inputs} == {(2, 8)}
        assert isinstance(program, torch.export.ExportedProgram)
    assert torch_tensorrt.converters == {OPERATOR: frontend.convert_token_compact}
    assert next(model.parameters()).dtype == torch.float32  # the model itself is as it was


def test_an_older_release_is_refused(torch_tensorrt, tiny_model) -> None:
    torch_tensorrt.module.dynamo.convert_exported_program_to_serialized_trt_engine = lambda program, *, arg_inputs: b""
    model = tiny_model("dense")
    with pytest.raises(TargetError, match=r"expected version 2\.14 or newer"):
        frontend.compile_stage(stages_of(model)[0], model.config, BUCKET, device="cpu")


def test_without_it_the_frontend_is_refused_and_says_what_is_missing(tiny_model) -> None:
    if frontend.missing() is None:
        pytest.skip("this machine can build through torch-tensorrt")
    model = tiny_model("dense")
    with pytest.raises(TargetError, match=r"frontend torch-tensorrt: .*(not installed|CUDA|plugin)") as caught:
        frontend.compile_stage(stages_of(model)[0], model.config, BUCKET)
    assert caught.value.exit_code == 4


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_stage_built_through_torch_tensorrt(tiny_model, precision: str) -> None:
    """On a GPU: the engine keeps PyTorch's tokens and gives its rows."""
    lacking = frontend.missing()
    if lacking is not None:
        pytest.skip(lacking)
    trt = importlib.import_module("tensorrt")
    from engines.backends.cuda_device import cuda_device
    from engines.backends.tensorrt_engine import TensorRtEngine

    model = tiny_model("transkimmer")
    stage = stages_of(model)[1]
    plan = frontend.compile_stage(stage, model.config, BUCKET, precision)
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = TensorRtEngine(cuda_device(), trt, runtime.deserialize_cuda_engine(plan), runtime).profile(BUCKET)
    inputs = example_inputs(stage, model.config, BUCKET.batch, BUCKET.length)
    with torch.no_grad():
        expected = dict(zip(stage.output_names, stage(*inputs), strict=True))
    dtype = engine.inputs["hidden"].dtype
    found = engine(
        {
            n: v.numpy().astype(dtype) if n == "hidden" else v.numpy()
            for n, v in zip(stage.input_names, inputs, strict=True)
        }
    )
    for name in ("packed_alive", "packed_position", "count"):
        assert (found[name] == expected[name].numpy()).all()
    torch.testing.assert_close(
        torch.from_numpy(found["packed"]).float(),
        expected["packed"],
        atol=1e-4 if precision == "fp32" else 2e-2,
        rtol=0,
    )


def test_the_operator_is_registered() -> None:
    assert token_compact._opoverload is OPERATOR


def test_the_target_with_traced_stages(torch_tensorrt, tiny_model, tmp_path: Path) -> None:
    """A backend like any other: it finds the stage by its graph's name and writes the plan."""
    model = tiny_model("ltp")
    stages = {spec.name: Stage(model, spec) for spec in cut_stages(model, decision_layers(model))}
    options = EngineOptions(plugin=True, optimization_level=4, workspace=2, compatibility="ampere-plus")
    backend = TracedBackend(model.config, stages, "fp32", options)
    assert (backend.target, backend.suffix, backend.isolated) == ("tensorrt", ".plan", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontend.compile_stage, "__defaults__", ("fp32", None, "cpu"))
        built = backend.build(tmp_path / "stage_1.onnx", [BUCKET], tmp_path / "engine.plan")
    assert (tmp_path / "engine.plan").read_bytes() == b"plan" and built.seconds is not None
    *_, names, output_names, found = torch_tensorrt.calls[-1]
    assert (names, output_names) == (stages["stage_1"].input_names, stages["stage_1"].output_names)
    assert (found["optimization_level"], found["workspace_size"], found["hardware_compatible"]) == (4, 2 << 20, True)


def test_a_stage_that_cannot_be_converted_is_an_error_of_its_engine(torch_tensorrt, tiny_model, tmp_path: Path) -> None:
    model = tiny_model("dense")
    (spec,) = cut_stages(model, [])

    def fail(program, *, arg_inputs, output_binding_names, **rest) -> bytes:
        raise ValueError("no converter for aten.something")

    torch_tensorrt.module.dynamo.convert_exported_program_to_serialized_trt_engine = fail
    backend = TracedBackend(model.config, {"stage_0": Stage(model, spec)}, "fp32", EngineOptions(plugin=True))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BuildError, match=r"engine\.plan: .* aten\.something"):
        patch.setattr(frontend.compile_stage, "__defaults__", ("fp32", None, "cpu"))
        backend.build(tmp_path / "stage_0.onnx", [BUCKET], tmp_path / "engine.plan")


def test_options_that_torch_tensorrt_lacks_are_refused() -> None:
    with pytest.raises(TargetError, match="found same-compute-capability; build through ONNX"):
        settings(EngineOptions(compatibility="same-compute-capability"))


@pytest.mark.parametrize(
    "changed", [{"target": "cpu"}, {"target": "tensorrt", "plugin": False}, {"target": "tensorrt", "export_only": True}]
)
def test_builds_that_it_is_no_way_to_are_refused(changed: dict) -> None:
    with pytest.raises(InputError, match="frontend torch-tensorrt: expected the target tensorrt, with the plugin"):
        BuildTarget.of(BuildConfig(frontend="torch-tensorrt", **changed))


def test_the_build_verb_exits_with_4_and_says_what_is_missing() -> None:
    if frontend.missing() is None:
        pytest.skip("this machine can build through torch-tensorrt")
    command = [sys.executable, "-m", "pipeline.build", "--target", "tensorrt", "--frontend", "torch-tensorrt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 4
    assert "not installed" in done.stderr or "CUDA" in done.stderr
