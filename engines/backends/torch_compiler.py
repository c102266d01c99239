"""Compiles a stage's exported program with AOTInductor, for all its buckets, into one engine file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.backends.torch_file import Contents, Model, Stored, TensorOf, write_engine
from engines.buckets import Bucket
from engines.errors import BuildError, InputError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from engines.backends.worker import Say

_SETTINGS: dict[str, Any] = {
    "aot_inductor.package": True,
    "aot_inductor.package_constants_in_so": False,  # the weights lie beside the models, once
    "cpp.dynamic_threads": True,  # not the number that this process happens to have
}
NAMES = "names.json"
"""Entry of a program's file: the names of its inputs and outputs, in order."""
TYPE_NAMES = {
    "torch.float64": "F64",
    "torch.int64": "I64",
    "torch.float32": "F32",
    "torch.int32": "I32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
"""Of PyTorch's types, as safetensors has them."""
_SIZES = ("batch", "length")


def compile_program(program: Path, out: Path, device: str, buckets: Sequence[Bucket], say: Say) -> None:
    """Compiles a program, symbolic in batch and length, and writes the engine.

    On a GPU every bucket is a model of static shapes; on a CPU one model runs all of them, with their bounds.
    Raises InputError for what is no program, BuildError for one that cannot be compiled, OSError.
    """
    import torch

    extra = {NAMES: ""}
    try:
        exported = torch.export.load(program, extra_files=extra)
    except OSError:
        raise
    except Exception as error:  # what is no program fails wherever it happens to
        raise InputError(f"{program}: expected an exported program of PyTorch, found {error}") from None
    try:
        models = models_for(device, buckets)
        contents = _contents(exported, models, device, json.loads(extra[NAMES]))
        package, weights = _compiled(exported, models, contents, device, say)
    except OSError:
        raise
    except Exception as error:  # Dynamo and Inductor raise kinds of their own, and those of the C++ compiler
        raise BuildError(f"AOTInductor cannot compile it: {error}") from error
    write_engine(out, contents, weights, package)


def models_for(device: str, buckets: Sequence[Bucket]) -> list[Model]:
    """The models that run the buckets: one for each on a GPU, one for all on a CPU."""
    if device == "cuda":
        return [
            Model(name=f"b{b.batch}_s{b.length}", batch=(b.batch, b.batch), length=(b.length, b.length))
            for b in buckets
        ]
    batches, lengths = ([getattr(bucket, size) for bucket in buckets] for size in _SIZES)
    return [Model(name="all", batch=(min(batches), max(batches)), length=(min(lengths), max(lengths)))]


def _compiled(
    exported: ExportedProgram, models: Sequence[Model], contents: Contents, device: str, say: Say
) -> tuple[bytes, dict[str, Stored]]:
    """The package of the models, and the weights that they share."""
    import torch
    from torch._inductor.package import package_aoti

    module = _on_device(exported, device)
    files: dict[str, Any] = {}
    weights: dict[str, Tensor] = {}
    for number, model in enumerate(models):
        if not say({"phase": f"model {number + 1} of {len(models)}", "done": number / len(models)}):
            raise BuildError("nobody waits for the engine any more")
        example, sizes = _example(contents, model, device)
        with torch.no_grad():
            bounded = torch.export.export(module, example, dynamic_shapes=(sizes,))
        files[model.name] = torch._inductor.aot_compile(bounded.module(), example, options=_SETTINGS)
        weights |= {name: value.detach() for name, value in {**bounded.state_dict, **bounded.constants}.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "package.pt2"
        package_aoti(str(path), files)
        needed = {name for model in models for name in constants_of(path, model.name)}
        return path.read_bytes(), {name: _stored(weights[name]) for name in sorted(needed)}


def constants_of(package: Path, model: str) -> list[str]:
    """The names of the weights that a model of a package asks for. That it loads is seen too."""
    import torch

    return torch._C._aoti.AOTIModelPackageLoader(str(package), model, False, 1, -1).get_constant_fqns()


def _on_device(exported: ExportedProgram, device: str) -> nn.Module:
    """The program as a module on the device; on a CPU it takes and returns floats in float32, whatever is inside."""
    import torch
    from torch.export.passes import move_to_device_pass

    if device != "cpu":
        return move_to_device_pass(exported, device).module()
    inner = exported.module()
    narrow = [value.dtype for value in exported.example_inputs[0]]

    class WideOutside(torch.nn.Module):
        """Hidden states cross the border in float32, so that the host needs no narrow types."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            found = self.inner(*(value.to(dtype) for value, dtype in zip(inputs, narrow, strict=True)))
            return tuple(value.float() if value.is_floating_point() else value for value in found)

    return WideOutside()


def _contents(
    exported: ExportedProgram, models: Sequence[Model], device: str, names: Mapping[str, list[str]]
) -> Contents:
    """What the engine holds, with its tensors as they are outside."""
    signature = exported.graph_signature
    values = {node.name: node.meta["val"] for node in exported.graph.nodes if "val" in node.meta}
    inputs, outputs = ([values[name] for name in found] for found in (signature.user_inputs, signature.user_outputs))
    symbols = {str(size): name for size, name in zip(inputs[0].shape, _SIZES, strict=False)}

    def described(name: str, value: Tensor) -> TensorOf:
        dtype = "F32" if device == "cpu" and value.is_floating_point() else TYPE_NAMES[str(value.dtype)]
        return TensorOf(name=name, dtype=dtype, shape=tuple(symbols.get(str(n)) or int(n) for n in value.shape))

    return Contents(
        models=tuple(models),
        inputs=tuple(map(described, names["inputs"], inputs)),
        outputs=tuple(map(described, names["outputs"], outputs)),
    )


def _example(contents: Contents, model: Model, device: str) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Inputs of a model at its greatest sizes, and of each by axis the sizes that are not fixed, for torch.export."""
    import torch

    types = {name: kind.removeprefix("torch.") for kind, name in TYPE_NAMES.items()}
    greatest = Bucket(batch=model.batch[1], length=model.length[1])
    sizes = {
        name: torch.export.Dim(name, min=least, max=most)
        for name, (least, most) in zip(_SIZES, (model.batch, model.length), strict=True)
        if least < most
    }
    example = tuple(
        torch.zeros(tensor.shape_at(greatest), dtype=getattr(torch, types[tensor.dtype]), device=device)
        for tensor in contents.inputs
    )
    axes = (
        {axis: sizes[size] for axis, size in enumerate(tensor.shape) if size in sizes} for tensor in contents.inputs
    )
    return example, tuple(axes)


def _stored(weight: Tensor) -> Stored:
    import torch

    values = weight.cpu().contiguous()
    bits = values.view(torch.int16).numpy().view(np.uint16) if values.dtype == torch.bfloat16 else values.numpy()
    return Stored(TYPE_NAMES[str(weight.dtype)], bits)
