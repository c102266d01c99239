"""Reading and writing weight files: safetensors only, with errors that name the file, and never a pickle."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.errors import InputError
from engines.writing import share_as_new

PLAIN = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""The types of weights that are read."""
_POINTER = b"version https://git-lfs"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; InputError for anything that is not one."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, MemoryError, RuntimeError) as error:
        raise _not_safetensors(path, error) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; InputError for anything that is not one."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise _not_safetensors(path, error) from None


def _not_safetensors(path: Path, error: Exception) -> InputError:
    try:  # where the file may not be read, the library says that it does not exist
        size, pointer = path.stat().st_size, is_pointer(path)
    except OSError as refused:
        return InputError(f"{path}: cannot be read: {refused.strerror}; get permission, or name another model")
    if pointer:
        return InputError(f"{path}: expected a safetensors file, found a pointer of Git LFS; run: git lfs pull")
    return InputError(
        f"{path}: expected a safetensors file, found {size} bytes that are not one ({error}); copy or download it again"
    )


def is_pointer(path: Path) -> bool:
    """Whether a file is what a repository holds in place of a large one. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def write_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes tensors as safetensors, with `metadata` in its header. Raises OSError, as on a full disk."""
    try:
        save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, path, metadata)
    except SafetensorError as error:
        # The library has no other type for what the system refuses: its number is in the text only.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from None
    share_as_new(path)


def find_weights(directory: Path) -> Path:
    """The one safetensors file of a directory; a directory with only pickles is refused with the way to convert it."""
    preferred = directory / "model.safetensors"
    files = [preferred] if preferred.is_file() else sorted(filter(Path.is_file, directory.glob("*.safetensors")))
    if len(files) == 1:
        return files[0]
    if files:
        sharded = all(re.search(r"-\d+-of-\d+$", file.stem) for file in files)
        expected = "model.safetensors.index.json beside its shards" if sharded else "one safetensors file"
        raise InputError(f"{directory}: expected {expected}, found {', '.join(file.name for file in files)}")
    pickles = [file.name for pattern in _PICKLES for file in sorted(directory.glob(pattern))]
    if pickles:
        raise InputError(
            f"{directory}: found {', '.join(pickles)}: pickles can run code and are never read here. Convert them "
            "where you trust them: state = torch.load(FILE, weights_only=True); safetensors.torch.save_file(state, "
            "'model.safetensors')"
        )
    raise InputError(f"{directory}: expected model.safetensors, found no weight file")


def plain_tensors(source: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what torch.compile and data parallelism put in front of their names.

    Raises InputError for a type that is not for computing, such as that of quantised weights.
    """
    plain = {}
    for name, value in tensors.items():
        if value.dtype not in PLAIN:
            raise InputError(
                f"{source}: {name}: expected fp32, fp16 or bf16, found {str(value.dtype).removeprefix('torch.')}: "
                "quantised weights are not read; save the model before it was quantised"
            )
        plain[re.sub(r"^((_orig_mod|module)\.)+", "", name)] = value
    return plain


def unusual_values(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Tensors that hold NaN or infinity, or do not fit fp16, with what is wrong about each."""
    limit = torch.finfo(torch.float16).max
    problems = {}
    for name, value in tensors.items():
        if not value.is_floating_point() or value.numel() == 0:
            continue
        if not torch.isfinite(value).all():
            problems[name] = "NaN or infinity"
        elif float(value.abs().max()) > limit:
            problems[name] = f"largest magnitude {float(value.abs().max()):.3g} exceeds fp16"
    return problems
