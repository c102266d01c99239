"""Libraries that would call home, imported so that they do not: nothing is sent, and nothing is written at home.

What a program has imported before SkimRT stays as that program has it.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from types import ModuleType

_TELEMETRY = "openvino_telemetry"


@cache
def openvino_package() -> ModuleType:
    """OpenVINO, whose import alone sends an event to an analytics host where openvino_telemetry is installed.

    For the length of the import it seems not to be, which OpenVINO provides for.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    names = [name for name in sys.modules if name.partition(".")[0] == _TELEMETRY]
    before = {name: sys.modules.pop(name) for name in names}
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]
        sys.modules.update(before)


@cache
def onnxruntime_package() -> ModuleType:
    """ONNX Runtime, whose import from 1.29 on writes a device's id at home and reports to its makers.

    It asks the environment when it is imported; its own switch comes too late.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")
