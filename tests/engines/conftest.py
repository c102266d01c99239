"""Toy artifacts, one per kind of model and session; TensorRT-RTX and a graph for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import onnx
import pytest

from engines.backends import BACKENDS
from engines.backends.tensorrt_rtx import TensorRtRtxBackend
from tests.engines.toy import Toy
from tests.plugins.models import token_compact_model, token_compact_node

PROVIDERS = [backend.provider for backend in BACKENDS if backend.target == "cpu"]


@pytest.fixture(scope="session")
def toy_artifact(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Callable[[Toy], Path]:
    """Writes a toy model's artifact once; shared, do not change it."""

    @lru_cache
    def make(toy: Toy) -> Path:
        return toy.write(tmp_path_factory.mktemp("toy") / "artifact", tiny_tokenizer)

    return make


@pytest.fixture
def copy(toy_artifact, tmp_path: Path) -> Path:
    """A toy artifact to damage."""
    return Path(shutil.copytree(toy_artifact(Toy()), tmp_path / "artifact"))


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    """Every provider of the target cpu; the tests' requirements have both."""
    return request.param


@pytest.fixture
def rtx() -> TensorRtRtxBackend:
    """The backend of TensorRT-RTX."""
    backend = TensorRtRtxBackend()
    reason = backend.missing_to_build()
    if reason is not None:
        pytest.skip(reason)
    return backend


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A graph of one TokenCompact."""
    onnx.save(token_compact_model(token_compact_node(0.25)), tmp_path / "stage_0.onnx")
    return tmp_path / "stage_0.onnx"
