"""What a family is: a table from Hugging Face's names to ours, and the parts that its configuration asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Raw = Mapping[str, Any]
"""A config.json as it lies on disk."""
Problems = list[str]
"""What cannot be used of it."""
Renames = Sequence[tuple[str, str]]
"""Patterns of whole tensor names, tried in order, and our names. One that holds [a,b,c] is of a tensor that is cut
along its first dimension into so many equal ones."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "intermediate_size": ("intermediate_size",),
    "max_positions": ("max_position_embeddings",),
    "type_vocab_size": ("type_vocab_size",),
    "layer_norm_eps": ("layer_norm_eps",),
    "pad_token_id": ("pad_token_id",),
    "activation": ("hidden_act",),
}
ACTIVATIONS: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}
"""Theirs and ours."""
REQUIRED = ("vocab_size", "hidden_size", "layers", "heads", "intermediate_size", "max_positions")


def _nothing(raw: Raw, problems: Problems) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """One family of encoders as Hugging Face directories hold it.

    model_types:   its names in config.json; `name` if none are given.
    prefixes:      what stands in front of the encoder's tensors where there is a head.
    renames:       of the encoder; `sequence_head` and `token_head` of the two kinds of heads.
    keys:          where its config.json has a field under another name than BERT's.
    activations:   of the feed-forward, theirs to ours.
    defaults:      what transformers takes for a field that is not there.
    parts:         further fields of EncoderConfig; adds to the problems what cannot be computed.
    told_by_tensors: those that config.json does not tell, from our names of the tensors.
    head:          further fields of HeadConfig.
    tied:          other names of the word embeddings, for files that hold them under one name only.
    """

    name: str
    prefixes: tuple[str, ...]
    renames: Renames
    sequence_head: Renames
    token_head: Renames = ((r"(?:classifier|qa_outputs)\.(weight|bias)", r"head.classifier.\1"),)
    model_types: tuple[str, ...] = ()
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=lambda: ACTIVATIONS)
    parts: Callable[[Raw, Problems], dict[str, Any]] = _nothing
    told_by_tensors: Callable[[Collection[str]], dict[str, Any]] | None = None
    head: Callable[[Raw, Problems], dict[str, Any]] = _nothing
    tied: tuple[str, ...] = ()

    def key(self, name: str, raw: Raw) -> str:
        """The key that a field has in a config.json, or would have."""
        keys = self.keys.get(name, KEYS[name])
        return next((key for key in keys if key in raw), keys[0])


def expect(raw: Raw, problems: Problems, key: str, default: Any, usable: Sequence[Any], why: str = "") -> Any:
    """The value of a key, or its default. One that is not usable is a problem."""
    value = raw.get(key, default)
    if value not in list(usable):  # a list: what is found may not be hashable
        shown = " or ".join(repr(choice) for choice in usable)
        problems.append(f"{key} must be {shown}{why and ': ' + why}, found {value!r}")
    return value


def activation(raw: Raw, problems: Problems, key: str) -> str:
    """Our name of a head's activation, which is GELU where the key is missing."""
    known = {**ACTIVATIONS, "tanh": "tanh"}
    value = raw.get(key, "gelu")
    if not isinstance(value, str) or value not in known:
        problems.append(f"{key} must be one of {', '.join(known)}, found {value!r}")
        return "gelu"
    return known[value]


def number(raw: Raw, problems: Problems, key: str, default: float) -> float:
    """The value of a key that must be a number above 0, or its default."""
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        problems.append(f"{key} must be a number above 0, found {value!r}")
        return default
    return value


def rope_theta(raw: Raw, problems: Problems, default: float, layers: str | None = None) -> float:
    """Theta of rotary positions, as transformers 4 or 5 writes it; `layers` is the kind of layers that 5 names.

    Positions that are stretched for longer texts are a problem.
    """
    given = raw.get("rope_parameters") or {}
    scaled = raw.get("rope_scaling")
    if layers is not None and isinstance(given, Mapping):
        given = given.get(layers) or {}
    if not isinstance(given, Mapping):
        problems.append(f"rope_parameters must be an object, found {given!r}")
        given = {}
    kinds = [given.get("rope_type", "default")]
    if scaled is not None:
        kinds.append(scaled.get("rope_type", scaled.get("type")) if isinstance(scaled, Mapping) else scaled)
    for kind in kinds:
        if kind != "default":
            problem = f"rope_scaling must be absent: positions are taken as they are, found {kind!r}"
            problems.extend([problem] if problem not in problems else [])
    return number(given, problems, "rope_theta", default) if "rope_theta" in given else default
