"""Builds for tensorrt-rtx of a tiny model on a machine without a GPU, shared by the tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.artifact import Artifact
from engines.backends import tensorrt
from engines.backends.base import EngineOptions
from engines.backends.tensorrt import TensorRtBackend
from engines.backends.tensorrt_rtx import TensorRtRtxBackend
from pipeline import build
from pipeline.builder.compilation import EngineReport
from pipeline.graph import once as stage_graphs
from tests.gates.builds import classifier, run_verb

RTX = ("--target", "tensorrt-rtx", "--buckets", "1x32,2x32", "--samples", 12, "--threads", 1, "--stages", 2)


@pytest.fixture(autouse=True, scope="package")
def no_gpu() -> Iterator[None]:
    """TensorRT-RTX, without which nothing here can be built, on a machine without a GPU."""
    reason = TensorRtRtxBackend().missing_to_build()
    if reason is not None:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt, "find_gpu", lambda: "no NVIDIA driver is installed")
        yield


@pytest.fixture
def model(tiny_tokenizer: Path, fp16: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """The arguments that name a small LTP model and its data, whose graphs are taken instead of exported again."""
    built = classifier(tiny_tokenizer)
    graphs = {"fp32": built.artifact / "stages", "fp16": fp16 / "stages"}

    def export(stage: object, config: object, path: Path, precision: str) -> None:
        shutil.copyfile(graphs[precision] / path.name, path)

    monkeypatch.setattr(stage_graphs, "export_stage", export)
    return ("--checkpoint", built.checkpoint, "--data", built.data, *RTX)


@pytest.fixture(scope="package")
def fp16(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact in fp16; shared, do not change it."""
    built = classifier(tiny_tokenizer)
    out = tmp_path_factory.mktemp("rtx") / "artifact"
    arguments = ("--checkpoint", built.checkpoint, "--data", built.data, *RTX, "--precision", "fp16")
    assert run_verb(build, *arguments, "--out", out) == 0
    return out


@pytest.fixture
def copied(fp16: Path, tmp_path: Path) -> Path:
    """A copy of the fp16 artifact to build over."""
    return Path(shutil.copytree(fp16, tmp_path / "artifact"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the engines that are compiled from now on."""
    names: list[str] = []
    compile_one = TensorRtBackend.build

    def build_one(self, stage_graph, buckets, out, options=EngineOptions(), report=None):  # noqa: B008
        names.append(out.name)
        return compile_one(self, stage_graph, buckets, out, options, report)

    monkeypatch.setattr(TensorRtBackend, "build", build_one)
    return names


def reports(artifact: Path) -> list[EngineReport]:
    """The report of every engine."""
    found = Artifact.open(artifact)
    names = [record.report for record in found.manifest.engines]
    return [EngineReport.model_validate_json(found.file(str(name)).read_bytes()) for name in names]
