"""Working points: a model that drops tokens, with its decisions moved so that it has another FLOPs ratio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from engines.tokenization import Tokens
from pipeline.model.checkpoint import load_checkpoint, read_config, save_checkpoint, tokenizer_path
from pipeline.model.config import CheckpointConfig, Method, PrunerConfig
from pipeline.model.flops import dense_flops
from pipeline.model.pruners import LTP_FLOOR, LtpPruner, Pruner, ThresholdPruner, TopkPruner, TranskimmerPruner
from pipeline.model.transformer import PrunedTransformer
from pipeline.model.weights import find_weights, read_weights
from pipeline.training.evaluation import ratio_on
from pipeline.training.reach_ratio import reach_ratio

_NEAR, _STEPS = 0.004, 16
"""A ratio is met from this share of it on either side; most halvings of an interval."""


def model_at(checkpoint: Path, ratio: float, samples: Sequence[Tokens]) -> PrunedTransformer:
    """The model of a checkpoint with its decisions moved to a FLOPs ratio on these texts; its weights stay."""
    model = load_checkpoint(checkpoint)
    if isinstance(model.pruner, LtpPruner):
        model.pruner.learn()
    if isinstance(model.pruner, LtpPruner | TranskimmerPruner):
        reach_ratio(model.pruner, ratio, ratio_on(model, samples))
    else:
        bisect(lambda strength: _drop(model.pruner, strength), ratio_on(model, samples), ratio)
    return model


def bisect(move: Callable[[float], None], measure: Callable[[], float], wanted: float) -> None:
    """Moves a strength from 0 to 1, with which what is measured grows, to where that is what is wanted."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        move(middle)
        reached = measure()
        if abs(reached - wanted) <= _NEAR * wanted:
            return
        low, high = (low, middle) if reached > wanted else (middle, high)


def strength_of(pruner: Pruner) -> float:
    """How much a baseline drops, from 0 to 1: its threshold, or the share that it does not keep."""
    if isinstance(pruner, TopkPruner):
        return 1 - min(pruner.rates)
    assert isinstance(pruner, ThresholdPruner)
    return max(pruner.constants)


def _drop(pruner: Pruner, strength: float) -> None:
    """Makes the layers of a baseline that decide drop more or less."""
    if isinstance(pruner, TopkPruner):
        pruner.rates = [1 - strength if rate < 1 else 1.0 for rate in pruner.rates]
    elif isinstance(pruner, ThresholdPruner):
        pruner.constants = [strength if constant else 0.0 for constant in pruner.constants]


def save_at(model: PrunedTransformer, checkpoint: Path, out: Path) -> None:
    """Writes what `model_at` made of a checkpoint as another one."""
    config, tensors, pruner = read_config(checkpoint), read_weights(find_weights(checkpoint)), model.pruner
    update: dict[str, object] = {}
    if isinstance(pruner, LtpPruner):
        assert pruner.thresholds is not None
        values = pruner.thresholds.clamp_min(LTP_FLOOR).tolist()
        update["thresholds"] = [v if pruner.decides(layer) else 0.0 for layer, v in enumerate(values)]
    elif isinstance(pruner, TopkPruner):
        update["keep_rates"] = pruner.rates
    elif isinstance(pruner, ThresholdPruner):
        update["thresholds"] = pruner.constants
    else:
        tensors |= {f"pruner.{name}": value for name, value in pruner.state_dict().items()}
    moved = config.model_copy(update={"pruner": config.pruner.model_copy(update=update)})
    save_checkpoint(moved, tensors, out, tokenizer_path(checkpoint))


def exchange(checkpoint: Path, method: Method, layer: int, out: Path) -> None:
    """Writes a checkpoint with a baseline's rule at one layer in place of its own; weights of predictors go."""
    config = read_config(checkpoint)
    rates, constants = [[none] * config.encoder.layers for none in (1.0, 0.0)]
    rates[layer] = constants[layer] = 0.5
    rule = {"keep_rates": rates} if method == "topk" else {"thresholds": constants}
    pruner = PrunerConfig.model_validate({"method": method, **rule})
    weights = {n: v for n, v in read_weights(find_weights(checkpoint)).items() if not n.startswith("pruner.")}
    save_checkpoint(config.model_copy(update={"pruner": pruner}), weights, out, tokenizer_path(checkpoint))


def padding_gain(config: CheckpointConfig, lengths: Sequence[int], padded: int) -> float:
    """Dense FLOPs of texts that are all padded to a length, over those of the texts as they are."""
    real = torch.tensor(lengths)
    whole = dense_flops(config, real, lambda rows: torch.full_like(rows, padded))
    return float(whole.total.sum() / dense_flops(config, real).total.sum())
