"""Tiny random models of every family, made by transformers or from formulas: what SkimRT must agree with."""

from __future__ import annotations

from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.model import CheckpointConfig, PrunedTransformer, load_checkpoint
from pipeline.model.config import PrunerConfig
from tests.model.jina import ARCHITECTURES, Jina

LONGEST, WORDS, LAYERS = 40, 60, 3
_COMMON = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": LONGEST,
    "num_labels": 3,
}
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {"type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1, "pad_token_id": 1}),
    "camembert": ("Camembert", {"type_vocab_size": 1, "pad_token_id": 1}),
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48}),
    "electra": ("Electra", {"embedding_size": 12}),
    "electra-as-wide": ("Electra", {"embedding_size": 32}),
    "albert": ("Albert", {"embedding_size": 12}),
    "albert-groups": ("Albert", {"embedding_size": 12, "num_hidden_groups": 2, "hidden_act": "gelu"}),
    "mpnet": ("MPNet", {}),
    "modernbert": (
        "ModernBert",
        {"local_attention": 8, "layer_types": [_GLOBAL, _LOCAL, _GLOBAL], "pad_token_id": 0},
    ),
    "modernbert-biases": (
        "ModernBert",
        {
            **{"local_attention": 6, "layer_types": [_LOCAL, _GLOBAL, _GLOBAL], "pad_token_id": 0, "mlp_bias": True},
            **{"attention_bias": True, "norm_bias": True, "classifier_bias": True, "classifier_activation": "relu"},
        },
    ),
    "deberta-v3": (
        "DebertaV2",
        {**_DEBERTA, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    ),
    "deberta-v2": (
        "DebertaV2",
        {**_DEBERTA, "position_biased_input": True, "type_vocab_size": 2, "max_relative_positions": 10},
    ),
    "deberta-c2p": ("DebertaV2", {**_DEBERTA, "pos_att_type": ["c2p"], "pooler_hidden_act": "tanh"}),
    "nomic": ("NomicBert", {}),
    "gte": ("Gte", {}),
    "gte-without-segments": ("Gte", {"type_vocab_size": 0}),
    "jina": ("Jina", {"code": "v2", "feed_forward_type": "geglu"}),
    "jina-original": ("Jina", {"code": "v2", "feed_forward_type": "original", "num_attention_heads": 2}),
    "jina-code": ("Jina", {"code": "code", "feed_forward_type": "reglu", "hidden_size": 36, "num_attention_heads": 6}),
    "jina-code-original": ("Jina", {"code": "code", "feed_forward_type": "original"}),
}
_LIKE_OTHERS = ("electra-as-wide", "modernbert-biases", "deberta-c2p", "jina-original", "jina-code-original")
MAIN = [name for name in VARIANTS if name not in _LIKE_OTHERS]
"""One of each part; the others differ in little."""


def make_original(variant: str, kind: str = "ForSequenceClassification", seed: int = 0, **changes: Any) -> Any:
    """transformers' model in eval mode, no weight of which is 0 or 1; one from formulas where it has no class."""
    name, own = VARIANTS[variant]
    if name == "Jina" and kind in ARCHITECTURES:
        return Jina(kind, seed, **{**_COMMON, **own, **changes})
    import transformers

    if not hasattr(transformers, name + kind):
        pytest.skip(f"transformers {transformers.__version__} has no {name}{kind}")
    torch.manual_seed(seed)
    model = getattr(transformers, name + kind)(getattr(transformers, f"{name}Config")(**{**_COMMON, **own, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5))
    return model.eval()


@cache
def load_dense(
    variant: str, seed: int = 0, kind: str = "ForSequenceClassification", changes: tuple[tuple[str, Any], ...] = ()
) -> tuple[Any, PrunedTransformer]:
    """transformers' model, and SkimRT's of the directory that it was saved to. Do not change them."""
    labels = {"num_labels": 2} if kind == "ForQuestionAnswering" else {}
    original = make_original(variant, kind, seed, **labels, **dict(changes))
    with TemporaryDirectory() as directory:
        original.save_pretrained(directory)
        return original, load_checkpoint(directory)


def load_pruned(variant: str, method: str, seed: int = 0) -> PrunedTransformer:
    """The dense model with decisions in every layer that can decide, each of which drops about a quarter."""
    dense = load_dense(variant, seed)[1]
    if method == "transkimmer":
        model = _with_pruner(dense, PrunerConfig(method="transkimmer", predictor_hidden=8))
        for layer in range(LAYERS):
            predictor, generator = model.pruner.predictors[str(layer)], torch.Generator().manual_seed(seed)
            for linear in (predictor[1], predictor[4]):
                torch.nn.init.normal_(linear.weight, std=linear.in_features**-0.5, generator=generator)
            with torch.no_grad():
                predictor[4].bias[1] -= _typical_score(model, layer, seed)
        return model
    thresholds = [0.0] * LAYERS
    for layer in (layer for layer in range(LAYERS) if layer not in dense.config.encoder.local_layers):
        thresholds[layer] = 1e-5
        pruner = PrunerConfig(method="ltp", thresholds=thresholds, reference_length=LONGEST)
        thresholds[layer] = _typical_score(_with_pruner(dense, pruner), layer, seed)
    return _with_pruner(dense, PrunerConfig(method="ltp", thresholds=thresholds, reference_length=LONGEST))


def _with_pruner(dense: PrunedTransformer, pruner: PrunerConfig) -> PrunedTransformer:
    model = PrunedTransformer(CheckpointConfig(**dense.config.model_dump(exclude={"pruner"}), pruner=pruner))
    model.load_state_dict({**model.state_dict(), **dense.state_dict()})
    return model.eval()


def _typical_score(model: PrunedTransformer, layer: int, seed: int) -> float:
    """What about a quarter of the alive tokens of random texts score less than, and none nearly."""
    inputs = random_text([LONGEST - 2] * 4, model.config.encoder.type_vocab_size, seed)
    with torch.no_grad():
        score = model(*inputs).score[layer]
    values = score[score.isfinite()].unique()  # sorted; tokens without positions may score the same
    values = values[len(values) // 5 : len(values) // 3]
    widest = int(values.diff().argmax())
    return float(values[widest : widest + 2].mean())


def random_text(lengths: list[int], segments: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids (none of which is a padding), mask and segments [B, longest] of texts of these lengths."""
    generator, longest = torch.Generator().manual_seed(seed), max(lengths)
    mask = (torch.arange(longest)[None, :] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(2, WORDS, mask.shape, generator=generator)
    types = torch.randint(max(1, segments), mask.shape, generator=generator)
    return ids, mask, types


def run_original(model: Any, ids: Tensor, mask: Tensor, types: Tensor, padding: int) -> tuple[Tensor, Any]:
    """The last hidden state [B, S, D], and everything that the model with its head returns."""
    inputs = {"input_ids": ids.where(mask > 0, padding), "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0):
        inputs["token_type_ids"] = types
    with torch.no_grad():
        return model.base_model(**inputs).last_hidden_state, model(**inputs)
