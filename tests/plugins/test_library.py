"""Fault 18: plugin libraries that are missing, foreign, incomplete or old: each is told apart, none is passed over."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugins import library
from plugins.library import PluginError, library_path, load_into, open_library, require_plugin_layers


def compiled(folder: Path, source: str) -> Path:
    """A shared library of C source."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    target = folder / library.FILE_NAME
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-o", str(target), "-"]
    subprocess.run(command, input=source.encode(), check=True)
    return target


def stub(*, abi_version: int, without: str = "") -> str:
    names = [name for name in library.ENTRY_POINTS if name != without]
    return "\n".join(f"int {name}(void) {{ return {abi_version}; }}" for name in names)


def test_the_built_library_opens(plugin_library) -> None:
    assert open_library(plugin_library).skimrt_abi_version() == library.ABI_VERSION


def test_missing(tmp_path) -> None:
    with pytest.raises(PluginError, match=r"expected a file, found: No such file"):
        open_library(tmp_path / "nothing.so")


def test_nowhere(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(library.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(library.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(library, "__file__", str(tmp_path / "plugins" / "library.py"))
    with pytest.raises(PluginError, match=r"found none\. Build it"):
        library_path()


def test_environment_variable_wins(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(library.ENVIRONMENT_VARIABLE, str(tmp_path / "mine.so"))
    assert library_path() == tmp_path / "mine.so"


def test_not_a_library(tmp_path) -> None:
    path = tmp_path / "text.so"
    path.write_text("not a library at all")
    with pytest.raises(PluginError, match="expected an ELF shared library"):
        open_library(path)


def test_other_processor(tmp_path) -> None:
    path = compiled(tmp_path, stub(abi_version=library.ABI_VERSION))
    content = bytearray(path.read_bytes())
    content[18:20] = struct.pack("<H", 21)  # 64-bit PowerPC
    path.write_bytes(content)
    with pytest.raises(PluginError, match="found one for ELF machine 21"):
        open_library(path)


def test_truncated(tmp_path) -> None:
    path = compiled(tmp_path, stub(abi_version=library.ABI_VERSION))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PluginError, match="expected a library that loads, found"):
        open_library(path)


def test_undefined_symbol(tmp_path) -> None:
    source = stub(abi_version=library.ABI_VERSION) + "\nextern int absent; int *use(void) { return &absent; }"
    with pytest.raises(PluginError, match=r"undefined symbol: absent"):
        open_library(compiled(tmp_path, source))


def test_lacking_an_entry_point(tmp_path) -> None:
    with pytest.raises(PluginError, match="without setLoggerFinder"):
        open_library(compiled(tmp_path, stub(abi_version=library.ABI_VERSION, without="setLoggerFinder")))


def test_other_abi_version(tmp_path) -> None:
    with pytest.raises(PluginError, match=f"expected ABI version {library.ABI_VERSION}, found version 7"):
        open_library(compiled(tmp_path, stub(abi_version=7)))


@pytest.mark.parametrize(("name", "version"), [("tensorrt", "8.6.1"), ("tensorrt_rtx", "1.6.1.120")])
def test_old_tensorrt(plugin_library, name: str, version: str) -> None:
    old = types.SimpleNamespace(__name__=name, __version__=version)
    with pytest.raises(PluginError, match=rf"or newer, found {version}\. Upgrade it"):
        load_into(old, plugin_library)  # type: ignore[arg-type]


def test_network_without_plugin_layers_is_refused() -> None:
    kinds = types.SimpleNamespace(PLUGIN_V3="plugin", GATHER="gather")
    layer = types.SimpleNamespace(type="gather")
    network = types.SimpleNamespace(name="stage_0", num_layers=3, get_layer=lambda index: layer)
    trt = types.SimpleNamespace(LayerType=kinds)
    with pytest.raises(PluginError, match=r"'stage_0': expected 2 plugin layers .* found 0 among 3 layers"):
        require_plugin_layers(trt, network, expected=2)  # type: ignore[arg-type]


class SlowRegistry:
    """A plugin registry whose loading lets other threads in."""

    def __init__(self) -> None:
        self.all_creators: list[types.SimpleNamespace] = []
        self.loads = 0

    def load_library(self, path: str) -> object:
        self.loads += 1
        time.sleep(0.05)
        names = {"name": library.NAME, "plugin_namespace": library.NAMESPACE, "plugin_version": library.VERSION}
        self.all_creators.append(types.SimpleNamespace(**names))
        return object()


def test_threads_that_load_engines_register_the_plugin_once(tmp_path, monkeypatch) -> None:
    """Engines are loaded on all cores, and each of them comes with the plugin library."""
    path, registry = compiled(tmp_path, stub(abi_version=library.ABI_VERSION)), SlowRegistry()
    trt = types.SimpleNamespace(__name__="tensorrt", __version__="11.0.0", get_plugin_registry=lambda: registry)
    monkeypatch.setattr(library, "_loaded", {})
    with ThreadPoolExecutor(8) as pool:
        creators = list(pool.map(lambda _: load_into(trt, path), range(8)))  # type: ignore[arg-type]
    assert registry.loads == 1 and all(creator is creators[0] for creator in creators)
