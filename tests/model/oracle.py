"""What the papers' own code computes, written anew from its description: numpy, float64, a text at a time.

Nothing here comes from SkimRT. Weights have the names of the original checkpoints, settings those of config.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_erf = np.vectorize(math.erf, otypes=[float])


@dataclass(frozen=True)
class Result:
    """A padded text of L tokens: logits [classes], states [L, D], alive [layers, L] after the decision, score
    [layers, L] with NaN where there is none, and the smallest relative distance of a living token's score from another
    decision."""

    logits: Array
    states: Array
    alive: Array
    score: Array
    margin: float


class Oracle:
    """A checkpoint of LTP's or Transkimmer's own code, or of stock transformers' BERT and RoBERTa."""

    def __init__(self, raw: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        self.raw, self.layers, self.heads = raw, raw["num_hidden_layers"], raw["num_attention_heads"]
        self.tensors = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
        self.prefix = {"ltp": "ibert.", "roberta": "roberta.", "bert": "bert."}[raw["model_type"]]

    @cached_property
    def nudged(self) -> list[Oracle]:
        """The same checkpoint with every weight moved by the rounding of float32, up or down at random, several times:
        one direction may happen to change nothing."""
        sign, step = np.random.default_rng(0), 2.0**-23
        return [
            Oracle(self.raw, {n: x * (1 + step * sign.choice([-1, 1], x.shape)) for n, x in self.tensors.items()})
            for _ in range(4)
        ]

    def ltp(self, ids: Array, mask: Array) -> Result:
        """LTP and its baselines in hard mode; without a prune_mode dense."""
        x, alive, real = self._embed(ids, np.zeros_like(ids)), mask.astype(bool), int(mask.sum())
        masks, scores, margin = [], [], math.inf
        for layer in range(self.layers):
            attention = self._attention(layer, x, np.where(alive, 0.0, -10000.0))
            score, after = np.full(len(ids), np.nan), alive
            if self._decides(layer):
                attention[:, ~alive, :] = 0  # of the rows that were dead before
                score = attention.sum(axis=(0, 1))
                score, after, distance = self._decided(layer, score, real, alive)
                margin = min(margin, distance)
            x, alive = self._layer(layer, x, attention), after
            masks.append(alive)
            scores.append(score)
        return Result(self._head(x[0]), x, np.array(masks), np.array(scores), margin)

    def transkimmer(self, ids: Array, mask: Array, types: Array, renormalised: bool) -> Result:
        """Transkimmer with the likelier of keep and skim: as in `master`, or with the dead keys out of the softmax."""
        x, keep = self._embed(ids, types), np.ones(len(ids), bool)
        final, padding = x.copy(), np.where(mask.astype(bool), 0.0, -10000.0)
        masks, scores, margin = [], [], math.inf
        for layer in range(self.layers):
            skim, stay = self._predictor(layer, x).T
            score = stay - skim
            rows = keep & mask.astype(bool)
            rows[0] = False
            margin = min([margin, *np.abs(score[rows])])
            bit = score > 0
            bit[0] = True
            keep = keep & bit
            if renormalised:
                attention = self._attention(layer, x, padding + np.where(keep, 0.0, -np.inf))
            else:
                attention = self._attention(layer, x, padding) * keep
            x = self._layer(layer, x, attention)
            final[keep] = x[keep]
            masks.append(keep)
            scores.append(score)
        return Result(self._head(final[0]), final, np.array(masks), np.array(scores), margin)

    def theta(self, layer: int) -> float:
        """LTP's threshold before the floor; its sum is one of float32 numbers."""
        base = np.float32(self.raw["final_token_threshold"] * layer / self.layers)
        delta = self.tensors[f"{self.prefix}encoder.layer.{layer}.attention.self.pruner.keep_threshold"]
        return float(base + np.float32(delta))

    def rate(self, layer: int) -> float:
        """The share of all tokens that topk keeps."""
        first = max(3, math.ceil(0.15 * self.layers))
        if layer < first:
            return 1.0
        slope = (self.raw["token_keep_rate"] - 1) / (self.layers - first)
        return max(0.01, 1 + slope * (layer - first + 1))

    def _decides(self, layer: int) -> bool:
        mode = self.raw.get("prune_mode")
        if mode == "absolute_threshold":
            return self.theta(layer) != 0
        return mode == "threshold" or (mode == "topk" and self.rate(layer) != 1)

    def _decided(self, layer: int, mass: Array, real: int, alive: Array) -> tuple[Array, Array, float]:
        """Score, what lives on, and the smallest relative distance from another decision."""
        if self.raw["prune_mode"] == "topk":
            kept = round(real * self.rate(layer))
            order = np.argsort(-mass, kind="stable")
            after = np.zeros(len(mass), bool)
            after[order[:kept]] = True
            edge = mass[order[kept - 1 : kept + 1]]
            distance = 1 - edge[1] / edge[0] if 0 < kept < len(mass) else math.inf
            return mass, after, distance
        if self.raw["prune_mode"] == "threshold":
            score, limit = mass / mass.max(), self.raw["token_threshold"]
        else:
            score, limit = mass / (self.heads * len(mass)), max(1e-5, self.theta(layer))
        distances = np.abs(score[alive] - limit) / limit
        return score, score >= limit, float(distances.min(initial=math.inf))

    def _embed(self, ids: Array, types: Array) -> Array:
        place = np.arange(len(ids))
        if self.prefix != "bert.":
            padding = self.raw["pad_token_id"]
            real = ids != padding
            place = np.cumsum(real) * real + padding
        table = {name: self[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
        x = table["word"][ids] + table["position"][place] + table["token_type"][types]
        return self._norm(x, "embeddings.LayerNorm", self.raw["layer_norm_eps"])

    def _attention(self, layer: int, x: Array, mask: Array) -> Array:
        """Probabilities [heads, L, L] of queries over keys, `mask` [L] added to their logits."""
        query, key = (
            self._split(self._linear(x, f"encoder.layer.{layer}.attention.self.{n}")) for n in ("query", "key")
        )
        logits = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1]) + mask
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return odds / odds.sum(-1, keepdims=True)

    def _layer(self, layer: int, x: Array, attention: Array) -> Array:
        name, eps = f"encoder.layer.{layer}", self.raw["layer_norm_eps"]
        value = self._split(self._linear(x, f"{name}.attention.self.value"))
        context = (attention @ value).swapaxes(0, 1).reshape(x.shape)
        x = self._norm(
            x + self._linear(context, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm", eps
        )
        inner = _gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm", eps)

    def _predictor(self, layer: int, x: Array) -> Array:
        name = f"encoder.skim_predictors.{layer}.predictor"
        x = self._linear(self._norm(x, f"{name}.0", 1e-5), f"{name}.1")
        return self._linear(_gelu(self._norm(x, f"{name}.2", 1e-5)), f"{name}.4")

    def _head(self, first: Array) -> Array:
        if self.prefix == "bert.":
            return self._linear(np.tanh(self._linear(first, "pooler.dense")), "classifier")
        return self._linear(np.tanh(self._linear(first, "classifier.dense")), "classifier.out_proj")

    def _split(self, x: Array) -> Array:
        return x.reshape(len(x), self.heads, -1).swapaxes(0, 1)

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def _norm(self, x: Array, name: str, eps: float) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return centred / scale * self[f"{name}.weight"] + self[f"{name}.bias"]

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name if name.startswith("classifier") else self.prefix + name]


def _gelu(x: Array) -> Array:
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)))
