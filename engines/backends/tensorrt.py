"""The target `tensorrt`: standard TensorRT, 10.14 or newer, which compiles on the GPU that it compiles for.

The plugin library is imported at its first use: a deployment on a CPU has none.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from engines.backends.base import PLAIN, Backend, Built, Engine, EngineOptions, Report
from engines.backends.cuda_device import cuda_device, missing_bindings, missing_cuda
from engines.backends.device import Device
from engines.backends.external_weights import Read
from engines.backends.gpu import find_gpu
from engines.backends.isolated import Request, compile_isolated
from engines.backends.plugin import companion_digest, plugin_digest, plugin_file
from engines.backends.stage_graph import count_compactions
from engines.backends.tensorrt_engine import TensorRtEngine
from engines.binding import Binding, Gpu
from engines.buckets import Bucket
from engines.errors import InputError, TargetError
from engines.files import content_of

TIMING_CACHE = "timing.cache"
"""File of kernel timings beside the engines of one machine: what was timed once is not timed again."""


class TensorRtBackend(Backend):
    """TensorRT 10.14 and newer, 11 included. An engine is bound to the library's version and to the GPU."""

    target, provider = "tensorrt", "tensorrt"
    precisions = ("fp32", "fp16", "bf16", "int8")
    isolated = True
    needs_device_to_build = True
    plugin_by_default = True
    machine_bound = True
    has_kit = True
    options = frozenset({"plugin", "optimization_level", "workspace", "compatibility"})
    suffix = ".plan"
    library: ClassVar[Literal["tensorrt", "tensorrt_rtx"]] = "tensorrt"
    extra: ClassVar[str] = "gpu"
    """The extra of skimrt that installs the library."""

    def available(self) -> str | None:
        gpu = find_gpu()
        missing = [self._missing_package()]
        # Without a GPU what CUDA finds would say the same in other words.
        missing += [gpu, missing_bindings()] if isinstance(gpu, str) else [missing_cuda()]
        return "; ".join(reason for reason in missing if reason) or None

    def missing_to_build(self) -> str | None:
        gpu = find_gpu()
        missing = [self._missing_package(), gpu if isinstance(gpu, str) else None]
        return "; ".join(reason for reason in missing if reason) or None

    def binding(self, options: EngineOptions) -> Binding:
        """Raises TargetError without the library, a GPU where it needs one, or the plugin library that is asked for."""
        gpu = self._gpu()
        return Binding(
            library=self.library,
            version=self._module().__version__,
            compute_capabilities=(gpu.compute_capability,),
            compatibility=options.compatibility,
            gpu=gpu.name,
            cuda=gpu.cuda,
            driver=gpu.driver,
            plugin=plugin_digest() if options.plugin else None,
        )

    def mismatch(self, binding: Binding) -> str | None:
        try:
            plugin = plugin_digest() if binding.plugin is not None else None
            companion = companion_digest() if binding.companion is not None else None
        except TargetError:
            plugin = companion = None
        return binding.mismatch(self._module().__version__, self._gpu(), plugin, companion)

    def build(
        self,
        stage_graph: Path,
        buckets: Sequence[Bucket],
        out: Path,
        options: EngineOptions = PLAIN,
        report: Report | None = None,
    ) -> Built:
        request = Request(
            library=self.library,
            graph=str(stage_graph),
            out=str(out),
            buckets=tuple((bucket.batch, bucket.length) for bucket in buckets),
            options=options,
            plugin=str(plugin_file()) if options.plugin else None,
            compactions=count_compactions(stage_graph),
            inspect=self.needs_device_to_build,
            timing_cache=str(out.parent / TIMING_CACHE) if self.needs_device_to_build else None,
        )
        return compile_isolated(request, report)

    def load(
        self, engine_file: Path, threads: int | None, binding: Binding | None = None, read: Read = content_of
    ) -> Engine:
        if binding is None or binding.library != self.library:
            raise InputError(f"{engine_file}: expected an engine bound to {self.library}, found {binding}")
        problem = self.mismatch(binding)
        if problem is not None:
            raise TargetError(f"{engine_file}: {problem}; build the artifact again on this machine")
        trt = self._module()
        if binding.plugin is not None:
            from plugins.library import PluginError, load_into

            try:
                load_into(trt)
            except PluginError as error:
                raise TargetError(str(error)) from None
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        engine = runtime.deserialize_cuda_engine(read(engine_file))
        if engine is None:
            raise InputError(f"{engine_file}: {self.library} cannot deserialise it; its log says why")
        engine = self._prepared(engine, engine_file)
        return TensorRtEngine(cuda_device(), trt, engine, runtime)

    def device(self) -> Device:
        return cuda_device()

    def _prepared(self, engine: Any, engine_file: Path) -> Any:
        """The engine as its contexts are to be made."""
        return engine

    def _missing_package(self) -> str | None:
        if importlib.util.find_spec(self.library) is None:
            return f"the package {self.library} is not installed (pip install 'skimrt[{self.extra}]')"
        return None

    def _module(self) -> ModuleType:
        missing = self._missing_package()
        if missing:
            raise TargetError(f"target {self.target}: {missing}")
        return importlib.import_module(self.library)

    def _gpu(self) -> Gpu:
        gpu = find_gpu()
        if isinstance(gpu, str):
            raise TargetError(f"target {self.target}: {gpu}")
        return gpu
