"""The key of an engine changes with everything that the engine depends on, and with nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from engines.backends import BACKENDS
from engines.backends.base import EngineOptions
from engines.binding import Binding
from engines.buckets import Bucket
from pipeline.builder import engine_key as module
from pipeline.builder.engine_key import engine_key
from pipeline.builder.target import BuildTarget

TENSORRT, RTX = (b for b in BACKENDS if b.target in ("tensorrt", "tensorrt-rtx"))
BUCKET, GRAPH = Bucket(batch=8, length=128), "a" * 64
BINDING = Binding(
    library="tensorrt",
    version="11.4.0.106",
    compute_capabilities=("9.0",),
    gpu="NVIDIA H100",
    cuda="13.0",
    driver="580.65.06",
    plugin="b" * 64,
)
TARGET = BuildTarget(TENSORRT, EngineOptions(), "fp16", BINDING, None)
OPTIONS = {
    "plugin": True,
    "compute_capabilities": ("8.9",),
    "optimization_level": 3,
    "workspace": 64,
    "compatibility": "ampere-plus",
}
BINDINGS = {
    "library": "tensorrt_rtx",
    "version": "11.4.0.107",
    "compute_capabilities": ("8.9",),
    "compatibility": "ampere-plus",
    "gpu": "NVIDIA H200",
    "cuda": "13.1",
    "driver": "580.65.07",
    "plugin": "c" * 64,
    "companion": "d" * 64,
    "cpu": "x86_64 avx2",
    "compiler": "g++ 12.2.0",
}


def key(graph: str = GRAPH, buckets: tuple[Bucket, ...] = (BUCKET,), target: BuildTarget = TARGET, **options) -> str:
    return engine_key(graph, buckets, replace(target, options=EngineOptions(**options)))


def test_the_same_gives_the_same() -> None:
    assert key() == key() and len(key()) == 64
    assert key(target=replace(TARGET, cannot_run="no GPU")) == key(), "where it runs is not what it is"


def test_graph_and_shape() -> None:
    shapes = [Bucket(batch=8, length=64), Bucket(batch=4, length=128)]
    found = {key(), key(graph="d" * 64), *(key(buckets=(bucket,)) for bucket in shapes)}
    assert len(found) == 4
    assert key(buckets=(BUCKET, *shapes)) not in found
    assert key(buckets=(BUCKET, *shapes)) == key(buckets=(*shapes, BUCKET)), "their order is ours"


def test_target_and_precision() -> None:
    found = {key(), key(target=replace(TARGET, backend=RTX)), key(target=replace(TARGET, precision="int8"))}
    assert len(found | {key(target=replace(TARGET, binding=None))}) == 4


def test_the_way_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(type(TENSORRT), "provider", "torch-tensorrt")
    assert key() != before


@pytest.mark.parametrize("name", [field.name for field in fields(EngineOptions)])
def test_every_option(name: str) -> None:
    assert key(**{name: OPTIONS[name]}) != key()


@pytest.mark.parametrize("name", list(Binding.model_fields))
def test_every_part_of_the_binding(name: str) -> None:
    """Library, GPU, CUDA, driver, compatibility level and the digest of the plugin library."""
    changed = BINDING.model_copy(update={name: BINDINGS[name]})
    assert key(target=replace(TARGET, binding=changed)) != key()


@pytest.mark.parametrize("name", ["__version__", "SCHEMA_VERSION"])
def test_our_own_versions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(module, name, "99")
    assert key() != before


def test_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(module, "tool_versions", lambda: {"onnx": "99"})
    assert key() != before
