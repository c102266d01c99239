"""What sentence-transformers does behind the encoder: pooling, a dense layer, normalising."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engines.errors import InputError
from engines.files import sha256
from pipeline.model.config import HeadConfig
from pipeline.model.huggingface.layout import encoder_directory, foreign_modules, module_folders, read_json_object
from pipeline.model.huggingface.weights import stored_tensors, weights_digest

_POOLINGS = {"cls_token": "first", "cls": "first", "mean_tokens": "mean", "mean": "mean"}
"""Theirs, in the files of old and of new versions, and ours."""
_ACTIVATIONS = {"Tanh": "tanh", "Identity": "identity", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
_HARMLESS = ("Transformer", "Dropout")


@dataclass(frozen=True)
class Embedder:
    """The head of an embedder's directory; `dense` is where the layer lies, and `max_length` of its own settings.

    prompt: what its texts begin with; nothing here puts it there.
    """

    head: HeadConfig
    dense: Path | None
    max_length: int | None
    prompt: str | None

    def weights(self) -> dict[str, Tensor]:
        """The dense layer's, by our names. Raises InputError."""
        if self.dense is None:
            return {}
        stored = stored_tensors(self.dense)
        wanted = ["linear.weight", "linear.bias"][: 1 + self.head.dense_bias]
        if missing := [name for name in wanted if name not in stored]:
            raise InputError(f"{self.dense}: expected the weights of a dense layer, found no {', '.join(missing)}")
        return {name.replace("linear", "head.pooler"): stored[name] for name in wanted}


def read_embedder(directory: Path, width: int) -> Embedder | None:
    """The head of an embedder; None for a directory of no embedder. Raises InputError with all that it cannot do.

    width: of the encoder's states.
    """
    folders = module_folders(directory)
    if not any(kind == "Pooling" for kind, _ in folders):
        return None
    fields: dict[str, Any] = {"kind": "embedding", "size": width, "dense": False}
    problems: list[str] = []
    dense = None
    for kind, folder in folders:
        if kind == "Pooling":
            fields["pooling"] = _pooling(folder, problems)
        elif kind == "Dense" and dense is None and "normalise" not in fields:
            dense = folder
            fields |= _dense(folder, width, problems)
        elif kind == "Normalize":
            fields["normalise"] = True
        elif kind not in _HARMLESS:
            problems.append(f"modules: expected Pooling, Dense and Normalize in this order, found {kind}")
    for kind in foreign_modules(directory):
        problems.append(f"modules: expected those of sentence_transformers, found {kind}, whose code is not run here")
    prompt, settings = _prompt(directory, problems), _settings(directory, problems)
    if problems:
        raise InputError.listing(f"{directory}: an embedder that cannot be read", problems)
    longest = settings.get("max_seq_length")
    longest = longest if isinstance(longest, int) and longest > 0 else None
    return Embedder(HeadConfig(**fields), dense, longest, prompt)


def embedder_digest(directory: Path) -> list[str]:
    """SHA-256 of all that stands behind the encoder; [] for a directory of no embedder."""
    digests = []
    for kind, folder in module_folders(directory):
        if kind in ("Pooling", "Dense"):
            digests.append(sha256(folder / "config.json"))
        if kind == "Dense":
            digests.append(weights_digest(folder))
        if kind == "Normalize":
            digests.append(hashlib.sha256(kind.encode()).hexdigest())
    return digests


def _pooling(folder: Path, problems: list[str]) -> str:
    modes = read_json_object(folder / "config.json")
    prefix = "pooling_mode_"
    chosen = [name.removeprefix(prefix) for name, value in modes.items() if name.startswith(prefix) and value is True]
    if isinstance(modes.get("pooling_mode"), str):
        chosen = [modes["pooling_mode"]]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        problems.append(f"pooling must be that of the first token or the mean, found {', '.join(chosen) or 'none'}")
        return "mean"
    return _POOLINGS[chosen[0]]


def _prompt(directory: Path, problems: list[str]) -> str | None:
    """What sentence-transformers writes in front of every text; None for nothing."""
    source = directory / "config_sentence_transformers.json"
    settings = read_json_object(source) if source.is_file() else {}
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, Mapping) and isinstance(name, str) else None
    if not prompt:
        return None
    for kind, folder in module_folders(directory):
        if kind == "Pooling" and read_json_object(folder / "config.json").get("include_prompt") is False:
            problems.append(f"include_prompt must be true: the mean leaves out no tokens, such as those of {prompt!r}")
    return str(prompt)


def _dense(folder: Path, width: int, problems: list[str]) -> dict[str, Any]:
    config = read_json_object(folder / "config.json")
    name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        problems.append(f"Dense: activation_function must be one of {', '.join(_ACTIVATIONS)}, found {name}")
    if config.get("in_features") != width or not isinstance(config.get("out_features"), int):
        problems.append(
            f"Dense: expected in_features {width} and out_features, found {config.get('in_features')} and "
            f"{config.get('out_features')}"
        )
    return {
        "dense": True,
        "dense_bias": bool(config.get("bias", True)),
        "activation": _ACTIVATIONS.get(name, "tanh"),
        "size": config.get("out_features"),
    }


def _settings(directory: Path, problems: list[str]) -> Mapping[str, Any]:
    """sentence_bert_config.json beside the encoder."""
    source = encoder_directory(directory) / "sentence_bert_config.json"
    settings = read_json_object(source) if source.is_file() else {}
    if settings.get("do_lower_case"):
        problems.append("do_lower_case must be false in sentence_bert_config.json: the tokenizer says what is lowered")
    return settings
