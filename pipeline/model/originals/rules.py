"""The papers' pruning rules, from the config.json and the tensors of their own code to PrunerConfig's fields."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.model.families.base import Problems, Raw
from pipeline.model.pruners import LTP_FLOOR

DELTA = r"(?:\w+\.){0,2}encoder\.layer\.(\d+)\.attention\.self\.pruner\.keep_threshold"
"""LTP's learned part of a layer's threshold."""
PREDICTOR = r"(?:\w+\.){0,2}encoder\.skim_predictors\.(\d+)\.predictor\.(\d+\.(?:weight|bias))"
"""A tensor of Transkimmer's predictors: of which layer, and which."""
_MODES = ("absolute_threshold", "threshold", "topk")


def ltp_rule(raw: Raw, tensors: Mapping[str, Tensor], padded_length: int, problems: Problems) -> dict[str, Any]:
    """The fields of PrunerConfig for a checkpoint of kssteven418/LTP, whose first token is not protected.

    padded_length: tokens that its texts were padded to, by which scores are divided. Adds to `problems`.
    """
    layers, mode = raw.get("num_hidden_layers"), raw.get("prune_mode")
    if raw.get("quant_mode"):
        problems.append("quant_mode must be false: I-BERT's integer arithmetic is not read, found true")
    if mode is None:
        return {}
    if mode not in _MODES:
        broken = ", which the original's own code cannot run" if mode == "rising_threshold" else ""
        problems.append(f"prune_mode must be null or one of {', '.join(_MODES)}, found {mode!r}{broken}")
        return {}
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        return {}  # which is a problem of its own
    if mode == "absolute_threshold":
        final = _setting(raw, "final_token_threshold", 0, 1, problems)
        thresholds = _absolute(final, layers, tensors, problems)
        return {"method": "ltp", "thresholds": thresholds, "reference_length": padded_length, "protect_first": False}
    if mode == "threshold":
        value = _setting(raw, "token_threshold", 0, 1, problems)
        return {"method": "threshold", "thresholds": [value] * layers, "protect_first": False}
    rates = topk_rates(_setting(raw, "token_keep_rate", -math.inf, 1, problems), layers)
    relative = [rate / before for rate, before in zip(rates, [1.0, *rates], strict=False)]
    return {"method": "topk", "keep_rates": relative, "protect_first": False}


def transkimmer_rule(raw: Raw, tensors: Mapping[str, Tensor], problems: Problems) -> dict[str, Any]:
    """The fields of PrunerConfig for a checkpoint of ChandlerGuan/Transkimmer. Adds to `problems`."""
    widths: dict[int, int] = {}
    for name, value in tensors.items():
        match = re.fullmatch(PREDICTOR, name)
        if match is not None and match[2] == "1.weight" and value.dim() == 2:
            widths[int(match[1])] = value.shape[0]
    if len(set(widths.values())) != 1:
        found = f"widths {sorted(set(widths.values()))}" if widths else "none"
        problems.append(
            f"the weights must hold skim predictors of one width (encoder.skim_predictors.N.predictor), found {found}"
        )
        return {}
    return {"method": "transkimmer", "predictor_hidden": next(iter(widths.values()))}


def topk_rates(last: float, layers: int) -> list[float]:
    """The share of a text's tokens that LTP's topk keeps at each layer: 1 in the first three or 15%, then linear."""
    whole = max(3, math.ceil(0.15 * layers))
    ramp = [max(0.01, 1 + (last - 1) * step / (layers - whole)) for step in range(1, layers - whole + 1)]
    return [1.0] * min(whole, layers) + ramp


def _absolute(final: float, layers: int, tensors: Mapping[str, Tensor], problems: Problems) -> list[float]:
    """final * layer / layers + delta, as float32; exactly 0 does not decide, anything below the floor is the floor."""
    deltas = {int(m[1]): value for name, value in tensors.items() if (m := re.fullmatch(DELTA, name)) is not None}
    missing = [layer for layer in range(layers) if layer not in deltas]
    if missing:
        problems.append(
            "prune_mode absolute_threshold needs a learned threshold in every layer (attention.self.pruner."
            f"keep_threshold), found none in layers {missing}"
        )
        return []
    wrong = [layer for layer in range(layers) if deltas[layer].numel() != 1 or not deltas[layer].isfinite().all()]
    if wrong:
        problems.append(f"attention.self.pruner.keep_threshold must be one finite number, found others in {wrong}")
        return []
    values = [
        float(torch.tensor(final * layer / layers) + deltas[layer].float().reshape(())) for layer in range(layers)
    ]
    return [max(value, LTP_FLOOR) if value else 0.0 for value in values]


def _setting(raw: Raw, key: str, above: float, most: float, problems: Problems) -> float:
    """A number of the pruner, which lies in config.json itself or in its prune_kwargs."""
    kwargs = raw.get("prune_kwargs")
    value = (kwargs if isinstance(kwargs, Mapping) and key in kwargs else raw).get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
        span = f"above {above:g} and at most {most:g}" if above > -math.inf else f"of at most {most:g}"
        problems.append(f"{key} must be a number {span}, found {value!r}")
        return most
    return float(value)
