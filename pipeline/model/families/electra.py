"""ELECTRA: BERT over narrower embeddings, which are projected; its head is dense, GELU, linear."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import Family, Problems, Raw
from pipeline.model.families.bert import BLOCKS, EMBEDDINGS, absolute
from pipeline.model.families.roberta import HEAD


def factorised(raw: Raw, problems: Problems, default: int) -> dict[str, Any]:
    """The width of the embeddings."""
    absolute(raw, problems)
    return {"embedding_size": raw.get("embedding_size", default)}


def _parts(raw: Raw, problems: Problems) -> dict[str, Any]:
    part = factorised(raw, problems, 128)
    # Without a projection where it would change no width.
    return {} if part["embedding_size"] == raw.get("hidden_size", 256) else part


def _head(raw: Raw, problems: Problems) -> dict[str, Any]:
    return {"activation": "gelu"}


FAMILY = Family(
    name="electra",
    prefixes=("electra.",),
    renames=(*EMBEDDINGS, (r"embeddings_project\.(\w+)", r"embeddings.project.\1"), *BLOCKS),
    sequence_head=HEAD,
    parts=_parts,
    head=_head,
    tied=("generator_lm_head.weight",),
)
