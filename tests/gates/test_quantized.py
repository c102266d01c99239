"""INT8 engines against the simulation: OpenVINO really computes in int8, and every kind of difference is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calib.int8.equalise import equalised
from calib.int8.qdq import quantize_graphs
from calib.int8.ranges import choose_ranges, collect_histograms
from calib.int8.scheme import QuantizationScheme, groups
from calib.int8.simulation import simulate
from engines.backends import Profile, choose_backend
from engines.backends.base import Arrays
from engines.buckets import Bucket
from engines.manifest import EngineRecord, Gate
from pipeline.gates.expected import Expected
from pipeline.gates.quantized import quantized_parity
from pipeline.graph.evaluate import GraphSession
from pipeline.graph.export import export_stage
from pipeline.graph.precision import reference_in
from pipeline.graph.stages import Stage, StageSpec, cut_stages
from pipeline.model import PrunedTransformer
from pipeline.model.reference import Reference
from tests.graph.small import random_samples, small_model

SAMPLES = random_samples(8)
BUCKETS = (Bucket(batch=1, length=16), Bucket(batch=1, length=32), Bucket(batch=4, length=32))


class Graphs:
    """Two stages of a model, to be quantised."""

    def __init__(self, model: PrunedTransformer, folder: Path, precision: str = "fp32") -> None:
        self.model, self.folder = model, folder
        self.specs: list[StageSpec] = cut_stages(model, [1])
        self.expected = Expected(model, self.specs, Reference.of(model, SAMPLES))
        histograms = collect_histograms(model, SAMPLES)
        some, plain = equalised(model, histograms), choose_ranges(histograms, "minmax")
        self.scheme = QuantizationScheme(ranges={**plain.ranges, **some.ranges}, shifts=some.shifts)
        self.plain = [folder / f"{spec.name}.onnx" for spec in self.specs]
        self.records: list[EngineRecord] = []
        for spec, path in zip(self.specs, self.plain, strict=True):
            export_stage(Stage(model, spec), model.config, path, precision)

    def quantized(self, scheme: QuantizationScheme) -> list[Path]:
        """The graphs in INT8."""
        targets = [path.with_name(f"{path.stem}-int8.onnx") for path in self.plain]
        quantize_graphs(self.plain, scheme, targets)
        return targets


def record_of(stage: int, file: str) -> EngineRecord:
    """An INT8 engine of the target cpu, with every bucket."""
    return EngineRecord(stage=stage, profiles=tuple(BUCKETS), target="cpu", precision="int8", file=file)


class Quantized(Graphs):
    """Two stages of a model in INT8, as engine files of the target cpu."""

    def __init__(self, model: PrunedTransformer, folder: Path) -> None:
        super().__init__(model, folder)
        backend = choose_backend("cpu")
        for spec, graph in zip(self.specs, self.quantized(self.scheme), strict=True):
            file = f"engine_{spec.name}.onnx"
            backend.build(graph, BUCKETS, folder / file)
            self.records.append(record_of(spec.index, file))

    def loader(self, provider: str | None = None) -> Callable[[EngineRecord, Bucket], Profile]:
        """Loads engines with a provider, by default the preferred one whose INT8 is right here."""
        backend = choose_backend("cpu", provider, {"cpu": ["int8"]})
        return lambda record, bucket: backend.load(self.folder / record.file, 1).profile(bucket)

    def gate(self, simulated: PrunedTransformer | None = None, load: Callable | None = None) -> Gate:
        """The gate, against the right simulation unless told otherwise."""
        simulated = simulated or simulate(self.model, self.scheme)
        return quantized_parity(self.expected, simulated, self.records, load or self.loader())


@pytest.fixture(scope="module", params=["ltp", "transkimmer"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """A model of two layers in INT8."""
    return Quantized(small_model(request.param, layers=2), tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("provider", ["openvino", "onnxruntime"])
def test_engines_of_the_scheme_pass(quantized: Quantized, provider: str) -> None:
    reason = choose_backend("cpu", provider).unfit("int8")
    if reason is not None:
        pytest.skip(f"{provider}: {reason}")
    gate = quantized.gate(load=quantized.loader(provider))
    assert gate.status == "PASSED", gate.reason
    assert gate.figures["checked"] == 6 and gate.figures["decisions"] > 100
    assert 0.5 < gate.figures["error_over_simulations"] <= 1.2  # it is the same rounding


@pytest.fixture(scope="module", params=["ltp", "transkimmer"])
def narrow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """The same in fp16, as for TensorRT."""
    return Graphs(small_model(request.param, layers=2), tmp_path_factory.mktemp(f"{request.param}-fp16"), "fp16")


def gate_of_graphs(narrow: Graphs, scheme: QuantizationScheme) -> Gate:
    """The gate of fp16 graphs quantised by a scheme, against the simulation of the right one."""
    sessions = [GraphSession(path) for path in narrow.quantized(scheme)]
    records = [record_of(spec.index, spec.name) for spec in narrow.specs]
    simulated = simulate(reference_in(narrow.model, "fp16"), narrow.scheme)
    return quantized_parity(narrow.expected, simulated, records, lambda record, _: sessions[int(record.stage)])


def test_fp16_graphs_of_the_scheme_pass(narrow: Graphs) -> None:
    gate = gate_of_graphs(narrow, narrow.scheme)
    assert gate.status == "PASSED", gate.reason
    assert 0.5 < gate.figures["error_over_simulations"] <= 1.2


@pytest.mark.parametrize("factor", [0.5, 8.0], ids=["clipped", "three bits lost"])
@pytest.mark.parametrize("group", ["attention.0.qkv", "attention.0.output", "feed_forward.0.up", "feed_forward.1.down"])
def test_a_wrong_scale_of_one_tensor_fails(narrow: Graphs, group: str, factor: float) -> None:
    ranges = narrow.scheme.ranges
    wrong = {layer: factor * ranges[layer] for layer in groups(ranges)[group]}
    gate = gate_of_graphs(narrow, narrow.scheme.model_copy(update={"ranges": {**ranges, **wrong}}))
    assert gate.status == "FAILED" and gate.figures["error_over_simulations"] > 2


def test_openvino_computes_every_quantised_layer_in_int8(quantized: Quantized) -> None:
    import openvino

    products = 0
    for record in quantized.records:
        compiled = openvino.Core().compile_model(quantized.folder / record.file, "CPU")
        for node in compiled.get_runtime_model().get_ordered_ops():
            info = {key: node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")}
            if info["layerType"] == "FullyConnected":
                products += info["runtimePrecision"] in ("i8", "u8")
    assert products == len(quantized.scheme.ranges)


def test_engines_that_round_more_than_the_simulation_fail(quantized: Quantized) -> None:
    finer = simulate(quantized.model, quantized.scheme.only(["attention.0.output", "feed_forward.1.down"]))
    gate = quantized.gate(finer)
    assert gate.status == "FAILED" and "times the error of the simulation" in gate.reason


def test_a_simulation_of_nothing_allows_no_difference(quantized: Quantized) -> None:
    gate = quantized.gate(quantized.model)
    assert gate.status == "FAILED" and "the simulation does not" in gate.reason


class Wrong(Profile):
    """A profile with one output changed."""

    def __init__(self, engine: Profile, change: Callable[[dict[str, np.ndarray]], None]) -> None:
        self.engine, self.inputs, self.change = engine, engine.inputs, change

    def run(self) -> Arrays:
        outputs = {name: value.copy() for name, value in self.engine.run().items()}
        self.change(outputs)
        return outputs


def test_decisions_away_from_the_threshold_fail_and_name_the_engine(quantized: Quantized) -> None:
    def kill(outputs: dict[str, np.ndarray]) -> None:
        for name in ("packed_alive", "final_alive"):
            if name in outputs:
                outputs[name][...] = 0

    load = quantized.loader()
    gate = quantized.gate(load=lambda record, bucket: Wrong(load(record, bucket), kill))
    assert gate.status == "FAILED"
    assert "engine_stage_0.onnx 1x16: " in gate.reason and "away from the threshold" in gate.reason


def test_nan_fails(quantized: Quantized) -> None:
    def spoil(outputs: dict[str, np.ndarray]) -> None:
        if "logits" in outputs:
            outputs["logits"][...] = np.nan

    load = quantized.loader()
    gate = quantized.gate(load=lambda record, bucket: Wrong(load(record, bucket), spoil))
    assert gate.status == "FAILED" and "stage_1: nan times" in gate.reason


def test_no_engine_in_int8_is_no_pass(quantized: Quantized) -> None:
    gate = quantized_parity(quantized.expected, quantized.model, [], quantized.loader())
    assert gate.status == "SKIPPED"
