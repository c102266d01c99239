"""What torch.onnx.export makes of a stage, kept for all tests and workers of a session: an export takes 3 s.

A fifth of that it spends on the table of operators, which is the same for every export: `keep_operators`.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter import _registration

from engines.writing import write_whole
from pipeline.graph.stages import HeadStage, Stage


class KeptExports:
    """torch.onnx.export, called once for modules that are equal in structure, settings and values.

    folder: where the graphs are kept. Only stages and heads are: a test's own module is exported every time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.export = folder, torch.onnx.export

    def __call__(self, module: nn.Module, example: tuple[Tensor, ...], **options: Any) -> Any:
        if type(module) not in (Stage, HeadStage):
            return self.export(module, example, **options)
        file = self.folder / f"{digest_of(module, example, options)}.onnx"
        if not file.is_file():
            program = self.export(module, example, **options)
            assert program is not None
            write_whole(file, program.model_proto.SerializeToString())
        return SimpleNamespace(model_proto=onnx.ModelProto.FromString(file.read_bytes()))


def digest_of(module: nn.Module, example: tuple[Tensor, ...], options: dict[str, Any]) -> str:
    """Of all that a graph depends on: the classes, settings and tensors of a module, its inputs and the options."""
    digest = sha256(json.dumps(options, sort_keys=True, default=str).encode())
    digest.update(repr([(value.shape, value.dtype) for value in example]).encode())
    for name, part in module.named_modules():
        settings = {key: value for key, value in vars(part).items() if not key.startswith("_")}
        digest.update(f"{name} {type(part)} {settings}".encode())
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def keep_operators(patch: pytest.MonkeyPatch) -> None:
    """Makes exports share PyTorch's table of operators instead of reading it from its libraries every time."""
    registry = _registration.ONNXRegistry
    patch.setattr(registry, "from_torchlib", staticmethod(cache(registry.from_torchlib)))
