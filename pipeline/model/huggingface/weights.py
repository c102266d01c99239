"""The tensors of a Hugging Face directory under our names: one file or many, safetensors or a pickle of tensors."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engines.errors import InputError
from engines.files import sha256
from pipeline.model.families import Family
from pipeline.model.weights import PLAIN, find_weights, is_pointer, read_metadata, read_weights

log = logging.getLogger(__name__)
_SAFE, _SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_WRAPPERS = ("_orig_mod.", "module.", "base_model.model.", "0.auto_model.", "auto_model.", "model.")
"""What torch.compile, data parallelism, peft, sentence-transformers and trainers put in front of names."""
SPARE = (
    r"(?:.*\.)?(?:position_ids|token_type_ids|inv_freq)",
    r"(?:\w+\.){0,2}(?:pooler|cls|lm_head|decoder|head|predictions|sop_classifier|vocab_\w+|lm_predictions"
    r"|mask_predictions|discriminator_predictions|generator_predictions|generator_lm_head)\..*",
)
"""What no inference needs: constants, and the heads of pre-training."""
_ENCODER = r"(?:embeddings|encoder|layers|transformer)\..*"
"""Bare names of what the states are computed with, in any family."""
_WORDS = "embeddings.word.weight"


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's tensors, safetensors before a pickle, in the order of their names."""
    if not (directory / _SAFE).is_file():
        for index in (_SAFE_INDEX, _PICKLE_INDEX):
            if (directory / index).is_file():
                return _shards(directory / index)
        if (directory / _PICKLE).is_file() and not any(directory.glob("*.safetensors")):
            return [directory / _PICKLE]
    return [find_weights(directory)]


