"""What a checkpoint is made of: encoder, head and pruner, validated as one versioned JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from engines.errors import InputError, validation_problems
from engines.head import Head
from engines.limits import Layers, Length, Vocabulary, Width
from pipeline.model.parts import Disentangled, LocalAttention, NonNegative, Positive, RelativeBias, Rope, Strict

SCHEMA_VERSION = 1
Method = Literal["dense", "ltp", "transkimmer", "topk", "threshold"]
Family = Literal[
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "distilbert",
    "electra",
    "albert",
    "mpnet",
    "modernbert",
    "nomic_bert",
    "gte",
    "deberta-v2",
    "jina-bert-v2",
]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "identity"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class EncoderConfig(Strict):
    """An encoder, part by part. The defaults are BERT's.

    family:            whose names its weights have in a Hugging Face directory; parts say everything else.
    max_positions:     rows of the position table; without one, the longest input in tokens.
    type_vocab_size:   rows of the segment table; 0: there is none.
    embedding_size:    width of the embeddings where a projection follows.
    learned_positions: whether there is a position table; `position_offset` is its row for the first token.
    alibi:             whether each head's logits fall linearly with the distance (Press et al., 2022).
    norm:              layer norm behind each residual, or before each block and once behind the last.
    attention_norms:   layer norms behind the attention; in front of each, the attention's input is added.
    query_key_norm:    whether queries and keys go through layer norms, each over all heads together.
    feed_forward:      up and down, or down(activation(gate) * up).
    layer_groups:      distinct layers, each used for a run of consecutive ones; None: every layer is one of its own.
    """

    family: Family
    vocab_size: Vocabulary
    hidden_size: Width
    layers: Layers
    heads: Width
    intermediate_size: Width
    max_positions: Length
    type_vocab_size: Annotated[NonNegative, Field(le=1024)] = 2
    layer_norm_eps: Annotated[Finite, Field(ge=0, lt=1)] = 1e-12
    pad_token_id: int = 0
    activation: Activation = "gelu"
    embedding_size: Width | None = None
    learned_positions: bool = True
    position_offset: NonNegative = 0
    relative_bias: RelativeBias | None = None
    disentangled: Disentangled | None = None
    rope: Rope | None = None
    alibi: bool = False
    norm: Literal["post", "pre"] = "post"
    norm_bias: bool = True
    attention_norms: Literal[1, 2] = 1
    query_key_norm: bool = False
    attention_bias: bool = True
    feed_forward: Literal["plain", "gated"] = "plain"
    up_bias: bool = True
    down_bias: bool = True
    local: LocalAttention | None = None
    layer_groups: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _offset_of_old_files(cls, values: Any) -> Any:
        # Before there was the field, RoBERTa was the one family whose positions start behind the padding's.
        if isinstance(values, dict) and values.get("family") == "roberta" and "position_offset" not in values:
            padding = values.get("pad_token_id", 0)
            return {**values, "position_offset": padding + 1 if isinstance(padding, int) else 0}
        return values

    @model_validator(mode="after")
    def _parts_fit(self) -> EncoderConfig:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size must be a multiple of heads, found {self.hidden_size} and {self.heads}")
        if self.rope is not None and self.hidden_size // self.heads % 2:
            raise ValueError(f"rope turns pairs: heads must be of even width, found {self.hidden_size // self.heads}")
        if self.norm == "pre" and self.attention_norms != 1:
            raise ValueError(f"attention_norms must be 1 where norms stand before blocks, found {self.attention_norms}")
        if self.layer_groups is not None and self.layer_groups > self.layers:
            raise ValueError(f"layer_groups must be at most layers, found {self.layer_groups} and {self.layers}")
        if self.longest_input < 1:
            raise ValueError(f"max_positions must exceed position_offset {self.position_offset}")
        return self

    @property
    def longest_input(self) -> int:
        """Longest input in tokens."""
        return self.max_positions - self.position_offset

    @property
    def local_layers(self) -> list[int]:
        """Layers that see only keys nearby."""
        return [] if self.local is None else [n for n in range(self.layers) if n not in self.local.global_layers]

    @property
    def feed_forward_products(self) -> int:
        """Matrix products of hidden_size x intermediate_size for each row."""
        return 3 if self.feed_forward == "gated" else 2


class HeadConfig(Head):
    """What the model predicts, and the layers that predict it.

    dense:      whether a dense layer stands before the classifier; None: in a head with labels that is not for tokens.
    activation: behind the dense layer, `dense_bias` says whether that has a bias, `norm` whether a layer norm follows.
    output:     what is done with the only value of a regression or ranking.
    normalise:  whether an embedding is divided by its length.
    """

    dense: bool | None = None
    dense_bias: bool = True
    activation: Activation = "tanh"
    norm: bool = False
    output: Literal["identity", "sigmoid"] = "identity"
    normalise: bool = False

    @property
    def has_dense(self) -> bool:
        """Whether a dense layer stands before the classifier."""
        return not self.token_level and self.size is None if self.dense is None else self.dense


class PrunerConfig(Strict):
    """The rule that drops tokens.

    thresholds:       one per layer; 0 exactly means "this layer does not decide" (`ltp`, `threshold`).
    reference_length: the padded length that an LTP model was trained at; its scores are divided by it.
    keep_rates:       one per layer, the share of the alive tokens that `topk` keeps; 1 does not decide.
    predictor_hidden: width of Transkimmer's predictor.
    decides_at:       the layers of `transkimmer` that have a predictor; None: every one, as in the paper.
    protect_first:    whether the first token stays alive whatever its score.
    protect_until:    the token that ends a protected segment, such as [SEP] behind a query: the tokens up to the first
                      one stay alive whatever their scores. None: only the first token may be protected.
    translated:       whether dropped tokens' last states go through a linear map of their decision's before they are
                      added to a mean: see `Pruner.translated`.
    """

    method: Method = "dense"
    thresholds: list[Annotated[Finite, Field(ge=0)]] | None = None
    reference_length: Positive | None = None
    keep_rates: list[Annotated[Finite, Field(gt=0, le=1)]] | None = None
    predictor_hidden: Width | None = None
    decides_at: list[Annotated[int, Field(ge=0)]] | None = None
    protect_first: bool = True
    protect_until: Annotated[int, Field(ge=0)] | None = None
    translated: bool = False

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

    @property
    def reads_attention_at(self) -> list[int]:
        """The layers whose attention probabilities are read for a score."""
        if self.method in ("ltp", "threshold"):
            return [layer for layer, value in enumerate(self.thresholds or []) if value != 0]
        rates = (self.keep_rates or []) if self.method == "topk" else []
        return [layer for layer, rate in enumerate(rates) if rate < 1]


class BackboneReference(Strict):
    """Weights that are not in the checkpoint: an installed package (or a directory) and the digest of its weights."""

    name: str
    sha256: str


class AdapterConfig(Strict):
    """Low-rank adapters: weight += alpha / rank * B @ A (Hu et al., 2021, eq. 3)."""

    rank: Width
    alpha: Annotated[Finite, Field(gt=0)]


class CheckpointConfig(Strict):
    """The whole of checkpoint.json."""

    schema_version: int = SCHEMA_VERSION
    encoder: EncoderConfig
    head: HeadConfig
    pruner: PrunerConfig = PrunerConfig()
    max_length: Length
    backbone: BackboneReference | None = None
    adapter: AdapterConfig | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> CheckpointConfig:
        problems = []
        for name in ("thresholds", "keep_rates"):
            values = getattr(self.pruner, name)
            if values is not None and len(values) != self.encoder.layers:
                problems.append(f"pruner.{name} has {len(values)} values for {self.encoder.layers} layers")
        blind = [layer for layer in self.encoder.local_layers if layer in self.pruner.reads_attention_at]
        if blind:
            problems.append(
                f"pruner.method {self.pruner.method!r} decides at layers {blind}, whose attention is local: what a "
                "token receives there says nothing of the whole text; decide in global layers only: "
                f"{[layer for layer in range(self.encoder.layers) if layer not in self.encoder.local_layers]}"
            )
        beyond = [layer for layer in self.pruner.decides_at or [] if layer >= self.encoder.layers]
        if beyond:
            problems.append(f"pruner.decides_at names layers {beyond}, the encoder has {self.encoder.layers}")
        if self.max_length > self.encoder.longest_input:
            problems.append(f"max_length is {self.max_length}, the encoder takes {self.encoder.longest_input}")
        if self.adapter is not None and self.backbone is None:
            problems.append("adapter is given without the backbone that it adapts")
        if self.pruner.translated and not self.head.pools:
            problems.append("pruner.translated is of a head that reads the mean of all tokens, found another one")
        if self.head.kind == "question_answering" and len(self.head.labels) != 2:
            problems.append(f"a question_answering head has 2 labels (start, end), found {len(self.head.labels)}")
        if self.head.normalise and self.head.kind != "embedding":
            problems.append(f"head.normalise is of an embedding, found a {self.head.kind} head")
        if self.head.size and not self.head.has_dense and self.head.size != self.encoder.hidden_size:
            problems.append(f"head.size is {self.head.size}, without a dense layer it is {self.encoder.hidden_size}")
        if self.head.output != "identity" and not self.head.one_value:
            problems.append(
                f"head.output {self.head.output!r} is of a regression or ranking, found a {self.head.kind} head"
            )
        if self.head.one_value and len(self.head.labels) != 1:
            problems.append(f"a {self.head.kind} head has 1 label, found {len(self.head.labels)}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def parse_checkpoint_config(text: str | bytes, source: Path) -> CheckpointConfig:
    """Validates checkpoint.json; an InputError lists every wrong field at once."""
    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, AttributeError, RecursionError) as error:
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
