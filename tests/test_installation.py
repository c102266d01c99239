"""What an installation brings: the extras, the verbs where packages are missing, and what the sdist and wheel hold."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.backends.openvino import OpenVinoBackend
from engines.errors import TargetError
from pipeline import build, demo
from pipeline.builder import config
from pipeline.importing import importing
from pipeline.training.setup import make_trainee
from tests.conftest import LABELS as HEAD_LABELS
from tests.gates.builds import classifier, run_verb
from tests.training.runs import LABELS, make_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
BUILDING = {"torch", "safetensors", "jinja2", "onnx", "onnxscript", "peft"}


def run_as_command(verb: str, *arguments: object, before: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline.VERB` in a fresh interpreter, after some code."""
    start = f"import runpy, sys; sys.argv[1:] = {[*map(str, arguments)]!r}"
    code = f"{start}\n{before}\nrunpy.run_module('pipeline.{verb}', run_name='__main__', alter_sys=True)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)


def hiding(*packages: str) -> str:
    """Code after which the packages are not found."""
    return f"sys.modules.update(dict.fromkeys({packages!r}))"


@pytest.mark.parametrize(
    ("verb", "package", "extra"),
    [
        ("train", "torch", "train"),
        *((verb, "torch", "cpu") for verb in ("build", "parity", "demo")),
        ("report", "jinja2", "cpu"),
        ("serve", "fastapi", "serve"),
    ],
)
def test_a_verb_names_the_package_that_is_missing_and_its_extra(verb: str, package: str, extra: str) -> None:
    done = run_as_command(verb, "--help", before=hiding(package))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"error: the package {package} is not installed; pip install 'skimrt[{extra}]'\n"


@pytest.mark.parametrize("verb", ["train", "build", "parity", "demo", "report", "run", "inspect", "serve"])
def test_an_interrupted_import_ends_as_an_interrupted_verb_does(verb: str) -> None:
    interrupt = """
class Interrupt:
    def find_spec(self, name, *_):
        if name == "pydantic":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())"""
    done = run_as_command(verb, "--help", before=interrupt)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("error", [ModuleNotFoundError("no torch", name="torch"), KeyboardInterrupt()])
