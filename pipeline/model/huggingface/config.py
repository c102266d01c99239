"""A Hugging Face config.json, and what the tokenizer's says beside it, to our configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from calib.row import shortened
from engines.errors import InputError, validation_problems
from engines.head import KINDS, HeadKind
from engines.limits import LABELS
from pipeline.model.config import CheckpointConfig, EncoderConfig, HeadConfig
from pipeline.model.families import FAMILIES, family_of
from pipeline.model.families.base import REQUIRED, Family, Problems, Raw
from pipeline.model.huggingface.layout import gives_segments, token_limit

_OF_THE_TASK = ("id2label", "label2id", "num_labels", "problem_type", "sentence_transformers")
_PROBLEM_TYPES = (None, "single_label_classification", "multi_label_classification", "regression")
_HEADS: dict[str, HeadKind] = {
    "SequenceClassification": "classification",
    "QuestionAnswering": "question_answering",
    "TokenClassification": "tagging",
}
_OUTPUTS = {"Identity": "identity", "Sigmoid": "sigmoid"}


def translate(
    raw: Raw,
    home: Path,
    backbone: bool = False,
    outputs: int | None = None,
    known: Sequence[str] = (),
    tensors: Collection[str] = (),
) -> CheckpointConfig:
    """The configuration of the model in `home`, whose config.json is `raw`. Raises InputError with all its problems.

    backbone: its head is replaced: no matter what it predicts.
    outputs:  rows of the classifier, where config.json names fewer labels or none.
    known:    problems that the caller has found in the same file, which are told with the others.
    tensors:  our names of the weights, for the parts of a family that config.json does not tell.
    """
    if backbone:
        raw = {key: value for key, value in raw.items() if key not in _OF_THE_TASK}
    source, problems = home / "config.json", [*known]
    family = family_of(raw)
    if family is None:
        problems.append(f"model_type must be one of {', '.join(FAMILIES)}, found {raw.get('model_type')!r}")
        family = FAMILIES["bert"]  # what is wrong beside it
    encoder = _encoder(raw, family, problems)
    if family.told_by_tensors is not None:
        encoder |= family.told_by_tensors(tensors)
    head = _head(raw, family, outputs, problems)
    if problems:
        raise InputError.listing(str(source), problems)
    if not backbone and encoder["type_vocab_size"] and not gives_segments(home):
        encoder["type_vocab_size"] = 1
    try:
        described = EncoderConfig(**encoder)
        longest = min(described.longest_input, token_limit(home) or described.longest_input)
        return CheckpointConfig(encoder=described, head=HeadConfig(**head), max_length=longest)
    except ValidationError as error:
        raise InputError.listing(str(source), validation_problems(error)) from None


def _encoder(raw: Raw, family: Family, problems: Problems) -> dict[str, Any]:
    """The fields of EncoderConfig."""
    problems += [f"{key} is missing" for name in REQUIRED if (key := family.key(name, raw)) not in raw]
    known, key = family.activations, family.key("activation", raw)
    activation = raw.get(key, family.defaults.get("activation", "gelu"))
    if not isinstance(activation, str) or activation not in known:
        problems.append(f"{key} must be one of {', '.join(known)}, found {activation!r}")
    problems += [
        f"{key} must be false: only encoders are read, whose tokens see the whole text, found {raw[key]!r}"
        for key in ("is_decoder", "add_cross_attention")
        if raw.get(key)
    ]
    if raw.get("quantization_config"):
        problems.append("quantization_config must be absent: quantised weights are not read; save the model before")
    fields = {
        "family": family.name,
        **{name: raw.get(family.key(name, raw)) for name in REQUIRED},
        "type_vocab_size": raw.get(family.key("type_vocab_size", raw), family.defaults.get("type_vocab_size", 2)),
        "layer_norm_eps": raw.get(family.key("layer_norm_eps", raw), family.defaults.get("layer_norm_eps", 1e-12)),
        "pad_token_id": raw.get("pad_token_id"),
        "activation": known.get(str(activation), activation),
    }
    if fields["pad_token_id"] is None:
        fields["pad_token_id"] = family.defaults.get("pad_token_id", 0)
    return {**fields, **family.parts(raw, problems)}


def _head(raw: Raw, family: Family, outputs: int | None, problems: Problems) -> dict[str, Any]:
    """The fields of HeadConfig, by the class that was saved."""
    kind, labels = _kind(raw, problems), _labels(raw, outputs, problems)
    if kind == "classification" and raw.get("problem_type") == "multi_label_classification":
        kind = "multi_label"
    if kind == "classification" and (raw.get("problem_type") == "regression" or len(labels) == 1):
        kind = "regression"
    parts = family.head(raw, problems)
    if KINDS[kind].per_token:
        parts.pop("pooling", None)
    return {"kind": kind, "labels": labels, **parts, "output": _output(raw, kind, problems)}


def _kind(raw: Raw, problems: Problems) -> HeadKind:
    if raw.get("problem_type") not in _PROBLEM_TYPES:
        known = " or ".join(repr(name) for name in _PROBLEM_TYPES if name)
        problems.append(f"problem_type must be {known}, found {raw['problem_type']!r}")
    saved = raw.get("architectures") or [""]
    if not isinstance(saved, list) or not isinstance(saved[0], str):
        problems.append(f"architectures must be a list of class names, found {saved!r}")
        return "classification"
    return next((ours for theirs, ours in _HEADS.items() if theirs in saved[0]), "classification")


def reads_every_token(raw: Raw) -> bool:
    """Whether the class that was saved has a head for tokens."""
    return KINDS[_kind(raw, [])].per_token


def _output(raw: Raw, kind: str, problems: Problems) -> str:
    """What a sentence-transformers cross-encoder does with its logits."""
    settings = raw.get("sentence_transformers")
    key, found = "sbert_ce_default_activation_function", raw.get("sbert_ce_default_activation_function")
    if isinstance(settings, Mapping) and settings.get("activation_fn"):
        key, found = "sentence_transformers.activation_fn", settings["activation_fn"]
    if found is None:
        return "identity"
    name = str(found).rpartition(".")[2]
    if kind == "classification" and name == "Softmax":  # which probabilities are made with anyhow
        return "identity"
    if name not in _OUTPUTS or (kind != "regression" and name != "Identity"):
        usable = "Identity or Sigmoid" if kind == "regression" else f"Identity or Softmax, for a {kind} head"
        problems.append(f"{key} must be {usable}, found {found!r}")
    return _OUTPUTS.get(name, "identity")


def _labels(raw: Raw, outputs: int | None, problems: Problems) -> list:
    """The labels by index: id2label's, else label2id's, else as many as num_labels says, which have no names.

    Outputs of the classifier that have no name are LABEL_ and their index; where it is not known how many there are,
    none may be left out. What cannot be used is added to `problems`.
    """
    key = next((key for key in ("id2label", "label2id") if raw.get(key)), "num_labels")
    found = raw.get(key, 2)
    if key == "num_labels":
        if isinstance(found, int) and (outputs is not None or found <= LABELS):
            return [f"LABEL_{index}" for index in range(found if outputs is None else outputs)]
        problems.append(f"num_labels must be a whole number of at most {LABELS}, found {found!r}")
        return []
    try:
        pairs = [pair if key == "id2label" else pair[::-1] for pair in found.items()]
        names = {int(str(index)): name for index, name in pairs}
        if len(names) < len(pairs):
            raise ValueError("an index has two labels")
    except (AttributeError, ValueError):
        form = {"id2label": '{"0": "bad", "1": "good"}', "label2id": '{"bad": 0, "good": 1}'}[key]
        problems.append(f"{key} must be like {form}, with an index for every label, found {shortened(found)}")
        return []
    if outputs is None and sorted(names) != list(range(len(names))):
        problems.append(f"{key} must name every index from 0 to {len(names) - 1}, found {shortened(sorted(names))}")
        return []
    if outputs is None:
        return [names[index] for index in sorted(names)]
    beyond = sorted(index for index in names if not 0 <= index < outputs)
    if beyond:
        problems.append(f"{key} must name the {outputs} outputs of the classifier, found index {beyond[0]}")
    return [names.get(index, f"LABEL_{index}") for index in range(outputs)]
