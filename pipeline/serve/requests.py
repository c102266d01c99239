"""The bodies of requests."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

_TEXT = {"type": "string"}
_PAIR = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}
_NAMED = {"type": "object", "properties": {n: _TEXT for n in ("text", "text_pair", "question", "context")}}
_ITEM = {"anyOf": [_TEXT, _PAIR, _NAMED]}
Inputs = Annotated[Any, WithJsonSchema({"anyOf": [_TEXT, _NAMED, {"type": "array", "items": _ITEM}]})]
"""One text, or a list. What an item of a list is, is looked at one by one: a bad one takes no others' answer."""


Right = Literal["right", "Right"]
"""Where texts are cut: at their end."""


class _Request(BaseModel):
    # What is not understood is refused: a setting that is dropped in silence changes answers.
    model_config = ConfigDict(strict=True, extra="forbid")


class PredictRequest(_Request):
    """Texts to answer.

    inputs:   a text, or a list of texts, pairs [text, text] and objects {"text", "text_pair"} or {"question",
              "context"}.
    truncate: cuts texts that are too long for the model.
    on_error: "return" puts the error of a bad text in its place, "raise" refuses the request for it.
    """

    inputs: Inputs
    truncate: bool = False
    on_error: Literal["return", "raise"] = "return"


class RerankRequest(_Request):
    """Texts to rank for a query, as Text Embeddings Inference takes them.

    raw_scores:     the model's own scores instead of their sigmoids.
    top_n:          only the best so many.
    return_context: also the words of every text that were alive behind the last stage.
    """

    query: str
    texts: list[str]
    truncate: bool = False
    truncation_direction: Right = "right"
    raw_scores: bool = False
    return_text: bool = False
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_context: bool = False


class EmbedRequest(_Request):
    """Texts to embed, as Text Embeddings Inference takes them. normalize: to length 1."""

    inputs: str | list[str]
    truncate: bool = False
    truncation_direction: Right = "right"
    normalize: bool = True
    prompt_name: None = None
    dimensions: None = None


class EmbeddingsRequest(_Request):
    """Texts to embed, as OpenAI takes them; `model` and `user` are not read, and all numbers are given."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None
    user: str | None = None

    def encoded(self, vector: np.ndarray) -> list[float] | str:
        """An embedding in the form that was asked for; base64 is of little-endian float32."""
        if self.encoding_format == "float":
            return vector.tolist()
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
