"""Plans of models: cuts and buckets that hold every input, never worse than not cutting, within the limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.int8.qdq import quantized_products
from calib.int8.scheme import QuantizationScheme, quantizable_layers
from engines.backends import choose_backend
from engines.backends.base import PLAIN, Built, Engine, EngineOptions
from engines.backends.openvino import OpenVinoBackend
from engines.binding import Binding
from pipeline.builder.profile import cost_key, cost_table, profiled_stages
from pipeline.builder.target import BuildTarget
from pipeline.graph.once import ExportOnce
from pipeline.graph.stages import decision_layers
from pipeline.model.transformer import PrunedTransformer
from pipeline.planning.costs import CostTable, StageShape
from pipeline.planning.plan import ChosenPlan, Planner, describe, finest_for, padding
from tests.conftest import METHODS, TinyModel
from tests.graph.small import small_model


class RowCost:
    """So much for a call, and so much for every row of every layer."""

    def __init__(self, call: float, row: float = 1.0) -> None:
        self.call, self.row = call, row

    def alone(self, stage: StageShape, length: int) -> float:
        return self.call + self.row * stage.layers * length

    def together(self, stage: StageShape, batch: int, length: int) -> float:
        return self.call + self.row * stage.layers * length * batch


def falling(model, share: float, samples: int = 20) -> np.ndarray:
    """Rows that fall by a share at every layer, for inputs of all lengths."""
    lengths = np.linspace(4, model.config.max_length, samples).round()
    layers = model.config.encoder.layers
    return np.column_stack([np.maximum(1, (lengths * share**n).round()) for n in range(layers + 1)]).astype(int)


@pytest.mark.parametrize("method", METHODS)
def test_cuts_where_rows_die_and_calls_are_cheap(tiny_model: TinyModel, method: str) -> None:
    model = tiny_model(method)
    rows = falling(model, 0.5)
    cheap = Planner(model, rows, RowCost(0), (1, 8), 500)
    assert bool(cheap.best().cuts) == bool(decision_layers(model))
    if decision_layers(model):
        assert cheap.best().expected_seconds[1] < cheap.given([]).expected_seconds[1]
    assert Planner(model, rows, RowCost(1e6), (1, 8), 500).best().cuts == ()
    assert Planner(model, falling(model, 1.0), RowCost(1), (1, 8), 500).best().cuts == ()


@given(share=st.floats(0.2, 1), call=st.floats(0, 500), profiles=st.integers(1, 60))
def test_never_worse_than_no_cut_and_within_the_limit(
    tiny_model: TinyModel, share: float, call: float, profiles: int
) -> None:
    model = tiny_model("transkimmer")
    planner = Planner(model, falling(model, share), RowCost(call), (1,), profiles)
    plan = planner.best()
    assert plan.expected_seconds[1] <= planner.given([]).expected_seconds[1] + 1e-9
    assert sum(len(held) for held in plan.buckets) <= profiles
    assert len(plan.buckets) == len(plan.cuts) + 1
    assert all(max(bucket.length for bucket in held) == model.config.max_length for held in plan.buckets)


def test_an_engine_has_to_earn_its_place(tiny_model: TinyModel, monkeypatch) -> None:
    model = tiny_model("transkimmer")
    planner = Planner(model, falling(model, 0.9, samples=200), RowCost(0), (1,), 500, finest=1)
    found: list[ChosenPlan] = []
    for share in (0.0, 0.01, 1.0):
        monkeypatch.setattr("pipeline.planning.plan._EARNS", share)
        found.append(planner.best())
    engines = [sum(len(held) for held in plan.buckets) for plan in found]
    times = [plan.expected_seconds[1] for plan in found]
    assert engines[0] > engines[1] > engines[2] == 1 and times[0] < times[1] < times[2]
    # What is left out would not have earned it: together these engines save less than their price.
    longest = planner.given([], [[model.config.max_length]]).expected_seconds[1]
    assert times[1] - times[0] <= 0.01 * longest * (engines[0] - engines[1])


@pytest.mark.parametrize(("target", "finest"), [("cpu", 4), ("tensorrt", 8), ("tensorrt-rtx", 8)])
def test_lengths_are_as_fine_as_the_target_gains_from(tiny_model: TinyModel, target: str, finest: int) -> None:
    model = tiny_model("ltp")
    planner = Planner(model, falling(model, 0.5), RowCost(1), (1,), 9, finest=finest_for(target))
    *shorter, longest = planner.candidates()
    assert shorter[0] == finest and all(length % finest == 0 for length in shorter)
    assert longest == model.config.max_length


def test_given_lengths_stay(tiny_model: TinyModel) -> None:
    model = tiny_model("ltp")
    longest = model.config.max_length
    plan = Planner(model, falling(model, 0.5), RowCost(1), (1, 2), 9, (8, longest)).best()
    assert all({bucket.length for bucket in held} == {8, longest} for held in plan.buckets)
    assert all({bucket.batch for bucket in held} == {1, 2} for held in plan.buckets)


def test_a_timed_plan_has_the_seconds_of_every_bucket(tiny_model: TinyModel) -> None:
    model = tiny_model("transkimmer")
    planner = Planner(model, falling(model, 0.5), RowCost(3), (1, 2), 20)
    plan = planner.best()
    assert plan.cuts and plan.call_seconds == ()
    timed = planner.timed(plan).call_seconds
    for shape, held, seconds in zip(planner.shapes(plan.cuts), plan.buckets, timed, strict=True):
        assert list(seconds) == [3 + shape.layers * bucket.batch * bucket.length for bucket in held]


def test_a_plan_tells_what_it_wastes(tiny_model: TinyModel) -> None:
    model = tiny_model("dense")
    rows = np.full((3, model.config.encoder.layers + 1), 6)
    plan = Planner(model, rows, RowCost(1), (1,), 9, (8, model.config.max_length)).best()
    assert padding(plan, rows) == pytest.approx(8 / 6 - 1)
    assert [row[2] for row in describe(plan, model, rows)] == ["6.0"]


@pytest.mark.parametrize("method", ["dense", "transkimmer"])
def test_costs_are_measured_once(method: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path))
    model, target = small_model(method, layers=2), BuildTarget(choose_backend("cpu"), PLAIN, "fp32", None, None)
    table = cost_table(model, target, (2,), threads=1)
    assert set(table.alone_seconds) == set(profiled_stages(model)) and table.layers["whole"] == 2
    assert all(seconds > 0 for times in table.alone_seconds.values() for seconds in times)
    assert all(set(by) == {1, 2} for by in table.together_seconds.values())
    monkeypatch.setattr("pipeline.builder.profile.measure_costs", lambda *_: pytest.fail("measured again"))
    assert cost_table(model, target, (2,), threads=1) == table
    (file,) = (tmp_path / "skimrt" / "profiles").iterdir()
    assert CostTable.read(file) == table


def test_costs_in_int8_are_those_of_quantised_stages_and_are_kept_apart(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path))
    model, backend, products = small_model("ltp", layers=2), choose_backend("cpu"), []
    target = BuildTarget(backend, PLAIN, "fp32", None, None)
    build = backend.build

    def counting(graph: Path, *more) -> Built:
        products.append(len(quantized_products(onnx.load(graph))))
        return build(graph, *more)

    monkeypatch.setattr(backend, "build", counting)
    scheme, export = QuantizationScheme(ranges=dict.fromkeys(quantizable_layers(model), 1.0)), ExportOnce()
    table = cost_table(model, target, (1,), 1, scheme, export)
    assert max(products) == len(scheme.ranges) == 12  # the whole model

    def measured(scheme: QuantizationScheme | None) -> bool:
        products.clear()
        cost_table(model, target, (1,), 1, scheme, export)
        return bool(products)

    other = scheme.model_copy(update={"ranges": dict.fromkeys(scheme.ranges, 2.0)})
    assert not measured(other) and cost_table(model, target, (1,), threads=1, scheme=other) == table
    assert measured(scheme.without(["feed_forward.0.up"])) and max(products) == 11
    assert measured(None) and max(products) == 0


class Bound(OpenVinoBackend):
    """As TensorRT's backends: engines are bound to a machine, and loaded with what they are bound to only."""

    target, provider, machine_bound = "tensorrt", "tensorrt", True
    asked: list[EngineOptions]

    def build(self, graph, buckets, out, options=PLAIN, report=None) -> Built:
        self.asked.append(options)
        types = {value.type.tensor_type.elem_type for value in onnx.load(graph).graph.input if value.name == "hidden"}
        assert types <= {onnx.TensorProto.FLOAT16}
        return super().build(graph, buckets, out, PLAIN, report)

    def load(self, engine_file, threads, binding=None, *read) -> Engine:
        assert binding is not None, "expected an engine bound to this machine"
        return super().load(engine_file, threads, None, *read)


