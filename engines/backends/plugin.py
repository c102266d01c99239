"""The plugin library of this machine: the digest that engines are bound to, and its kernel in PyTorch.

It is looked for when it is asked for: a deployment on a CPU has none.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from engines.errors import TargetError
from engines.files import sha256


def plugin_file() -> Path:
    """Where the library is. Raises TargetError without one."""
    from plugins.library import PluginError, library_path

    try:
        return library_path()
    except PluginError as error:
        raise TargetError(str(error)) from None


def plugin_digest() -> str:
    """SHA-256 of the library. Raises TargetError without one."""
    path = plugin_file()
    if not path.is_file():
        raise TargetError(f"plugin library {path}: expected a file, found none; build it or unset the variable")
    return _digest_of(path)


def companion_digest() -> str | None:
    """SHA-256 of the library that lies beside the plugin's and is loaded with it; None without one."""
    from plugins.library import RTX_ALIAS_NAME

    path = plugin_file().with_name(RTX_ALIAS_NAME)
    return _digest_of(path) if path.is_file() else None


def use_kernel() -> None:
    """Makes the library's kernel what the operator is in PyTorch on CUDA. Raises TargetError without the library."""
    from plugins.library import PluginError
    from plugins.token_compact import operator

    try:
        operator.use_kernel()
    except PluginError as error:
        raise TargetError(str(error)) from None


def _digest_of(path: Path) -> str:
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _digest(path: Path, modified: int, size: int) -> str:
    return sha256(path)
