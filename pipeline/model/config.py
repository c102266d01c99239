"""What a checkpoint is made of: encoder, head and pruner, validated as one versioned JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.artifact import Labels
from engines.errors import InputError, validation_problems

SCHEMA_VERSION = 1
Method = Literal["dense", "ltp", "transkimmer", "topk", "threshold"]
Positive = Annotated[int, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderConfig(_Strict):
    """A post-layer-norm encoder of the BERT family with learned positions."""

    family: Literal["bert", "roberta"]
    vocab_size: Positive
    hidden_size: Positive
    layers: Positive
    heads: Positive
    intermediate_size: Positive
    max_positions: Positive
    type_vocab_size: Positive = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> EncoderConfig:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size must be a multiple of heads, found {self.hidden_size} and {self.heads}")
        return self

    @property
    def position_offset(self) -> int:
        """Row of the position table for the first token; RoBERTa's positions start behind its padding index."""
        return self.pad_token_id + 1 if self.family == "roberta" else 0

    @property
    def longest_input(self) -> int:
        """Most tokens that the position table has rows for."""
        return self.max_positions - self.position_offset


class HeadConfig(_Strict):
    """What the model predicts. `labels` are the names by index, all different; regression has exactly one."""

    kind: Literal["classification", "regression", "question_answering", "tagging"] = "classification"
    labels: Labels

    @property
    def token_level(self) -> bool:
        """Whether the head reads every token's state, not only the first one's."""
        return self.kind in ("question_answering", "tagging")


class PrunerConfig(_Strict):
    """The rule that drops tokens.

    thresholds:       one per layer; 0 exactly means "this layer does not decide" (`ltp`, `threshold`).
    reference_length: the padded length that an LTP model was trained at; its scores are divided by it.
    keep_rates:       one per layer, the share of the alive tokens that `topk` keeps; 1 does not decide.
    predictor_hidden: width of Transkimmer's predictor.
    decides_at:       the layers of `transkimmer` that have a predictor; None: every one, as in the paper.
    protect_first:    whether the first token stays alive whatever its score.
    """

    method: Method = "dense"
    thresholds: list[Annotated[Finite, Field(ge=0)]] | None = None
    reference_length: Positive | None = None
    keep_rates: list[Annotated[Finite, Field(gt=0, le=1)]] | None = None
    predictor_hidden: Positive | None = None
    decides_at: list[Annotated[int, Field(ge=0)]] | None = None
    protect_first: bool = True

    @model_validator(mode="after")
    def _method_has_its_fields(self) -> PrunerConfig:
        needed = {
            "dense": (),
            "ltp": ("thresholds", "reference_length"),
            "transkimmer": ("predictor_hidden",),
            "topk": ("keep_rates",),
            "threshold": ("thresholds",),
        }[self.method]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"method {self.method!r} needs {', '.join(missing)}")
        return self


class BackboneReference(_Strict):
    """Weights that are not in the checkpoint: an installed package (or a directory) and the digest of its weights."""

    name: str
    sha256: str


class AdapterConfig(_Strict):
    """Low-rank adapters: weight += alpha / rank * B @ A (Hu et al., 2021, eq. 3)."""

    rank: Positive
    alpha: float = Field(gt=0)


class CheckpointConfig(_Strict):
    """The whole of checkpoint.json."""

    schema_version: int = SCHEMA_VERSION
    encoder: EncoderConfig
    head: HeadConfig
    pruner: PrunerConfig = PrunerConfig()
    max_length: Positive
    backbone: BackboneReference | None = None
    adapter: AdapterConfig | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> CheckpointConfig:
        problems = []
        for name in ("thresholds", "keep_rates"):
            values = getattr(self.pruner, name)
            if values is not None and len(values) != self.encoder.layers:
                problems.append(f"pruner.{name} has {len(values)} values for {self.encoder.layers} layers")
        beyond = [layer for layer in self.pruner.decides_at or [] if layer >= self.encoder.layers]
        if beyond:
            problems.append(f"pruner.decides_at names layers {beyond}, the encoder has {self.encoder.layers}")
        if self.max_length > self.encoder.longest_input:
            problems.append(f"max_length is {self.max_length}, the encoder takes {self.encoder.longest_input}")
        if self.adapter is not None and self.backbone is None:
            problems.append("adapter is given without the backbone that it adapts")
        if self.head.kind == "question_answering" and len(self.head.labels) != 2:
            problems.append(f"a question_answering head has 2 labels (start, end), found {len(self.head.labels)}")
        if self.head.kind == "regression" and len(self.head.labels) != 1:
            problems.append(f"a regression head has 1 label, found {len(self.head.labels)}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def parse_checkpoint_config(text: str | bytes, source: Path) -> CheckpointConfig:
    """Validates checkpoint.json; an InputError lists every wrong field at once."""
    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{source}: expected a JSON object, found {error}") from None
    # Before anything else: a newer file may have fields that are not known here.
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{source}: made by a newer version: schema {version}, this one reads {SCHEMA_VERSION}; upgrade SkimRT"
        )
    try:
        return CheckpointConfig.model_validate_json(text)
    except ValidationError as error:
        raise InputError.listing(str(source), validation_problems(error)) from None
