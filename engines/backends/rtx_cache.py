"""What TensorRT-RTX compiles when an engine first runs, kept so that the next process need not wait."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import finalize

from engines.files import digest_of
from engines.machine import cache_folder
from engines.writing import write_whole


class KeptEngine:
    """An ICudaEngine of TensorRT-RTX whose contexts share one runtime cache.

    The cache is a file in the user's cache directory, because an artifact vouches for all its files. It is read here,
    and written when nothing refers to the engine any more, or the process ends. It only saves time: one of another GPU,
    driver or library is refused by TensorRT-RTX and replaced, and a folder that cannot be written stays as it is.
    """

    def __init__(self, engine: Any, file: Path) -> None:
        self._engine = engine
        self._config = engine.create_runtime_config()
        cache = self._config.create_runtime_cache()
        kept = kept_file(file)
        if kept.is_file():
            with suppress(OSError):
                cache.deserialize(kept.read_bytes())
        self._config.set_runtime_cache(cache)
        finalize(self, _keep, cache, kept)

    def create_execution_context(self, strategy: Any) -> Any:
        """A new context, None when there is too little memory; as ICudaEngine's."""
        self._config.set_execution_context_allocation_strategy(strategy)
        return self._engine.create_execution_context(self._config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def kept_file(engine_file: Path) -> Path:
    """The file of an engine's cache. An engine that is rebuilt under the same name gets another one."""
    state = engine_file.stat()
    key = digest_of({"file": str(engine_file.resolve()), "size": state.st_size, "written": state.st_mtime_ns})
    return cache_folder("runtime") / key[:32]


def _keep(cache: Any, kept: Path) -> None:
    content = bytes(cache.serialize())
    with suppress(OSError):
        if content and not (kept.is_file() and kept.read_bytes() == content):
            write_whole(kept, content)
