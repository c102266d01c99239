"""Versions of the libraries that shape an artifact and its figures."""

from __future__ import annotations

import importlib.metadata

_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tokenizers", "numpy")


def tool_versions() -> dict[str, str]:
    """Name to version, of those that are installed."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