def weights_digest(directory: Path) -> str:
    """SHA-256 of the file that holds a model's tensors; of the digests of all of them where there are many."""
    digests = [sha256(file) for file in weight_files(directory)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def tensor_shapes(directory: Path, family: Family, token_level: bool) -> dict[str, list[int]]:
    """The shapes of the tensors that our_tensors would give; those of pickles are read whole."""
    shapes: dict[str, list[int]] = {}
    for file in weight_files(directory):
        if file.suffix == ".bin":
            shapes |= {name: list(value.shape) for name, value in _unpickled(file).items()}
            continue
        try:
            with safe_open(file, "pt") as content:
                shapes |= {name: content.get_slice(name).get_shape() for name in content.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError):
            read_weights(file)  # raises what is wrong
    named = _our_names(shapes, family, token_level, directory)
    return {ours[0]: shapes[name] for name, ours in named.items() if len(ours) == 1}


def our_tensors(directory: Path, family: Family, token_level: bool, backbone: bool = False) -> dict[str, Tensor]:
    """The tensors that inference needs, by our names, as they are stored. Raises InputError.

    backbone: its head is replaced: no matter what lies beside the encoder.
    """
    stored = stored_tensors(directory)
    others = _refuse_further(stored, family, token_level, directory)
    if others and not backbone:
        log.warning("%s: tensors that are not read: %s", directory, _some(others))
    return named_tensors(stored, family, token_level, directory)


def stored_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a directory by the name that it is stored under. Raises InputError."""
    tensors: dict[str, Tensor] = {}
    kept_as: dict[str, str] = {}
    for file in weight_files(directory):
        if file.suffix == ".bin":
            log.warning(
                "%s: reading a pickle, of which nothing but tensors is let in; safetensors is safer: "
                "model.save_pretrained(DIRECTORY) writes it",
                file,
            )
            tensors |= _unpickled(file)
        else:
            tensors |= read_weights(file)
            kept_as |= {ours: theirs for ours, theirs in read_metadata(file).items() if theirs in tensors}
    # Of tensors that were one in memory, some writers keep one name and note the others in the header.
    return tensors | {name: tensors[other] for name, other in kept_as.items() if name not in tensors}


def named_tensors(
    tensors: Mapping[str, Tensor], family: Family, token_level: bool, directory: Path
) -> dict[str, Tensor]:
    """Of stored tensors those that inference needs, by our names; errors name `directory`. Raises InputError."""
    weights: dict[str, Tensor] = {}
    for name, ours in _our_names(tensors, family, token_level, directory).items():
        value = tensors[name]
        if value.dtype not in PLAIN:
            raise InputError(
                f"{directory}: {name}: expected fp32, fp16 or bf16, found {str(value.dtype).removeprefix('torch.')}: "
                "quantised weights are not read; save the model before it was quantised"
            )
        if not value.numel() or not value.dim() or value.shape[0] % len(ours):
            parts = f"{len(ours)} equal parts of rows" if len(ours) > 1 else "rows"
            raise InputError(f"{directory}: {name}: expected {parts}, found the shape {list(value.shape)}")
        weights.update(zip(ours, value.chunk(len(ours)), strict=True))
    return weights


def rename(name: str, family: Family, token_level: bool = False) -> list[str]:
    """Our names of a tensor; none for one that inference does not need (position ids, heads of pre-training).

    More than one where its parts are tensors of ours.
    """
    bare = _bare(name, family)
    # What layer norms are called in models that were once converted from TensorFlow.
    bare = bare.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    for pattern, ours in (*family.renames, *(family.token_head if token_level else family.sequence_head)):
        if re.fullmatch(pattern, bare):
            whole = re.sub(pattern, ours, bare)
            start, *parts = re.split(r"\[(.*)\]", whole)
            return [start + part + parts[1] for part in parts[0].split(",")] if parts else [whole]
    return []


def _refuse_further(names: Iterable[str], family: Family, token_level: bool, source: Path) -> list[str]:
    """Raises InputError for tensors of the encoder that nothing here computes with; gives those elsewhere."""
    bare = {name: _bare(name, family) for name in names if not rename(name, family, token_level)}
    further = [name for name, rest in bare.items() if not any(re.fullmatch(pattern, rest) for pattern in SPARE)]
    inside = [name for name in further if re.fullmatch(_ENCODER, bare[name])]
    if inside:
        raise InputError(
            f"{source}: expected the tensors of a {family.name} encoder, found others that nothing here computes with: "
            f"{_some(inside)}; merge adapters into the model (peft: merge_and_unload), or save it without such parts"
        )
    return further


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _bare(name: str, family: Family) -> str:
    """The name without what stands in front of it."""
    prefixes = (*_WRAPPERS, *family.prefixes)
    while (prefix := next((prefix for prefix in prefixes if name.startswith(prefix)), None)) is not None:
        name = name.removeprefix(prefix)
    return name


def _our_names(names: Iterable[str], family: Family, token_level: bool, source: Path) -> dict[str, list[str]]:
    """Our names of each tensor that has some."""
    sources = {name: ours for name in names if (ours := rename(name, family, token_level))}
    origin: dict[str, str] = {}
    for name, ours in sources.items():
        if ours[0] in origin:
            raise InputError(
                f"{source}: expected one tensor for {ours[0]}, found {origin[ours[0]]} and {name}; keep one model in a "
                "file"
            )
        origin[ours[0]] = name
    if _WORDS not in origin:
        tied = [name for name in names if _bare(name, family) in family.tied]
        sources |= {name: [_WORDS] for name in tied[:1]}
    return sources


def _shards(index: Path) -> list[Path]:
    """The files of an index, each of which must lie beside it."""
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{index}: expected the index of a sharded model with a weight_map, found {type(error).__name__}: {error}"
        ) from None
    outside = sorted(str(name) for name in names if not isinstance(name, str) or Path(name).name != name)
    if outside or not names:
        raise InputError(f"{index}: expected files beside it, found {', '.join(outside) or 'none'}")
    missing = sorted(name for name in names if not (index.parent / name).is_file())
    if missing:
        raise InputError(
            f"{index}: expected {len(names)} files, found {len(names) - len(missing)}: {', '.join(missing)} missing; "
            "copy or download them"
        )
    return [index.parent / name for name in sorted(names)]


def _unpickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, read by an unpickler that makes nothing else."""
    try:
        if is_pointer(file):
            raise InputError(f"{file}: expected a PyTorch file, found a pointer of Git LFS; run: git lfs pull")
        state = torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # the unpickler raises its own kind, and those of every damaged file
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if line.startswith("Weights only load failed"):  # and then what to do with PyTorch
            needed = re.search(r"GLOBAL (\S+)", str(error))
            line = "Weights only load failed" + (f": it needs {needed[1]}" if needed else "")
        raise InputError(
            f"{file}: expected a PyTorch file of nothing but tensors, found {line[:200]}; save the model as "
            "safetensors where you trust it"
        ) from None
    for key in ("state_dict", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file}: expected names and tensors, found a {type(state).__name__}")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
