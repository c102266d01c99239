"""Reads checkpoints of the two papers' own code: original keys and thresholds to ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from pipeline.model import CheckpointConfig, PrunedTransformer
from pipeline.model.config import EncoderConfig, HeadConfig, PrunerConfig
from pipeline.model.families import FAMILIES
from pipeline.model.huggingface import read_huggingface
from pipeline.model.huggingface.weights import rename
from pipeline.model.pruners import LTP_FLOOR
from pipeline.model.weights import find_weights, read_weights


def load_ltp(directory: Path, reference_length: int) -> PrunedTransformer:
    """A checkpoint of kssteven418/LTP, absolute_threshold, trained at padded length `reference_length`.

    Threshold of layer l = final * l / layers + delta_l; exactly 0 does not decide, anything below the floor is
    the floor (prune_modules.py, AbsoluteThresholdTokenPruner).
    """
    raw = json.loads((directory / "config.json").read_text("utf-8"))
    original = read_weights(find_weights(directory))
    layers = raw["num_hidden_layers"]
    encoder = EncoderConfig(
        family="roberta",
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        layers=layers,
        heads=raw["num_attention_heads"],
        intermediate_size=raw["intermediate_size"],
        max_positions=raw["max_position_embeddings"],
        type_vocab_size=raw["type_vocab_size"],
        layer_norm_eps=raw["layer_norm_eps"],
        pad_token_id=raw["pad_token_id"],
    )
    thresholds = []
    for layer in range(layers):
        delta = original[f"ibert.encoder.layer.{layer}.attention.self.pruner.keep_threshold"]
        value = float(torch.tensor(raw["final_token_threshold"] * layer / layers) + delta)
        thresholds.append(max(value, LTP_FLOOR) if value else 0.0)
    pruner = PrunerConfig(method="ltp", thresholds=thresholds, reference_length=reference_length, protect_first=False)
    config = CheckpointConfig(
        encoder=encoder,
        head=HeadConfig(labels=list(raw["id2label"].values())),
        pruner=pruner,
        max_length=reference_length,
    )
    # I-BERT's quantisation buffers (weight_integer, shift, ...) play no part with quant_mode off.
    plain = {n.removeprefix("ibert."): v for n, v in original.items() if n.endswith((".weight", ".bias"))}
    weights = {ours: value for name, value in plain.items() for ours in rename(name, FAMILIES["roberta"])}
    return _filled(config, weights)


def load_transkimmer(directory: Path) -> PrunedTransformer:
    """A BERT checkpoint of ChandlerGuan/Transkimmer: `encoder.skim_predictors.N.predictor.M` per layer."""
    dense, weights = read_huggingface(directory)
    prefix = "bert.encoder.skim_predictors."
    for name, value in read_weights(find_weights(directory)).items():
        if name.startswith(prefix):
            weights["pruner.predictors." + name.removeprefix(prefix).replace(".predictor.", ".")] = value
    width = weights["pruner.predictors.0.1.weight"].shape[0]
    pruner = PrunerConfig(method="transkimmer", predictor_hidden=width)
    return _filled(dense.model_copy(update={"pruner": pruner}), weights)


def _filled(config: CheckpointConfig, weights: dict[str, Tensor]) -> PrunedTransformer:
    model = PrunedTransformer(config)
    model.load_state_dict(weights)
    return model.eval()
