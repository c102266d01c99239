"""The families of encoders that Hugging Face directories are read of, each a table in a file of its own."""

from pipeline.model.families import (
    albert,
    bert,
    deberta,
    distilbert,
    electra,
    gte,
    jina,
    modernbert,
    mpnet,
    nomic_bert,
)
from pipeline.model.families.base import Family, Raw
from pipeline.model.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA

_ALL = (
    bert.FAMILY,
    ROBERTA,
    XLM_ROBERTA,
    CAMEMBERT,
    distilbert.FAMILY,
    electra.FAMILY,
    albert.FAMILY,
    mpnet.FAMILY,
    modernbert.FAMILY,
    nomic_bert.FAMILY,
    gte.FAMILY,
    deberta.FAMILY,
)
FAMILIES: dict[str, Family] = {kind: family for family in _ALL for kind in family.model_types or (family.name,)}
"""By the `model_type` of config.json."""


def family_of(raw: Raw) -> Family | None:
    """The family of a config.json; None for a model_type that is not known."""
    model_type = raw.get("model_type")
    if model_type == "bert" and raw.get("position_embedding_type") == "alibi":
        return jina.FAMILY  # which goes by BERT's name
    return FAMILIES.get(model_type) if isinstance(model_type, str) else None
