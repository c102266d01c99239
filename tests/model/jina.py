"""Jina's BERT from its formulas, in float64: what SkimRT must agree with, because transformers has no class for it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

ARCHITECTURES = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "Model")
Shapes = dict[str, tuple[int, ...]]


class Jina:
    """A random model in Hugging Face's layout; called, it gives what transformers' class of that head would.

    kind: one of ARCHITECTURES. code: "v2", or "code" for the one that norms queries, keys and the attention again.
    """

    def __init__(self, kind: str, seed: int, code: str, **config: Any) -> None:
        assert kind in ARCHITECTURES
        self.kind, self.code = kind, code
        labels = {str(index): f"LABEL_{index}" for index in range(config.pop("num_labels"))}
        self.raw = {
            **{"model_type": "bert", "position_embedding_type": "alibi", "type_vocab_size": 2, "pad_token_id": 0},
            **{"layer_norm_eps": 1e-12, "hidden_act": "gelu", "id2label": labels},
            **{"architectures": [f"JinaBert{kind}"], **config},
        }
        self.config, generator = SimpleNamespace(**self.raw), torch.Generator().manual_seed(seed)
        self.tensors = {}
        for name, shape in self._shapes().items():
            spread = 0.2 if len(shape) == 1 else shape[-1] ** -0.5
            middle = 1 if name.endswith("weight") and len(shape) == 1 else 0
            self.tensors[name] = middle + spread * torch.randn(shape, generator=generator)

    def save_pretrained(self, directory: str | Path) -> None:
        save_file(self.tensors, Path(directory) / "model.safetensors")
        (Path(directory) / "config.json").write_text(json.dumps(self.raw), "utf-8")

    def __call__(self, **inputs: Tensor) -> SimpleNamespace:
        states = self._states(**inputs)
        read = states
        if self.kind == "ForSequenceClassification":
            read = torch.tanh(self._linear("bert.pooler.dense", states[:, 0]))
        logits = (states if self.kind == "Model" else self._linear(self._head, read)).float()
        ends = {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
        return SimpleNamespace(logits=logits, last_hidden_state=states.float(), **ends)

    base_model = __call__

    @property
    def _head(self) -> str:
        return "qa_outputs" if self.kind == "ForQuestionAnswering" else "classifier"

    def _shapes(self) -> Shapes:
        c = self.config
        width, inner, start = c.hidden_size, c.intermediate_size, "" if self.kind == "Model" else "bert."
        linear: dict[str, tuple[int, int, bool]] = {}  # outputs, inputs, whether there is a bias
        norms = ["embeddings.LayerNorm"]
        for number in range(c.num_hidden_layers):
            layer = f"encoder.layer.{number}."
            names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
            linear |= {layer + name: (width, width, True) for name in names}
            norms.append(layer + "attention.output.LayerNorm")
            up, down, norm = self._feed_forward_names(layer)
            rows = inner if c.feed_forward_type == "original" else 2 * inner
            linear |= {up: (rows, width, "intermediate" in up), down: (width, inner, True)}
            norms.append(norm)
            if self.code == "code":
                norms += [layer + name for name in ("attention.self.layer_norm_q", "attention.self.layer_norm_k")]
                norms.append(layer + "layer_norm_1")
        linear["pooler.dense"] = width, width, True
        shapes: Shapes = {"embeddings.word_embeddings.weight": (c.vocab_size, width)}
        shapes["embeddings.token_type_embeddings.weight"] = c.type_vocab_size, width
        shapes |= {f"{name}.weight": (rows, columns) for name, (rows, columns, _) in linear.items()}
        shapes |= {f"{name}.bias": (rows,) for name, (rows, _, bias) in linear.items() if bias}
        shapes |= {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
        shapes = {start + name: shape for name, shape in shapes.items()}
        if self.kind != "Model":
            shapes |= {f"{self._head}.weight": (len(c.id2label), width), f"{self._head}.bias": (len(c.id2label),)}
        return shapes

    def _feed_forward_names(self, layer: str) -> tuple[str, str, str]:
        """Of what widens, what narrows, and the layer norm behind."""
        original = self.config.feed_forward_type == "original"
        if self.code == "code":
            up = "mlp.up_layer" if original else "mlp.up_gated_layer"
            return layer + up, layer + "mlp.down_layer", layer + "layer_norm_2"
        if original:
            return layer + "intermediate.dense", layer + "output.dense", layer + "output.LayerNorm"
        return layer + "mlp.gated_layers", layer + "mlp.wo", layer + "mlp.layernorm"

    def _tensor(self, name: str) -> Tensor | None:
        value = self.tensors.get(name, self.tensors.get(f"bert.{name}"))
        return None if value is None else value.double()

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias")
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * weight + bias

    def _states(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        words, types = self._tensor("embeddings.word_embeddings.weight"), "embeddings.token_type_embeddings.weight"
        x = self._norm("embeddings.LayerNorm", words[input_ids] + self._tensor(types)[token_type_ids])
        place = torch.arange(input_ids.shape[1])
        distance = (place[:, None] - place).abs().double()
        biases = torch.stack([-slope * distance for slope in slopes(self.config.num_attention_heads)])
        added = biases + torch.where(attention_mask[:, None, None, :] > 0, 0.0, -torch.inf)
        for number in range(self.config.num_hidden_layers):
            layer = f"encoder.layer.{number}."
            attended = self._norm(layer + "attention.output.LayerNorm", x + self._attention(layer, x, added))
            if self.code == "code":
                attended = self._norm(layer + "layer_norm_1", x + attended)
            x = self._feed_forward(layer, attended)
        return x

    def _attention(self, layer: str, x: Tensor, added: Tensor) -> Tensor:
        query, key, value = (self._linear(f"{layer}attention.self.{name}", x) for name in ("query", "key", "value"))
        if self.code == "code":
            query = self._norm(f"{layer}attention.self.layer_norm_q", query)
            key = self._norm(f"{layer}attention.self.layer_norm_k", key)
        width = x.shape[-1] // self.config.num_attention_heads
        contexts = []
        for head, (q, k, v) in enumerate(zip(*(part.split(width, -1) for part in (query, key, value)), strict=True)):
            logits = q @ k.transpose(1, 2) / width**0.5 + added[:, head]
            contexts.append(torch.softmax(logits, -1) @ v)
        return self._linear(layer + "attention.output.dense", torch.cat(contexts, -1))

    def _feed_forward(self, layer: str, x: Tensor) -> Tensor:
        up, down, norm = self._feed_forward_names(layer)
        inner, kind = self._linear(up, x), self.config.feed_forward_type
        if kind == "original":
            inner = F.gelu(inner)
        else:
            first, second = inner.chunk(2, -1)
            gate, other = (second, first) if self.code == "code" else (first, second)
            inner = other * (F.gelu(gate) if kind == "geglu" else gate.clamp_min(0))
        return self._norm(norm, x + self._linear(down, inner))


def slopes(heads: int) -> list[float]:
    """How steep each head's biases are, step by step as ALiBi's authors compute them."""
    power = 1
    while 2 * power <= heads:
        power *= 2
    start = 2 ** (-8 / power)
    found = [start ** (head + 1) for head in range(power)]
    return found if power == heads else found + slopes(2 * power)[::2][: heads - power]
