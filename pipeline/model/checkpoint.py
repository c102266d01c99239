"""Checkpoints: checkpoint.json, model.safetensors and tokenizer.json; whole, or adapters over a backbone."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from engines.errors import InputError
from engines.files import sha256
from engines.writing import sync
from pipeline.model.config import CheckpointConfig, parse_checkpoint_config
from pipeline.model.huggingface import (
    encoder_directory,
    locate_backbone,
    read_huggingface,
    read_huggingface_config,
    weights_digest,
)
from pipeline.model.huggingface.embedder import embedder_digest
from pipeline.model.huggingface.layout import described_modules, is_model, refuse_adapters
from pipeline.model.huggingface.tokenizer import TOKENIZER_NAME, tokenizer_file
from pipeline.model.transformer import PrunedTransformer
from pipeline.model.weights import find_weights, plain_tensors, read_weights, unusual_values, write_weights

log = logging.getLogger(__name__)
CONFIG_NAME, WEIGHTS_NAME = "checkpoint.json", "model.safetensors"
_FURTHER_IN = ("*/config.json", "snapshots/*/config.json")
"""Where trainers, sentence-transformers and a download's cache put a model, in a folder that people name instead."""
CHECKPOINT_FILES = (WEIGHTS_NAME, TOKENIZER_NAME, CONFIG_NAME)
"""What a checkpoint is made of, in the order in which it appears."""


def load_checkpoint(path: str | Path) -> PrunedTransformer:
    """The model of a checkpoint or of a Hugging Face directory, in eval mode. Raises InputError."""
    directory = Path(path)
    config = read_config(directory)
    if (directory / CONFIG_NAME).is_file():
        weights = plain_tensors(directory, read_weights(find_weights(directory)))
        if config.backbone is not None:
            weights = _over_backbone(config, weights)
    else:
        weights = read_huggingface(directory)[1]
    for name, problem in unusual_values(weights).items():
        log.warning("%s: weight %s: %s", directory, name, problem)
    with torch.device("meta"):  # sizes that do not fit the weights cost nothing
        _refuse_others(PrunedTransformer(config), weights, directory)
    model = PrunedTransformer(config)
    model.load_state_dict({name: value.to(torch.float32) for name, value in weights.items()})
    return model.eval()


def read_config(path: str | Path) -> CheckpointConfig:
    """What a checkpoint or a Hugging Face directory describes, without its weights. Raises InputError."""
    directory = Path(path)
    if (directory / CONFIG_NAME).is_file():
        return parse_checkpoint_config((directory / CONFIG_NAME).read_bytes(), directory / CONFIG_NAME)
    if is_model(directory):
        return read_huggingface_config(directory)
    refuse_adapters(directory)
    inside = sorted(file.parent for pattern in _FURTHER_IN for file in directory.glob(pattern))
    there = f"; name {inside[-1]}, which has one" if inside else ""
    raise InputError(f"{directory}: expected {CONFIG_NAME} or a Hugging Face config.json, found neither{there}")


def save_checkpoint(config: CheckpointConfig, weights: dict[str, Tensor], path: str | Path, tokenizer: Path) -> None:
    """Writes a checkpoint directory; `weights` is a whole state dict, or adapters, head and pruner over a backbone.

    Other files there stay. Whatever stops it leaves the checkpoint that was there, the new one or none, and never a
    mix. Raises OSError for what cannot be written.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(".partial", ".checkpoint.", directory, ignore_cleanup_errors=True) as folder:
        aside = Path(folder)
        write_weights(aside / WEIGHTS_NAME, weights)
        shutil.copyfile(tokenizer, aside / TOKENIZER_NAME)
        (aside / CONFIG_NAME).write_text(config.model_dump_json(indent=2, exclude_none=True) + "\n", "utf-8")
        for name in CHECKPOINT_FILES:
            sync(aside / name)
        # First to go and last to come: an interruption in between leaves no checkpoint rather than a mix of two.
        (directory / CONFIG_NAME).unlink(missing_ok=True)
        for name in CHECKPOINT_FILES:
            os.replace(aside / name, directory / name)
        sync(directory)


def tokenizer_path(path: str | Path) -> Path:
    """The tokenizer.json of a checkpoint or a Hugging Face directory: its own, or its backbone's. Raises InputError."""
    directory = Path(path)
    if (directory / TOKENIZER_NAME).is_file():
        return directory / TOKENIZER_NAME
    home = directory
    if (directory / CONFIG_NAME).is_file():
        config = read_config(directory)
        home = locate_backbone(config.backbone.name) if config.backbone is not None else directory
    file = tokenizer_file(home)
    if file is not None:
        return file
    raise InputError(f"{directory}: expected a {TOKENIZER_NAME}, found none; save one with tokenizers' Tokenizer.save")