def test_costs_on_a_gpu_are_of_its_precision_options_and_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path))
    model, backend, options = small_model("ltp"), Bound(), EngineOptions(optimization_level=1)
    backend.asked = []
    binding = Binding(library="tensorrt", version="10.14", compute_capabilities=("8.9",), gpu="NVIDIA L4")
    target = BuildTarget(backend, options, "fp16", binding, None)
    table = cost_table(model, target, (1,), threads=1)
    assert backend.asked and set(backend.asked) == {options}
    others = [
        replace(target, precision="fp32"),
        replace(target, options=PLAIN),
        replace(target, binding=binding.model_copy(update={"gpu": "NVIDIA T4"})),
    ]
    monkeypatch.setattr("pipeline.builder.profile.measure_costs", lambda *_: table)
    for other in others:
        cost_table(model, other, (1,), threads=1)
    assert len(list((tmp_path / "skimrt" / "profiles").iterdir())) == 1 + len(others)


def test_what_changes_a_profiled_stage_changes_the_key(tiny_model: TinyModel) -> None:
    target = BuildTarget(choose_backend("cpu"), PLAIN, "fp32", None, None)
    narrow, ltp = tiny_model("transkimmer"), tiny_model("ltp")
    pruner = narrow.config.pruner.model_copy(update={"predictor_hidden": 99})
    wide = PrunedTransformer(narrow.config.model_copy(update={"pruner": pruner}))
    plain = QuantizationScheme(ranges=dict.fromkeys(quantizable_layers(ltp), 1.0))
    shifted = plain.model_copy(update={"shifts": {next(iter(plain.ranges)): [1] * 8}})
    keys = [cost_key(narrow, target, (1,), 1, None), cost_key(wide, target, (1,), 1, None)]
    keys += [cost_key(ltp, target, (1,), 1, scheme) for scheme in (None, plain, shifted)]
    assert len(set(keys)) == len(keys)


def test_a_cache_of_costs_may_be_missing_or_damaged(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, target = small_model("dense", layers=2), BuildTarget(choose_backend("cpu"), PLAIN, "fp32", None, None)
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path / "cache"))
    table = cost_table(model, target, (1,), threads=1)
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text("damaged")
    monkeypatch.setattr("pipeline.builder.profile.measure_costs", lambda *_: table)
    assert cost_table(model, target, (1,), threads=1) == table
    assert "measured again" in caplog.text and CostTable.read(file) == table
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path / "file"))
    assert cost_table(model, target, (1,), threads=1) == table
    assert "set SKIMRT_CACHE" in caplog.text
