"""Stands in for Triton's Python backend: the names of `triton_python_backend_utils` that a model uses, and a caller."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Tensor:
    """An array with a name."""

    _name: str
    _values: np.ndarray

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


@dataclass(frozen=True)
class TritonError:
    """The error of a response; the codes are names here."""

    message: str
    code: str

    INTERNAL = "INTERNAL"
    INVALID_ARG = "INVALID_ARG"


@dataclass(frozen=True)
class InferenceResponse:
    """Outputs or an error."""

    output_tensors: Sequence[Tensor] = ()
    error: TritonError | None = None

    def outputs(self) -> dict[str, np.ndarray]:
        return {tensor.name(): tensor.as_numpy() for tensor in self.output_tensors}


def get_input_tensor_by_name(request: Mapping[str, np.ndarray], name: str) -> Tensor | None:
    """An input of a request, which is a mapping of arrays here."""
    return Tensor(name, request[name]) if name in request else None


def load(model: Path, config: dict[str, Any], patch: pytest.MonkeyPatch) -> Any:
    """An instance of the model in a folder of a repository, as Triton makes it: from the file that lies there."""
    utils = ModuleType("triton_python_backend_utils")
    for value in (Tensor, TritonError, InferenceResponse, get_input_tensor_by_name):
        setattr(utils, value.__name__, value)
    patch.setitem(sys.modules, utils.__name__, utils)
    spec = importlib.util.spec_from_file_location("triton_model", model / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    instance = module.TritonPythonModel()
    instance.initialize({"model_config": json.dumps(config), "model_name": model.name, "model_version": "1"})
    return instance


def request(*texts: str | bytes, pairs: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The inputs of a request: bytes [texts, 1]."""
    columns = {"TEXT": texts, **({"TEXT_PAIR": pairs} if pairs else {})}
    return {
        name: np.array([[one if isinstance(one, bytes) else one.encode()] for one in column], np.object_)
        for name, column in columns.items()
    }
