"""The rules that drop tokens: LTP, Transkimmer and two baselines, behind one interface.

A pruner says where it decides, gives every token a fp32 score, and a token stays alive iff score >= threshold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.config import EncoderConfig, PrunerConfig

LTP_FLOOR = 1e-5
"""LTP's smallest threshold: below it a token received no attention at all."""

_BELOW = 1e-30
"""What a score that equals the threshold is moved by where a tie drops the token."""

Where = Literal["before_attention", "after_attention"]


class Pruner(nn.Module, ABC):
    """Interface of a pruner. `where` is the decision point within a layer."""

    where: Where = "after_attention"

    def __init__(self) -> None:
        super().__init__()
        self.translators: nn.ModuleDict | None = None

    @abstractmethod
    def decides(self, layer: int) -> bool:
        """Whether the layer has a decision at all."""

    @abstractmethod
    def score(self, layer: int, hidden: Tensor, mass: Tensor | None, alive: Tensor) -> Tensor:
        """The fp32 score [B, S] from hidden [B, S, D] (before attention) or the attention mass [B, S] (after)."""

    def threshold(self, layer: int) -> float:
        """The number that the score is compared with, as float32."""
        return 0.0

    def multiply_adds(self, layer: int, hidden_size: int) -> int:
        """Multiply-adds per token that scoring costs beyond the attention."""
        return 0

    def add_translators(self, encoder: EncoderConfig) -> None:
        """Adds a linear map for every layer that decides; at first each gives what it takes."""
        width = encoder.hidden_size
        deciding = [layer for layer in range(encoder.layers) if self.decides(layer)]
        self.translators = nn.ModuleDict()
        for layer in deciding:
            linear = nn.Linear(width, width)
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
            self.translators[str(layer)] = linear

    def translated(self, layer: int, states: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """Last states of tokens that `layer` drops, [..., D], as a mean adds them; unchanged without a translator.

        A state in the middle of an encoder is not yet what its last layers make of it. The linear map that predicts
        that (the translator of the tuned lens, Belrose et al., 2023) also maps a sum of states, each times its own
        weight, so a cut needs one product a text; weight [..., 1]: the sum of these weights.
        """
        if self.translators is None:
            return states
        linear = cast(nn.Linear, self.translators[str(layer)])
        return F.linear(states, linear.weight) + weight * linear.bias


class DensePruner(Pruner):
    """Keeps everything."""

    def decides(self, layer: int) -> bool:
        return False

    def score(self, layer: int, hidden: Tensor, mass: Tensor | None, alive: Tensor) -> Tensor:
        return alive.float()


class LtpPruner(Pruner):
    """Learned Token Pruning (Kim et al., 2022): attention received, per head and reference length.

    score = mass / (heads * reference_length); threshold = max(1e-5, learned). A learned threshold of exactly 0
    does not decide. Thresholds live in the checkpoint's JSON; `learn` turns them into a parameter while training.
    """

    thresholds: nn.Parameter | None

    def __init__(self, config: PrunerConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        assert config.thresholds is not None and config.reference_length is not None
        self.normaliser = encoder.heads * config.reference_length
        self.constants = config.thresholds
        self.register_parameter("thresholds", None)

    def learn(self) -> None:
        """Makes the thresholds trainable."""
        self.thresholds = nn.Parameter(torch.tensor(self.constants, dtype=torch.float32))

    def decides(self, layer: int) -> bool:
        return self.constants[layer] != 0

    def score(self, layer: int, hidden: Tensor, mass: Tensor | None, alive: Tensor) -> Tensor:
        assert mass is not None
        return mass / self.normaliser

    def threshold(self, layer: int) -> float:
        value = self.constants[layer] if self.thresholds is None else float(self.thresholds.detach()[layer])
        return as_float32(max(LTP_FLOOR, value))


class TranskimmerPruner(Pruner):
    """Transkimmer (Guan et al., 2022): a small predictor per deciding layer; score = keep - skim logit, threshold 0."""

    where: Where = "before_attention"

    def __init__(self, config: PrunerConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        assert config.predictor_hidden is not None
        self.hidden = config.predictor_hidden
        layers = range(encoder.layers) if config.decides_at is None else config.decides_at
        self.predictors = nn.ModuleDict(
            {
                str(layer): nn.Sequential(
                    nn.LayerNorm(encoder.hidden_size),
                    nn.Linear(encoder.hidden_size, self.hidden),
                    nn.LayerNorm(self.hidden),
                    nn.GELU(),
                    nn.Linear(self.hidden, 2),
                )
                for layer in layers
            }
        )

    def decides(self, layer: int) -> bool:
        return str(layer) in self.predictors

    def score(self, layer: int, hidden: Tensor, mass: Tensor | None, alive: Tensor) -> Tensor:
        # While training, the encoder learns from the task alone: the straight-through gradient is too noisy for it.
        source = hidden.detach() if self.training else hidden
        logits = self.predictors[str(layer)](source.float()).float()  # [B, S, 2]: skim, keep
        return logits[..., 1] - logits[..., 0]

    def multiply_adds(self, layer: int, hidden_size: int) -> int:
        return hidden_size * self.hidden + 2 * self.hidden if self.decides(layer) else 0


class TopkPruner(Pruner):
    """Keeps a fixed share of the alive tokens by attention received (cascade pruning as in SpAtten, Wang et al., 2021).

    A token stays iff it is among the k = ceil(rate * alive) best (ties: the earlier token first). Its score says how
    nearly it was otherwise: the distance to the border, negative for those that go. Where two tokens at the border
    receive the same but for rounding, both are near the threshold.
    """

    def __init__(self, config: PrunerConfig) -> None:
        super().__init__()
        assert config.keep_rates is not None
        self.rates = config.keep_rates

    def decides(self, layer: int) -> bool:
        return self.rates[layer] < 1

    def score(self, layer: int, hidden: Tensor, mass: Tensor | None, alive: Tensor) -> Tensor:
        assert mass is not None
        ranked = torch.where(alive > 0, mass, torch.full_like(mass, -1.0))
        mine, other = ranked[:, :, None], ranked[:, None, :]
        index = torch.arange(mass.shape[1], device=mass.device)
        earlier = index[None, None, :] < index[None, :, None]
        rank = 1 + ((other > mine) | ((other == mine) & earlier)).to(torch.float32).sum(-1)
        # The small term keeps ceil from adding a token when rate * alive is whole but not exactly representable.
        allowed = torch.ceil(alive.to(torch.float32).sum(-1, keepdim=True) * self.rates[layer] - 1e-4)
        kept = rank <= allowed
        # How far it lies from the middle between the last that stays and the first that goes, in shares of the most.
        last = torch.where(kept & (alive > 0), mass, torch.full_like(mass, 1e30)).amin(-1, keepdim=True)
        first = torch.where(kept | (alive == 0), torch.zeros_like(mass), mass).amax(-1, keepdim=True)
        most = mass.amax(-1, keepdim=True).clamp_min(LTP_FLOOR)
        gap = (mass - (last + first) / 2).abs() / most
        return torch.where(kept, gap, -gap - _BELOW)

    def threshold(self, layer: int) -> float:
        return 0.0


class ThresholdPruner(Pruner):
    """Attention received relative to the sample's largest, against one constant per layer."""

    def __init__(self, config: PrunerConfig) -> None:
        super().__init__()
        assert config.thresholds is not None
        self.constants = config.thresholds

    def decides(self, layer: int) -> bool:
        return self.constants[layer] != 0

    def score(self, layer: int, hidden: Tensor, mass: Tensor | None, alive: Tensor) -> Tensor:
        assert mass is not None
        return mass / mass.amax(-1, keepdim=True).clamp_min(LTP_FLOOR)

    def threshold(self, layer: int) -> float:
        return as_float32(self.constants[layer])


def as_float32(value: float) -> float:
    """The nearest float32, as which thresholds are compared in every precision and runtime."""
    return float(np.float32(value))


def make_pruner(config: PrunerConfig, encoder: EncoderConfig) -> Pruner:
    """The pruner of a checkpoint's configuration."""
    pruner = _rule(config, encoder)
    if config.translated:
        pruner.add_translators(encoder)
    return pruner


def _rule(config: PrunerConfig, encoder: EncoderConfig) -> Pruner:
    match config.method:
        case "ltp":
            return LtpPruner(config, encoder)
        case "transkimmer":
            return TranskimmerPruner(config, encoder)
        case "topk":
            return TopkPruner(config)
        case "threshold":
            return ThresholdPruner(config)
        case _:
            return DensePruner()
