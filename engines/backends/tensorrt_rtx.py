"""The target `tensorrt-rtx`: TensorRT for RTX, which compiles ahead of time, without a GPU."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import PLAIN, Built, Engine, EngineOptions, Report
from engines.backends.external_weights import Read
from engines.backends.plugin import companion_digest, plugin_digest
from engines.backends.rtx_cache import KeptEngine
from engines.backends.tensorrt import TensorRtBackend
from engines.binding import Binding
from engines.buckets import Bucket
from engines.errors import InputError
from engines.files import content_of
from engines.writing import write_whole

_GZIP = b"\x1f\x8b"
DEFAULT_COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
"""What TensorRT-RTX compiles for when nothing is asked for."""


class TensorRtRtxBackend(TensorRtBackend):
    """TensorRT-RTX 1.7 and newer. An engine is finished by the driver's compiler when it is first loaded.

    Until then its kernels are source text, some 3 MB for every profile, which its file holds compressed.
    """

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
        built = super().build(stage_graph, buckets, out, explicit, report)
        write_whole(out, gzip.compress(out.read_bytes(), compresslevel=1, mtime=0))
        return built

    def load(
        self, engine_file: Path, threads: int | None, binding: Binding | None = None, read: Read = content_of
    ) -> Engine:
        return super().load(engine_file, threads, binding, lambda file: unpacked(file, read(file)))

    def _prepared(self, engine: Any, engine_file: Path) -> Any:
        return KeptEngine(engine, engine_file)

    def known_capabilities(self) -> list[str]:
        """The compute capabilities that the library can compile for."""
        names = [name for name in dir(self._module().ComputeCapability) if name.startswith("SM")]
        return sorted((f"{name[2:-1]}.{name[-1]}" for name in names), key=lambda value: float(value))


def _capabilities(options: EngineOptions) -> tuple[str, ...]:
    return options.compute_capabilities or DEFAULT_COMPUTE_CAPABILITIES


def unpacked(engine_file: Path, content: np.ndarray) -> np.ndarray:
    """What the library takes of the content of an engine's file. Raises InputError for a damaged one."""
    if content[: len(_GZIP)].tobytes() != _GZIP:  # as the library wrote it
        return content
    try:
        return np.frombuffer(gzip.decompress(content.tobytes()), np.uint8)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{engine_file}: expected a whole gzip file, found {error}; build it again") from None