def test_a_library_raises_what_its_imports_raise(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, importing("pipeline.build", "skimrt[cpu]"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("name", ["pipeline.planner", None])
def test_a_missing_module_that_no_installation_brings_is_a_defect(name: str | None) -> None:
    with pytest.raises(ModuleNotFoundError), importing("__main__", "skimrt[cpu]"):
        raise ModuleNotFoundError("a defect", name=name)


def test_adapters_without_peft_name_their_extra(tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TargetError, match=re.escape("peft is not installed; pip install 'skimrt[train]'")):
        make_trainee(make_config(tiny_backbone, "dense", adapter_rank=2), LABELS)


def test_the_extra_runtime_runs_an_artifact_without_what_builds_it(tiny_tokenizer: Path) -> None:
    named = {re.split(r"[^\w-]", requirement)[0] for requirement in EXTRAS["runtime"]}
    assert named == {"openvino", "onnxruntime"}
    artifact = classifier(tiny_tokenizer).artifact
    for provider in named:
        done = run_as_command(
            "run", artifact, "--text", "good", "--provider", provider, before=hiding(*BUILDING, *named - {provider})
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["serve", "export_triton"])
def test_a_deployment_needs_nothing_that_builds(verb: str) -> None:
    done = run_as_command(verb, "--help", before=hiding(*BUILDING))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", [OpenVinoBackend(), OnnxRuntimeBackend()])
def test_a_missing_provider_is_had_without_pytorch(
    backend: OpenVinoBackend | OnnxRuntimeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, backend.provider, None)
    assert str(backend.available()).endswith("pip install 'skimrt[runtime]'")


def test_every_extra_that_is_asked_for_exists() -> None:
    sources = [ROOT / "README.md", ROOT / "pyproject.toml"]
    sources += [path for package in ("engines", "pipeline") for path in (ROOT / package).rglob("*.py")]
    found = {extra for path in sources for extra in re.findall(r"skimrt\[([\w,]+)\]", path.read_text("utf-8"))}
    assert {name for names in found for name in names.split(",")} <= set(EXTRAS)
    assert {"cpu", "rtx", "gpu", "train", "serve", "dev"} <= set(EXTRAS)


@pytest.mark.parametrize("verb", [build, demo])
def test_without_a_source_checkout_the_demo_is_refused_before_anything_is_created(
    verb: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "demo" / "checkpoints"
    for module in (config, build, demo):
        monkeypatch.setattr(module, "DEMO", gone)
    arguments = ["--checkpoint", gone / "ltp"] if verb is build else []  # the default is fixed at import
    assert run_verb(verb, *arguments, "--out", tmp_path / "out") == 2  # type: ignore[arg-type]
    assert "the demo is only in a source checkout" in (error := capsys.readouterr().err) and "--checkpoint" in error
    assert not list(tmp_path.iterdir())


def packed(folder: Path, kind: str, *options: str) -> Path:
    """The sdist or wheel of the working tree, which stays as it is."""
    pytest.importorskip("setuptools", minversion="77")
    setup = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "egg_info", "--egg-base", str(folder)]
    command = [*setup, "build", "--build-base", str(folder / "build"), kind, "--dist-dir", str(folder / "dist")]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True)
    (path,) = (folder / "dist").iterdir()
    return path


def tracked_files() -> set[str]:
    """The files of the repository that are still there."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def test_the_sdist_is_the_whole_source(tmp_path: Path) -> None:
    with tarfile.open(packed(tmp_path, "sdist")) as sdist:
        held = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert held >= tracked_files()
    assert not {name for name in held if name.endswith((".pyc", ".so", ".o")) or name.startswith("build/")}


def test_the_wheel_is_the_packages_and_their_data(tmp_path: Path) -> None:
    with zipfile.ZipFile(packed(tmp_path, "bdist_wheel")) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    packages = ("calib/", "engines/", "pipeline/", "plugins/", "skimrt/")
    wanted = {name for name in tracked_files() if name.startswith(packages) and name.endswith((".py", ".html"))}
    contracts = {f"plugins/{plugin}/contract.yaml" for plugin in ("regroup", "token_compact")}
    assert held >= wanted | contracts
    assert {Path(name).name for name in held if Path(name).suffix not in (".py", ".html", ".yaml")} == {"py.typed"}
    assert not [name for name in held if Path(name).name.startswith(("make_", "test_", "conftest"))]


def test_the_wheel_runs_in_a_clean_environment(tmp_path: Path, tiny_tokenizer: Path) -> None:
    """What the wheel needs is lent by this environment; nothing of this checkout is."""
    artifact, site = classifier(tiny_tokenizer).artifact, tmp_path / "site"
    wheel = packed(tmp_path, "bdist_wheel")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run([*map(str, install)], check=True, capture_output=True)
    lent = [path for path in sys.path if Path(path).name == "site-packages"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *lent])}

    def call(*command: object) -> str:
        given = [*map(str, command)]
        done = subprocess.run(given, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
        return done.stdout

    run = [sys.executable, site / "bin" / "skimrt", "run", artifact, "--text", "w5 w9"]
    assert json.loads(call(*run))["label"] in HEAD_LABELS["classification"]
    assert "skimrt build" in call(sys.executable, site / "bin" / "skimrt", "build", "--help")
    where = "import skimrt, engines, pipeline; print(skimrt.__file__, engines.__file__, pipeline.__file__)"
    assert all(path.startswith(str(site)) for path in call(sys.executable, "-c", where).split())
    face = "from skimrt import Runner, build, load_checkpoint; import sys; print(Runner(sys.argv[1])(['w5'])[0].label)"
    assert call(sys.executable, "-c", face, artifact).strip() in HEAD_LABELS["classification"]
