"""The target `tensorrt-rtx`: TensorRT for RTX, which compiles ahead of time, without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.backends.base import PLAIN, Built, EngineOptions, Report
from engines.backends.plugin import companion_digest, plugin_digest
from engines.backends.rtx_cache import KeptEngine
from engines.backends.tensorrt import TensorRtBackend
from engines.binding import Binding
from engines.buckets import Bucket

DEFAULT_COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
"""What TensorRT-RTX compiles for when nothing is asked for."""


class TensorRtRtxBackend(TensorRtBackend):
    """TensorRT-RTX 1.7 and newer. An engine is finished by the driver's compiler when it is first loaded."""

    target, provider = "tensorrt-rtx", "tensorrt-rtx"
    needs_device_to_build = False
    plugin_by_default = False
    options = frozenset({"plugin", "compute_capabilities"})
    library = "tensorrt_rtx"
    extra = "rtx"

    def missing_to_build(self) -> str | None:
        return self._missing_package()

    def binding(self, options: EngineOptions) -> Binding:
        """Raises TargetError without the library, or without the plugin library that is asked for."""
        return Binding(
            library="tensorrt_rtx",
            version=self._module().__version__,
            compute_capabilities=_capabilities(options),
            plugin=plugin_digest() if options.plugin else None,
            companion=companion_digest() if options.plugin else None,
        )

    def options_here(self) -> EngineOptions:
        """For the compute capability of this machine's GPU alone, if the library can compile for it."""
        if self.available() is not None:
            return PLAIN
        capability = self._gpu().compute_capability
        known = capability in self.known_capabilities()
        return EngineOptions(compute_capabilities=(capability,)) if known else PLAIN

    def build(
        self,
        stage_graph: Path,
        buckets: Sequence[Bucket],
        out: Path,
        options: EngineOptions = PLAIN,
        report: Report | None = None,
    ) -> Built:
        explicit = replace(options, compute_capabilities=_capabilities(options))
        return super().build(stage_graph, buckets, out, explicit, report)

    def _prepared(self, engine: Any, engine_file: Path) -> Any:
        return KeptEngine(engine, engine_file)

    def known_capabilities(self) -> list[str]:
        """The compute capabilities that the library can compile for."""
        names = [name for name in dir(self._module().ComputeCapability) if name.startswith("SM")]
        return sorted((f"{name[2:-1]}.{name[-1]}" for name in names), key=lambda value: float(value))


def _capabilities(options: EngineOptions) -> tuple[str, ...]:
    return options.compute_capabilities or DEFAULT_COMPUTE_CAPABILITIES
