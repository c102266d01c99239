"""python -m engines.backends.tensorrt_worker: compiles one engine, as `worker` says."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.backends.base import EngineOptions
from engines.backends.isolated import Request
from engines.backends.layers import Layer, by_profile, parse_build_log, parse_inspector
from engines.backends.worker import Say, answering
from engines.errors import BuildError, InputError
from engines.stages import static_shape
from plugins.library import PluginError, load_into, require_plugin_layers


def main() -> int:
    """0 when the engine is written; 1 with an answer why not."""

    def work(asked: dict[str, Any], say: Say) -> list[list[dict[str, Any]]]:
        request = Request(**{**asked, "options": EngineOptions(**asked["options"])})
        try:
            layers = compile_engine(importlib.import_module(request.library), request, say)
        except PluginError as error:
            raise BuildError(str(error)) from None
        return [[asdict(layer) for layer in profile] for profile in layers]

    return answering(work)


def compile_engine(trt: ModuleType, request: Request, say: Say) -> list[list[Layer]]:
    """Compiles with TensorRT 10.14 or newer, 11, or TensorRT-RTX, and writes the engine. Returns the profiles' layers.

    Raises InputError for a graph that does not parse, PluginError when the plugin is not what the network got, and
    BuildError when the library gives no engine.
    """
    logger = _logger(trt)
    if request.plugin is not None:
        load_into(trt, Path(request.plugin))
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(request.graph):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        errors = [f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}" for error in found]
        raise InputError.listing(f"{request.graph}: {trt.__name__} {trt.__version__} cannot parse it", errors)
    require_plugin_layers(trt, network, request.compactions if request.plugin is not None else 0)
    config = _config(trt, builder, request, say)
    _add_profiles(builder, network, config, request)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{trt.__name__} {trt.__version__} built no engine")
    Path(request.out).write_bytes(plan)
    if request.timing_cache is not None:
        _replace(Path(request.timing_cache), config.get_timing_cache().serialize())
    layers = _inspected(trt, logger, plan) if request.inspect else parse_build_log(logger.plan)
    return by_profile(layers, len(request.buckets))


def _add_profiles(builder: Any, network: Any, config: Any, request: Request) -> None:
    """A profile for each bucket. Its least, best and greatest shapes are one, so it is as fast as a static engine."""
    for bucket in request.buckets:
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            shape = static_shape(tuple(tensor.shape), *bucket)
            profile.set_shape(tensor.name, shape, shape, shape)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"the library refused the profile {bucket[0]}x{bucket[1]}")


def _inspected(trt: ModuleType, logger: Any, plan: Any) -> list[Layer]:
    """The layers of an engine. None where they cannot be read: the engine is good all the same, and kept."""
    runtime = trt.Runtime(logger)  # has to live as long as its engine
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        print("[WARNING] the engine cannot be loaded here, so its layers are not known", file=sys.stderr)
        return []
    try:
        information = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        return parse_inspector(information)
    except ValueError as error:
        print(f"[WARNING] the engine's layers cannot be read: {error}", file=sys.stderr)
        return []


def _strongly_typed(trt: ModuleType) -> int:
    """The network's flags: its types are the graph's. TensorRT 11 knows no other way and may drop the flag."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _config(trt: ModuleType, builder: Any, request: Request, say: Say) -> Any:
    config, options = builder.create_builder_config(), request.options
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt, say)
    # TF32 products keep 10 bits of what the graph declares as float32, scores included.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.compatibility != "none":
        level = options.compatibility.upper().replace("-", "_")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, value in enumerate(options.compute_capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{value.replace('.', '')}"), index)
    if request.timing_cache is not None:
        _take_timings(config, Path(request.timing_cache))
    return config


def _take_timings(config: Any, kept: Path) -> None:
    """Starts from the timings that were kept. Those of another GPU or library are dropped: they only save time."""
    cache = config.create_timing_cache(kept.read_bytes() if kept.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        print(f"[WARNING] {kept}: damaged, or of another GPU or library; starting without it", file=sys.stderr)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _logger(trt: ModuleType) -> Any:
    class Log(trt.ILogger):  # type: ignore[name-defined,misc]
        """Writes everything to standard error and keeps the message that lists the layers."""

        plan = ""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            print(f"[{severity.name}] {message}", file=sys.stderr, flush=True)
            if message.startswith("Layers:"):
                self.plan = message

    return Log()


def _monitor(trt: ModuleType, say: Say) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        """Reports the outermost phase's share and the innermost phase's name; ends a build that nobody waits for."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.root, self.steps, self.done = "", 1, 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.root, self.steps = phase, steps
            say({"phase": phase, "done": self.done})

        def phase_finish(self, phase: str) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            if phase == self.root:
                self.done = (step + 1) / self.steps
            return say({"phase": phase, "done": self.done})

    return Monitor()


def _replace(path: Path, content: Any) -> None:
    # A name of its own: a worker whose builder was killed may still be writing its timings too.
    fresh = path.with_name(f"{path.name}.{os.getpid()}.partial")
    fresh.write_bytes(content)
    os.replace(fresh, path)


if __name__ == "__main__":
    sys.exit(main())
