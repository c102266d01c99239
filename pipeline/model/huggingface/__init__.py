"""Reads Hugging Face and sentence-transformers directories as they lie on disk, without transformers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.errors import InputError
from pipeline.model.config import CheckpointConfig
from pipeline.model.families import FAMILIES, family_of
from pipeline.model.huggingface.config import reads_every_token, translate
from pipeline.model.huggingface.embedder import read_embedder
from pipeline.model.huggingface.layout import (
    encoder_directory,
    gives_segments,
    locate_backbone,
    read_json_object,
    refuse_adapters,
)
from pipeline.model.huggingface.weights import our_tensors, tensor_shapes, weights_digest
from pipeline.model.huggingface.weights import rename as names_of

__all__ = [
    "encoder_directory",
    "locate_backbone",
    "read_huggingface",
    "read_huggingface_config",
    "rename",
    "weights_digest",
]

log = logging.getLogger(__name__)
_SEGMENTS = "embeddings.token_type.weight"


def read_huggingface_config(directory: Path, backbone: bool = False) -> CheckpointConfig:
    """Configuration (method dense) of a Hugging Face directory; of a `backbone` with any labels. Raises InputError."""
    home = encoder_directory(directory)
    refuse_adapters(home)
    raw = read_json_object(home / "config.json")
    shapes = _shapes(raw, home, backbone)
    outputs = None if backbone else next(iter(shapes.get("head.classifier.weight", [])), None) or None
    config = translate(raw, home, backbone, outputs, tensors=shapes)
    embedder = None if backbone else read_embedder(directory, config.encoder.hidden_size)
    if embedder is None:
        return config
    longest = min(config.max_length, embedder.max_length or config.max_length)
    return config.model_copy(update={"head": embedder.head, "max_length": longest})


def _shapes(raw: Mapping[str, Any], home: Path, backbone: bool) -> Mapping[str, list[int]]:
    """The shapes of the weights by our names; none where nobody asks, or where reading them will say what is wrong."""
    family = family_of(raw)
    if family is None or (backbone and family.told_by_tensors is None):
        return {}
    try:
        return tensor_shapes(home, family, reads_every_token(raw))
    except InputError:
        return {}


def read_huggingface(directory: Path, backbone: bool = False) -> tuple[CheckpointConfig, dict[str, Tensor]]:
    """Configuration, as `read_huggingface_config` does, and renamed weights in float32. Raises InputError."""
    config = read_huggingface_config(directory, backbone)
    home = encoder_directory(directory)
    family = family_of(read_json_object(home / "config.json"))
    assert family is not None  # else there was no configuration
    weights = our_tensors(home, family, config.head.token_level, backbone)
    if config.head.kind == "embedding":  # a pooler that the encoder brings is no part of it
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
        embedder = read_embedder(directory, config.encoder.hidden_size)
        weights |= {} if embedder is None else embedder.weights()
        if embedder is not None and embedder.prompt is not None:
            log.warning("%s: its texts begin with %r: write it into them", directory, embedder.prompt)
    if _SEGMENTS in weights and not backbone and not gives_segments(home):
        # The first row is added to every token, and no other ever is.
        weights[_SEGMENTS] = weights[_SEGMENTS][:1]
    return config, {name: value.to(torch.float32) for name, value in weights.items()}


def rename(name: str, model_type: str = "bert") -> str | None:
    """Returns our name of a tensor that has one name here; None for one that inference does not need."""
    names = names_of(name, FAMILIES[model_type])
    return names[0] if names else None
