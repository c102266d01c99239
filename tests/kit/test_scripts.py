"""Golden data and scripts for a GPU host: read by Polygraphy, and run with ONNX Runtime in TensorRT's place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.backends.base import EngineOptions
from engines.buckets import parse_buckets
from engines.head import Head
from engines.manifest import Encoder, Manifest
from engines.plan import Plan, StagePlan
from pipeline.gates.expected import Expected
from pipeline.gates.states import edge_buckets
from pipeline.graph.export import export_stage
from pipeline.graph.stages import HeadStage, Stage, cut_stages, decision_layers
from pipeline.kit.golden import RUNNER, Golden
from pipeline.kit.scripts import CHECK, COMPILE, compile_script, write_gpu_kit
from pipeline.model import PrunedTransformer
from pipeline.model.reference import Reference
from tests.conftest import LONGEST
from tests.graph.small import random_samples, small_model
from tests.plugins.conftest import plugin_library, require_package  # noqa: F401 (one is a fixture)

BUCKETS = parse_buckets("1x16,1x24,1x32,4x16,4x24,4x32")
DIGEST = "0" * 64
TRTEXEC = """#!/usr/bin/env python3
import shutil, sys
options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
shutil.copyfile(options["--onnx"], options["--saveEngine"])
print(" ".join(sys.argv[1:]), file=open("trtexec.log", "a"))
"""
PYTHON = f"""#!{sys.executable}
import importlib, os, sys
sys.modules["tensorrt"] = importlib.import_module(os.environ.get("TENSORRT", "tensorrt_of_the_test"))
_, option, program, *words = sys.argv
sys.argv = [option, *({{"engine": "onnx", "--trt": "--onnxrt"}}.get(word, word) for word in words)]
exec(program)
"""
TENSORRT = """
__version__ = "11.4.0"
class Registry:
    def load_library(self, path):
        print(path, file=open("loaded.log", "a"))
        return None if "broken" in path else self
get_plugin_registry = Registry
"""


@dataclass
class Kit:
    """An artifact without engines, and what was written into it."""

    root: Path
    manifest: Manifest
    golden: list[Golden]

    def script(self, name: str, tools: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of the kit with stand-ins for trtexec and TensorRT's Python module."""
        for tool, content in (("trtexec", TRTEXEC), ("python", PYTHON), ("tensorrt_of_the_test.py", TENSORRT)):
            (tools / tool).write_text(content)
            (tools / tool).chmod(0o755)
        path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHON": str(tools / "python")}
        call = ["bash", str(self.root / name), *arguments]
        return subprocess.run(call, capture_output=True, text=True, env={**os.environ, **path, **environment})


def make_kit(root: Path, precision: str, method: str = "transkimmer", **options) -> Kit:
    """Exports a small model and writes its kit; "tagging" is LTP with a token-level head."""
    tagging = method == "tagging"
    model = small_model("ltp", head="tagging") if tagging else small_model(method)
    specs = cut_stages(model, decision_layers(model))
    (root / "stages").mkdir(parents=True)
    for spec in specs:
        export_stage(Stage(model, spec), model.config, root / f"stages/{spec.name}.onnx", precision)
    if tagging:
        export_stage(HeadStage(model), model.config, root / "stages/head.onnx", precision)
    manifest = manifest_of(model, [spec.step_names for spec in specs], precision)
    expected = Expected(model, specs, Reference.of(model, random_samples(12)), precision)
    golden = write_gpu_kit(root, expected, manifest, EngineOptions(**options))
    return Kit(root, manifest, golden)


def manifest_of(model: PrunedTransformer, steps: list[list[str]], precision: str) -> Manifest:
    """The manifest of a build that only exported."""
    head, encoder = model.config.head, model.config.encoder
    stages = [StagePlan(graph=f"stages/stage_{i}.onnx", steps=s) for i, s in enumerate(steps)]
    plan = {"precision": precision, "stages": stages, "buckets": BUCKETS}
    graphs = [stage.graph for stage in stages] + (["stages/head.onnx"] if head.token_level else [])
    return Manifest(
        skimrt_version="0",
        created="now",
        build_key=DIGEST,
        method=model.config.pruner.method,
        head=Head(kind=head.kind, labels=head.labels),
        max_length=LONGEST,
        encoder=Encoder(**encoder.model_dump(include=set(Encoder.model_fields))),
        protect_first=True,
        checkpoint={"path": "tiny", "sha256": DIGEST},
        plan=Plan(**plan, head_graph=graphs[-1] if head.token_level else None),
        engines=[],
        files=dict.fromkeys([*graphs, "tokenizer/tokenizer.json"], DIGEST),
    )


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Kit]:
    """Kits by precision and method, made once. Do not change them."""
    made: dict[tuple[str, str], Kit] = {}

    def kit(precision: str, method: str = "transkimmer") -> Kit:
        if (precision, method) not in made:
            made[precision, method] = make_kit(tmp_path_factory.mktemp(f"{precision}-{method}"), precision, method)
        return made[precision, method]

    return kit


