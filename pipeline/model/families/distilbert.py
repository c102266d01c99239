"""DistilBERT: BERT without segments, under names of its own; its head is dense, ReLU, linear."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import Family, Problems, Raw
from pipeline.model.families.bert import EMBEDDINGS

_LAYER = r"transformer\.layer\.(\d+)\."


def _head(raw: Raw, problems: Problems) -> dict[str, Any]:
    return {"activation": "relu"}


FAMILY = Family(
    name="distilbert",
    prefixes=("distilbert.",),
    renames=(
        *EMBEDDINGS,
        (_LAYER + r"attention\.q_lin\.(\w+)", r"attention.\1.query.\2"),
        (_LAYER + r"attention\.k_lin\.(\w+)", r"attention.\1.key.\2"),
        (_LAYER + r"attention\.v_lin\.(\w+)", r"attention.\1.value.\2"),
        (_LAYER + r"attention\.out_lin\.(\w+)", r"attention.\1.output.\2"),
        (_LAYER + r"sa_layer_norm\.(\w+)", r"attention.\1.norm.\2"),
        (_LAYER + r"ffn\.lin1\.(\w+)", r"feed_forward.\1.up.\2"),
        (_LAYER + r"ffn\.lin2\.(\w+)", r"feed_forward.\1.down.\2"),
        (_LAYER + r"output_layer_norm\.(\w+)", r"feed_forward.\1.norm.\2"),
    ),
    sequence_head=(
        (r"pre_classifier\.(\w+)", r"head.pooler.\1"),
        (r"classifier\.(\w+)", r"head.classifier.\1"),
    ),
    keys={
        "hidden_size": ("dim", "hidden_size"),
        "layers": ("n_layers", "num_hidden_layers"),
        "heads": ("n_heads", "num_attention_heads"),
        "intermediate_size": ("hidden_dim", "intermediate_size"),
        "activation": ("activation",),
    },
    defaults={"type_vocab_size": 0},
    head=_head,
    tied=("vocab_projector.weight",),
)
