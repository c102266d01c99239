"""Finds the plugin library and registers it with TensorRT. Each possible failure has its own message."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import struct
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

NAME, NAMESPACE, VERSION = "TokenCompact", "skimrt", "1"

ENVIRONMENT_VARIABLE = "SKIMRT_PLUGIN_LIBRARY"
FILE_NAME = "libskimrt_plugins.so"
AUTOLOAD_NAME = "libskimrt_autoload.so"  # for Triton, which only opens a library
RTX_ALIAS_NAME = "libtensorrt_rtx.so"  # for TensorRT-RTX's parser
ABI_VERSION = 2
ENTRY_POINTS = (
    "getCreators",
    "setLoggerFinder",
    "skimrt_abi_version",
    "skimrt_regroup",
    "skimrt_token_compact",
    "skimrt_error_string",
)

# The oldest release of each flavour that takes the plugin: the headers are of 10.14, and the parser of
# TensorRT-RTX reads plugin nodes from 1.7 on.
OLDEST = {"tensorrt_rtx": (1, 7)}
OLDEST_STANDARD = (10, 14)

_ELF_MACHINES = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64"}


class PluginError(RuntimeError):
    """The plugin cannot be used; says what was expected, what was found and what to do."""


def library_path() -> Path:
    """The library to load: $SKIMRT_PLUGIN_LIBRARY, else where it was installed, else where it was built.

    Raises PluginError when there is none.
    """
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    if given:
        return Path(given)
    root = Path(__file__).resolve().parents[1]
    candidates = [Path(sys.prefix) / "lib" / "skimrt" / FILE_NAME, root / "build" / "lib" / FILE_NAME]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise PluginError(
        f"plugin library: expected {FILE_NAME} at {' or '.join(map(str, candidates))}, found none. "
        f"Build it (cmake -S . -B build && cmake --build build; needs nvcc) or set {ENVIRONMENT_VARIABLE}."
    )


def copy_plugins(folder: Path) -> None:
    """Copies the library that `library_path` names, and those that belong to it, into a folder.

    Raises PluginError when there is none.
    """
    source = library_path()
    folder.mkdir(parents=True, exist_ok=True)
    for name in (source.name, AUTOLOAD_NAME, RTX_ALIAS_NAME):
        if source.with_name(name).is_file():
            shutil.copyfile(source.with_name(name), folder / name)


def open_library(path: Path | None = None) -> ctypes.CDLL:
    """The library with its C functions, checked: for this processor, complete, and of this ABI version.

    Raises PluginError that names the path and what was expected and found.
    """
    path = path or library_path()
    _check_machine(path)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise PluginError(
            f"plugin library {path}: expected a library that loads, found: {error}. Build it again on this machine."
        ) from error
    missing = [name for name in ENTRY_POINTS if not hasattr(library, name)]
    found = "no such version" if missing else f"version {library.skimrt_abi_version()}"
    if missing or library.skimrt_abi_version() != ABI_VERSION:
        lacking = f", without {', '.join(missing)}" if missing else ""
        raise PluginError(
            f"plugin library {path}: expected ABI version {ABI_VERSION}, found {found}{lacking}. "
            "Build it again from the sources of this release."
        )
    return library


def _check_machine(path: Path) -> None:
    """Raises PluginError unless `path` is an ELF library for this processor."""
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        raise PluginError(
            f"plugin library {path}: expected a file, found: {error.strerror}. Build it or set {ENVIRONMENT_VARIABLE}."
        ) from error
    if len(header) < 20 or header[:4] != b"\x7fELF":
        raise PluginError(f"plugin library {path}: expected an ELF shared library, found another kind of file.")
    (machine,) = struct.unpack("<H", header[18:20])
    found = _ELF_MACHINES.get(machine, f"ELF machine {machine}")
    if found != platform.machine():
        raise PluginError(
            f"plugin library {path}: expected one for {platform.machine()}, found one for {found}. "
            "Build it on this machine."
        )


def load_into(trt: ModuleType, path: Path | None = None) -> Any:
    """Registers the plugins with `trt`, one of the modules tensorrt, tensorrt_rtx and tensorrt_lean_bindings.

    Returns the creator of TokenCompact. A second call with the same library changes nothing.
    Raises PluginError when the library cannot be used, when TensorRT is too old for it, or when another
    library has registered a plugin of the same name.
    """
    path = (path or library_path()).resolve()
    oldest = OLDEST.get(trt.__name__, OLDEST_STANDARD)
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < oldest:
        raise PluginError(
            f"plugin library {path}: expected {trt.__name__} {'.'.join(map(str, oldest))} or newer, "
            f"found {trt.__version__}. Upgrade it."
        )
    open_library(path)
    with _registering:  # engines are loaded by several threads, and each of them comes here
        return _register(trt, path)


def _register(trt: ModuleType, path: Path) -> Any:
    registry = trt.get_plugin_registry()
    if _find_creators(registry):
        if _loaded.get(trt.__name__) == path:
            return _find_creators(registry)[0]
        raise PluginError(
            f"plugin library {path}: expected to be the first to register {NAMESPACE}::{NAME} version "
            f"{VERSION} with {trt.__name__}, found it registered from "
            f"{_loaded.get(trt.__name__, 'another library')}. Load only one."
        )
    if trt.__name__ == "tensorrt_rtx":
        _provide_parser_library(path)
    handle = registry.load_library(str(path))
    creators = _find_creators(registry)
    if handle is None or len(creators) != 1:
        raise PluginError(
            f"plugin library {path}: expected {trt.__name__} {trt.__version__} to register "
            f"{NAMESPACE}::{NAME}, found {len(creators)} of that name. Its log says why."
        )
    _loaded[trt.__name__] = path
    return creators[0]


_loaded: dict[str, Path] = {}
_registering = threading.Lock()


def _find_creators(registry: Any) -> list[Any]:
    wanted = (NAME, NAMESPACE, VERSION)
    return [
        creator
        for creator in registry.all_creators
        if (creator.name, creator.plugin_namespace, creator.plugin_version) == wanted
    ]


def _provide_parser_library(path: Path) -> None:
    """Loads the stand-in for libtensorrt_rtx.so.

    Without it, the ONNX parser of the TensorRT-RTX wheel ends the process at the first plugin node;
    rtx_alias/CMakeLists.txt says why.
    """
    alias = path.with_name(RTX_ALIAS_NAME)
    try:
        ctypes.CDLL(str(alias), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise PluginError(
            f"plugin library {path}: expected {alias.name}, which TensorRT-RTX's parser needs, beside it, "
            f"found: {error}. Install both libraries of the build into one folder."
        ) from error


def require_plugin_layers(trt: ModuleType, network: Any, expected: int) -> None:
    """Raises PluginError unless the parsed `network` has `expected` plugin layers.

    If TensorRT does not find the plugin, it silently builds the body of the ONNX function.
    """
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    found = kinds.count(trt.LayerType.PLUGIN_V3)
    if found != expected:
        raise PluginError(
            f"network {network.name!r}: expected {expected} plugin layers for {NAMESPACE}::{NAME}, "
            f"found {found} among {len(kinds)} layers. Load the plugin library before parsing "
            "(plugins.library.load_into), and give every node the attributes "
            f'plugin_namespace="{NAMESPACE}" and plugin_version="{VERSION}".'
        )
