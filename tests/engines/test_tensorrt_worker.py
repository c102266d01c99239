"""What the worker asks TensorRT for: every option of a build, typed networks, and timings that are kept."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest

from engines.backends import tensorrt_worker
from engines.backends.base import EngineOptions
from engines.backends.isolated import Request
from engines.binding import Compatibility


@pytest.fixture
def trt() -> ModuleType:
    """TensorRT-RTX, whose builder has the interface of the standard one."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13")
    return importlib.import_module("tensorrt_rtx")


def requested(**options: Any) -> Request:
    """A request for an engine with these options."""
    return Request("tensorrt_rtx", "", "", ((1, 16),), EngineOptions(**options), None, 0, False, None)


def configured(trt: ModuleType, **options: Any) -> tuple[Any, Any]:
    """The configuration of a build with these options, and the builder that it belongs to."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    return tensorrt_worker._config(trt, builder, requested(**options), lambda message: True), builder


def test_without_options_everything_is_the_librarys_but_tf32(trt: ModuleType) -> None:
    config, builder = configured(trt)
    default, workspace = builder.create_builder_config(), trt.MemoryPoolType.WORKSPACE
    assert config.builder_optimization_level == default.builder_optimization_level
    assert config.get_memory_pool_limit(workspace) == default.get_memory_pool_limit(workspace)
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.NONE
    assert default.get_flag(trt.BuilderFlag.TF32) and not config.get_flag(trt.BuilderFlag.TF32)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED and config.progress_monitor is not None


def test_every_option_reaches_the_builder(trt: ModuleType) -> None:
    config, _builder = configured(trt, optimization_level=2, workspace=256, compute_capabilities=("8.6", "12.0"))
    assert config.builder_optimization_level == 2
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 256 << 20
    found = [config.get_compute_capability(index) for index in range(config.num_compute_capabilities)]
    assert found == [trt.ComputeCapability.SM86, trt.ComputeCapability.SM120]


class Recording:
    """A configuration that remembers what it was set to: TensorRT-RTX refuses levels of compatibility."""

    def __init__(self, config: Any) -> None:
        vars(self).update(config=config, asked={})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.asked[name] = value


@pytest.mark.parametrize("level", get_args(Compatibility))
def test_the_compatibility_levels_are_the_librarys(trt: ModuleType, level: str) -> None:
    real = trt.Builder(trt.Logger(trt.Logger.ERROR))
    builder = SimpleNamespace(create_builder_config=lambda: Recording(real.create_builder_config()))
    asked = tensorrt_worker._config(trt, builder, requested(compatibility=level), lambda message: True).asked
    expected = None if level == "none" else level.upper().replace("-", "_")
    assert getattr(asked.get("hardware_compatibility_level"), "name", None) == expected


@pytest.mark.parametrize(("flags", "expected"), [({"STRONGLY_TYPED": 1}, 2), ({}, 0)])
def test_networks_are_strongly_typed(flags: dict[str, int], expected: int) -> None:
    """TensorRT 10 must be told; one that has no such flag knows no other way."""
    trt: Any = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(**flags))
    assert tensorrt_worker._strongly_typed(trt) == expected


class Timings:
    """A configuration as far as timings go. One of another GPU is refused; damaged ones give no cache at all."""

    def __init__(self) -> None:
        self.cache: bytes | None = None

    def create_timing_cache(self, content: bytes) -> bytes | None:
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        if cache == b"of another GPU" and not ignore_mismatch:
            return False
        self.cache = cache
        return True


@pytest.mark.parametrize(
    ("content", "used"), [(None, b""), (b"ours", b"ours"), (b"of another GPU", b""), (b"damaged", b"")]
)
def test_timings_that_cannot_be_used_only_cost_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, used: bytes
) -> None:
    kept, config = tmp_path / "timing.cache", Timings()
    if content is not None:
        kept.write_bytes(content)
    tensorrt_worker._take_timings(config, kept)
    assert config.cache == used
    assert ("starting without it" in capsys.readouterr().err) == (content is not None and not used)


def test_timings_are_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "timing.cache").write_bytes(b"old")
    tensorrt_worker._replace(tmp_path / "timing.cache", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


LAYERS = '{"Layers": [{"Name": "a", "LayerType": "kgen"}]}'


@pytest.mark.parametrize(
    ("loads", "information", "names", "warning"),
    [
        (True, LAYERS, ["a"], ""),
        (True, '{"Layers": ["a"]}', [], "layers cannot be read: inspector: found layer names only"),
        (True, "not JSON", [], "layers cannot be read: "),
        (False, LAYERS, [], "cannot be loaded here"),
    ],
)
def test_an_engine_whose_layers_cannot_be_read_is_kept(
    capsys: pytest.CaptureFixture[str], loads: bool, information: str, names: list[str], warning: str
) -> None:
    """The engine was written before; what is known about it is not worth losing it."""
    inspector = SimpleNamespace(get_engine_information=lambda kind: information)
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector) if loads else None
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    trt: Any = SimpleNamespace(Runtime=lambda logger: runtime, LayerInformationFormat=SimpleNamespace(JSON=1))
    assert [layer.name for layer in tensorrt_worker._inspected(trt, None, b"plan")] == names
    told = capsys.readouterr().err
    assert warning in told and bool(told) == bool(warning)