@pytest.mark.parametrize(
    ("precision", "method"), [("fp32", "transkimmer"), ("fp16", "transkimmer"), ("fp16", "ltp"), ("fp16", "tagging")]
)
def test_polygraphys_onnx_runtime_runner_gives_the_golden_outputs(
    kits: Callable[..., Kit], precision: str, method: str
) -> None:
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, CompareFunc, RunResults
    from polygraphy.json import load_json

    kit = kits(precision, method)
    units = {*range(len(kit.manifest.plan.stages)), *(["head"] if method == "tagging" else [])}
    assert {(data.unit, data.bucket) for data in kit.golden} == {(u, b) for u in units for b in edge_buckets(BUCKETS)}
    for data in kit.golden:
        stem = "head" if data.unit == "head" else f"stage_{data.unit}"
        runner = OnnxrtRunner(SessionFromOnnx(str(kit.root / f"stages/{stem}.onnx"), providers=["cpu"]))
        inputs = load_json(str(kit.root / data.inputs))
        results = Comparator.run([runner], data_loader=inputs)
        golden = RunResults.load(str(kit.root / data.outputs))
        assert list(golden.keys()) == [RUNNER]
        results.extend(golden)
        accuracy = Comparator.compare_accuracy(
            results, compare_func=CompareFunc.simple(atol=data.tolerances, rtol=0), fail_fast=True
        )
        assert bool(accuracy), (data.unit, data.bucket)


def test_golden_inputs_are_real_states_in_the_graphs_types(kits: Callable[..., Kit]) -> None:
    from polygraphy.json import load_json

    kit = kits("fp16")
    for data in kit.golden:
        (inputs,) = load_json(str(kit.root / data.inputs))
        for value in onnx.load(kit.root / kit.manifest.plan.stages[data.unit].graph).graph.input:
            array = inputs[value.name]
            assert array.dtype == onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            assert array.shape[:2] == (data.bucket.batch, data.bucket.length)
        assert inputs["alive"].any(1).all()  # no sample is padding, whose numbers mean nothing
        assert not any(value for name, value in data.tolerances.items() if "alive" in name or name == "count")
        assert all(value > 0 for name, value in data.tolerances.items() if name in ("packed", "logits"))


