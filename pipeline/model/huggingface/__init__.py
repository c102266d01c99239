"""Reads Hugging Face and sentence-transformers directories as they lie on disk, without transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pipeline.model.config import CheckpointConfig
from pipeline.model.families import FAMILIES
from pipeline.model.huggingface.config import translate
from pipeline.model.huggingface.layout import encoder_directory, locate_backbone, read_json_object
from pipeline.model.huggingface.weights import our_tensors, tensor_shapes, weights_digest

__all__ = ["encoder_directory", "locate_backbone", "read_huggingface", "read_huggingface_config", "weights_digest"]

_SEGMENTS = "embeddings.token_type.weight"


def read_huggingface_config(directory: Path, backbone: bool = False) -> CheckpointConfig:
    """Configuration (method dense) of a Hugging Face directory; of a `backbone` with any labels. Raises InputError."""
    home = encoder_directory(directory)
    raw = read_json_object(home / "config.json")
    config = translate(raw, home, backbone)
    if backbone:
        return config
    head = config.head
    shapes = tensor_shapes(home, FAMILIES[raw["model_type"]], head.token_level)
    outputs = shapes.get("head.classifier.weight", [len(head.labels)])[0]
    # Labels that config.json does not name are there: as many as the classifier has rows.
    return config if outputs == len(head.labels) else translate(raw, home, outputs=outputs)


def read_huggingface(directory: Path, backbone: bool = False) -> tuple[CheckpointConfig, dict[str, Tensor]]:
    """Configuration, as `read_huggingface_config` does, and renamed weights in float32. Raises InputError."""
    config = read_huggingface_config(directory, backbone)
    home = encoder_directory(directory)
    model_type = read_json_object(home / "config.json")["model_type"]
    weights = our_tensors(home, FAMILIES[model_type], config.head.token_level)
    if _SEGMENTS in weights and config.encoder.type_vocab_size == 1:
        # The tokenizer gives no segments: the first row is added to every token, and no other ever is.
        weights[_SEGMENTS] = weights[_SEGMENTS][:1]
    return config, {name: value.to(torch.float32) for name, value in weights.items()}
