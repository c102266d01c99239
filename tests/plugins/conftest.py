"""What the plugin tests need from outside, or the reason why they are skipped."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from plugins.library import FILE_NAME

from .native import BUILD, HOST_LIBRARY


@pytest.fixture(scope="session")
def host_library() -> Path:
    """The kernels and references built for the host."""
    if not HOST_LIBRARY.is_file():
        pytest.skip(f"{HOST_LIBRARY.name} is not built: cmake -S . -B build -G Ninja && cmake --build build")
    return HOST_LIBRARY


@pytest.fixture(scope="session")
def plugin_library() -> Path:
    """The plugin library as it was built here."""
    path = BUILD / "lib" / FILE_NAME
    if not path.is_file():
        pytest.skip(f"{path.name} is not built: it needs nvcc (cmake -S . -B build -G Ninja && cmake --build build)")
    return path


def require_package(module: str, package: str) -> None:
    """Skips, and says what to install, unless `module` can be imported. Does not import it."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install {package}")


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    """TensorRT-RTX, which builds engines without a GPU."""
    require_package("tensorrt_rtx", "tensorrt-rtx-cu13")
    return importlib.import_module("tensorrt_rtx")


class Log:
    """The messages of a TensorRT logger, newest last."""

    def __init__(self, trt: ModuleType) -> None:
        self.messages: list[str] = []
        log = self

        class Logger(trt.ILogger):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity, message: str) -> None:
                log.messages.append(message)

        self.logger = Logger()


@pytest.fixture
def log():
    """Makes the log of a TensorRT module."""
    return Log