def test_the_scripts_compile_and_check_every_engine(kits: Callable[..., Kit], tmp_path: Path) -> None:
    kit = kits("fp16")
    compiled = kit.script(COMPILE, tmp_path, OUT=str(tmp_path / "engines"))
    assert compiled.returncode == 0, compiled.stderr
    names = sorted(path.stem for path in (tmp_path / "engines").glob("*.plan"))
    assert names == sorted(f"stage_{i}_b{b.batch}_s{b.length}" for i in (0, 1) for b in BUCKETS)
    checked = kit.script(CHECK, tmp_path, str(tmp_path / "engines"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "8 passed, 0 failed, 0 skipped; golden data for 8 of 12 profiles, the shortest and longest" in checked.stdout


def test_a_wrong_engine_fails_and_a_missing_one_is_skipped(kits: Callable[..., Kit], tmp_path: Path) -> None:
    kit, engines = kits("fp16"), tmp_path / "engines"
    assert kit.script(CHECK, tmp_path, str(engines)).returncode == 2  # nothing was checked, so nothing has passed
    engines.mkdir()
    model = onnx.load(kit.root / "stages/stage_1.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "model.head.classifier.bias":
            moved = onnx.numpy_helper.to_array(tensor) + np.float16(0.1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    onnx.save(model, engines / "stage_1_b1_s16.plan")
    checked = kit.script(CHECK, tmp_path, str(engines))
    assert checked.returncode == 1
    assert "FAILED stage_1_b1_s16" in checked.stdout and "SKIPPED stage_0_b1_s16" in checked.stdout
    assert "0 passed, 1 failed, 7 skipped" in checked.stdout


def test_the_trtexec_lines_carry_what_the_engines_are_compiled_with(tmp_path: Path) -> None:
    options = {"plugin": True, "optimization_level": 4, "workspace": 512, "compatibility": "ampere-plus"}
    kit = make_kit(tmp_path / "kit", "fp16", **options)
    compiled = kit.script(COMPILE, tmp_path, "--iterations=3", OUT=str(tmp_path / "engines"), ONLY="stage_1_b4_s24")
    assert compiled.returncode == 0, compiled.stderr
    (line,) = (kit.root / "trtexec.log").read_text().splitlines()
    out = tmp_path / "engines"
    assert set(line.split()) == {
        "--onnx=stages/stage_1.onnx",
        "--shapes=hidden:4x24x32,alive:4x24,position:4x24",
        "--stronglyTyped",
        "--noTF32",
        "--skipInference",
        "--profilingVerbosity=detailed",
        "--dumpLayerInfo",
        "--builderOptimizationLevel=4",
        "--memPoolSize=workspace:512",
        "--hardwareCompatibilityLevel=ampere+",
        "--dynamicPlugins=plugins/libskimrt_plugins.so",
        f"--timingCacheFile={out}/timing.cache",
        f"--saveEngine={out}/stage_1_b4_s24.plan",
        f"--exportLayerInfo={out}/stage_1_b4_s24.layers.json",
        "--iterations=3",
    }


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Checks one engine, which is right, of an artifact with the plugin."""
    kit, engines = make_kit(tmp_path / "kit", "fp32", plugin=True), tmp_path / "engines"
    engines.mkdir()
    shutil.copyfile(kit.root / "stages/stage_1.onnx", engines / "stage_1_b1_s16.plan")
    return lambda **environment: kit.script(CHECK, tmp_path, str(engines), **environment)


def test_polygraphys_tensorrt_is_given_the_plugins(
    checked: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    log = tmp_path / "kit" / "loaded.log"
    done = checked()
    assert done.returncode == 0 and "1 passed, 0 failed, 7 skipped" in done.stdout, done.stderr
    assert set(log.read_text().split()) == {"plugins/libskimrt_plugins.so"}
    assert checked(PLUGIN="other.so").returncode == 0 and log.read_text().split()[-1] == "other.so"
    refused = checked(PLUGIN="broken.so")
    assert refused.returncode == 2 and "TensorRT 11.4.0 loads no plugins from broken.so" in refused.stderr
    missing = checked(TENSORRT="no_such_module")
    assert missing.returncode == 2 and "PYTHON must have tensorrt and polygraphy" in missing.stderr


def test_a_real_registry_takes_the_plugins(
    checked: Callable[..., subprocess.CompletedProcess[str]],
    plugin_library: Path,  # noqa: F811
) -> None:
    """TensorRT lean 11's, for which the library need not be built: the headers' major version does not matter."""
    require_package("tensorrt_lean_bindings", "tensorrt-lean-cu13-bindings")
    done = checked(TENSORRT="tensorrt_lean_bindings", PLUGIN=str(plugin_library))
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stderr
    refused = checked(TENSORRT="tensorrt_lean_bindings", PLUGIN="no/such.so")
    assert refused.returncode == 2 and "loads no plugins from no/such.so" in refused.stderr


def test_quantised_engines_are_compiled_beside_those_that_have_golden_data(
    kits: Callable[..., Kit], tmp_path: Path
) -> None:
    kit = make_kit(tmp_path / "kit", "fp16")
    quantised = "stages/stage_1-int8.onnx"
    (kit.root / quantised).write_bytes((kit.root / "stages/stage_1.onnx").read_bytes())
    script = compile_script(kit.root, kit.manifest, EngineOptions(), {1: quantised})
    (kit.root / COMPILE).write_text(script, "utf-8")
    compiled = kit.script(COMPILE, tmp_path, OUT=str(tmp_path / "engines"), ONLY="b4_s32")
    assert compiled.returncode == 0, compiled.stderr
    names = sorted(path.relative_to(tmp_path / "engines").as_posix() for path in (tmp_path / "engines").rglob("*.plan"))
    assert names == ["int8/stage_1_b4_s32.plan", "stage_0_b4_s32.plan", "stage_1_b4_s32.plan"]
    lines = (kit.root / "trtexec.log").read_text().splitlines()
    (line,) = (line for line in lines if f"--onnx={quantised}" in line.split())
    assert f"--saveEngine={tmp_path}/engines/int8/stage_1_b4_s32.plan" in line.split()


def test_a_stage_with_buckets_of_its_own_has_their_lines_only(kits: Callable[..., Kit]) -> None:
    kit = kits("fp16")
    first, second = kit.manifest.plan.stages
    stages = [first, second.model_copy(update={"buckets": parse_buckets("2x32")})]
    plan = kit.manifest.plan.model_copy(update={"stages": stages})
    script = compile_script(kit.root, kit.manifest.model_copy(update={"plan": plan}), EngineOptions())
    names = [line.split()[1] for line in script.splitlines() if line.startswith("engine stage")]
    assert names == [*(f"stage_0_b{b.batch}_s{b.length}" for b in BUCKETS), "stage_1_b2_s32"]


def test_bf16_has_scripts_and_says_that_it_has_no_golden_data(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "kit", "bf16")
    assert kit.golden == []
    checked = kit.script(CHECK, tmp_path)
    assert checked.returncode == 2
    assert "golden data for 0 of 12 profiles" in checked.stdout and "none in bf16" in checked.stdout