def _over_backbone(config: CheckpointConfig, trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's weights with the checkpoint's on top: adapters merged in, everything else replaced."""
    assert config.backbone is not None
    home = locate_backbone(config.backbone.name)
    digest = weights_digest(encoder_directory(home))
    if digest != config.backbone.sha256:
        raise InputError(
            f"backbone {config.backbone.name!r}: expected weights with SHA-256 {config.backbone.sha256[:12]}…, found "
            f"{digest[:12]}…; install the version that the checkpoint was trained on"
        )
    # The checkpoint brings its own head: a backbone's pooler is not part of every head.
    weights = {name: v for name, v in read_huggingface(home, backbone=True)[1].items() if not name.startswith("head.")}
    for name, value in trained.items():
        if ".lora_A." in name:
            if config.adapter is None:
                raise InputError("the checkpoint holds adapter weights but its checkpoint.json has no 'adapter'")
            target = name.replace(".lora_A.", ".")
            if target not in weights or name.replace("lora_A", "lora_B") not in trained:
                raise InputError(f"adapter {name}: expected a weight {target} to adapt and its lora_B, found neither")
            up, rank = trained[name.replace("lora_A", "lora_B")].float(), config.adapter.rank
            shapes = list(up.shape), list(value.shape)
            if weights[target].dim() != 2 or shapes != ([len(weights[target]), rank], [rank, weights[target].shape[1]]):
                raise InputError(
                    f"adapter {name}: expected lora_B and lora_A of rank {rank} for {list(weights[target].shape)}, "
                    f"found {shapes[0]} and {shapes[1]}"
                )
            weights[target] = weights[target] + config.adapter.alpha / config.adapter.rank * (up @ value.float())
        elif ".lora_B." not in name:
            weights[name] = value
    return weights


def _refuse_others(model: PrunedTransformer, weights: dict[str, Tensor], source: Path) -> None:
    """Raises InputError for weights that are not exactly those of the model."""
    expected = model.state_dict()
    problems = [f"{name}: missing" for name in expected if name not in weights]
    problems += [
        f"{name}: not a weight of a {model.config.pruner.method} model" for name in weights if name not in expected
    ]
    problems += [
        f"{name}: expected shape {list(expected[name].shape)}, found {list(value.shape)}"
        for name, value in weights.items()
        if name in expected and value.shape != expected[name].shape
    ]
    if problems:
        headless = "head.classifier.weight" not in weights
        modules = described_modules(source) if headless else None
        instead = f" but sentence-transformers' {modules}, for which there is no head here" if modules else ""
        remedy = f", which has no head{instead}; pipeline.train --backbone {source} trains one" if headless else ""
        raise InputError.listing(f"{source}{remedy}", problems)


def checkpoint_digest(path: str | Path) -> str:
    """SHA-256 over a checkpoint's configuration and weights; the backbone's digest is part of the configuration.

    Raises InputError for a directory that is no checkpoint or cannot be read.
    """
    directory = Path(path)
    try:
        return _digest(directory)
    except OSError as error:
        raise InputError(
            f"{directory}: expected a model that can be read, found {error.filename}: {error.strerror}"
        ) from None


def _digest(directory: Path) -> str:
    if (directory / CONFIG_NAME).is_file():
        parts = [sha256(directory / CONFIG_NAME), sha256(find_weights(directory))]
    else:
        home = encoder_directory(directory)
        parts = [sha256(home / "config.json"), weights_digest(home), *embedder_digest(directory)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
