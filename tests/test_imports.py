"""What an import pulls in: a deployment needs no torch, the build pipeline no TensorRT or CUDA."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import engines


def imported_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after the statement."""
    code = f"{statement}; import json, sys; print(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_packages_import_neither_tensorrt_nor_cuda_nor_transformers() -> None:
    found = imported_by("import pipeline, engines")
    assert not {name for name in found if name.startswith(("tensorrt", "cuda", "cupy", "pycuda", "transformers"))}


def test_the_reference_and_training_need_neither_transformers_nor_tensorrt() -> None:
    found = imported_by("import pipeline.model, pipeline.train")
    assert "torch" in found
    assert not {name for name in found if name.startswith(("tensorrt", "transformers", "peft"))}


ENGINE_MODULES = sorted(module.name for module in pkgutil.walk_packages(engines.__path__, "engines."))


@pytest.mark.parametrize("module", ["engines", *ENGINE_MODULES])
def test_engines_import_no_torch_and_no_part_of_the_build(module: str) -> None:
    found = imported_by(f"import {module}")
    assert not found & {"torch", "transformers", "peft", "onnx", "pipeline", "calib"}
    assert not {name for name in found if name.startswith(("tensorrt", "cuda"))}


def test_a_deployment_on_a_cpu_needs_engines_alone() -> None:
    hide = "import sys; sys.modules.update(dict.fromkeys(('plugins', 'pipeline', 'calib')))"
    imported_by(f"{hide}; import engines.runner; from engines.backends import choose_backend; choose_backend('cpu')")
