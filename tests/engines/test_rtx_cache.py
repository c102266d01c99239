"""What TensorRT-RTX compiles for an engine is there for the next process; trouble with it only costs time."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from engines.backends import rtx_cache
from engines.backends.rtx_cache import KeptEngine, kept_file


class FakeCache:
    """An IRuntimeCache: it takes what it has written itself."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(b"compiled"):
            return False  # of another GPU, or damaged: the cache stays as it is
        self.content = content
        return True

    def serialize(self) -> bytes:
        return self.content


class FakeEngine:
    """An ICudaEngine and its IRuntimeConfig; a new context compiles what the cache lacks."""

    name = "stage"

    def __init__(self) -> None:
        self.compiled, self.strategies = 0, list[str]()

    def create_runtime_config(self) -> FakeEngine:
        return self

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategies.append(strategy)

    def create_execution_context(self, config: FakeEngine) -> object:
        assert config is self
        if not self.cache.content:
            self.compiled += 1
            self.cache.content = b"compiled kernels"
        return object()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine's file, in an artifact that nothing is added to."""
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "artifact" / "stage_0.plan"
    path.parent.mkdir()
    path.write_bytes(b"plan")
    return path


def run_once(file: Path) -> FakeEngine:
    """A process that loads an engine, makes two contexts and ends."""
    engine = FakeEngine()
    kept = KeptEngine(engine, file)
    assert kept.create_execution_context("user") is not None and kept.create_execution_context("user") is not None
    assert kept.name == "stage" and engine.strategies == ["user"] * 2
    return engine


def test_the_next_process_compiles_nothing(file: Path) -> None:
    assert [run_once(file).compiled for _ in range(3)] == [1, 0, 0]
    assert kept_file(file).is_file() and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("content", [b"", b"of another GPU"])
def test_a_cache_that_is_refused_is_replaced(file: Path, content: bytes) -> None:
    kept_file(file).parent.mkdir(parents=True)
    kept_file(file).write_bytes(content)
    assert [run_once(file).compiled for _ in range(2)] == [1, 0]


def test_an_engine_that_is_built_anew_has_a_cache_of_its_own(file: Path) -> None:
    run_once(file)
    file.write_bytes(b"another plan")
    assert run_once(file).compiled == 1


def test_a_folder_that_cannot_be_written_is_left_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, content: bytes) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(rtx_cache, "write_whole", refused)
    assert run_once(file).compiled == 1
    assert not kept_file(file).exists()


def test_tensorrt_rtx_has_what_we_call() -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13")
    trt = importlib.import_module("tensorrt_rtx")
    text = Path(rtx_cache.__file__).read_text("utf-8")
    owners = {"engine": trt.ICudaEngine, r"self\._config": trt.IRuntimeConfig, "cache": trt.IRuntimeCache}
    for variable, owner in owners.items():
        used = set(re.findall(rf"(?<![\w.]){variable}\.(\w+)\(", text))
        assert used and used <= set(dir(owner))
