"""Reads a checkpoint of the papers' own code, or of Hugging Face, as one of ours; says what it does not take over."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError
from torch import Tensor

from engines.errors import InputError, validation_problems
from pipeline.model.config import CheckpointConfig
from pipeline.model.families import family_of
from pipeline.model.huggingface import read_huggingface_config
from pipeline.model.huggingface.config import translate
from pipeline.model.huggingface.layout import encoder_directory, gives_segments, read_json_object
from pipeline.model.huggingface.weights import SPARE, named_tensors, rename, stored_tensors
from pipeline.model.originals.rules import DELTA, PREDICTOR, ltp_rule, transkimmer_rule
from pipeline.model.transformer import PrunedTransformer

Original = Literal["ltp", "transkimmer", "huggingface"]
ORIGINALS: tuple[Original, ...] = get_args(Original)
_QUANTISATION = (
    r".*\.(?:weight_integer|bias_integer|weight_scaling_factor|fc_scaling_factor|act_scaling_factor|x_min|x_max|shift)"
)
"""What I-BERT keeps for its integer arithmetic, which LTP leaves off."""
_SEGMENTS = "embeddings.token_type.weight"


@dataclass(frozen=True)
class Conversion:
    """A checkpoint of ours: `weights` by our names, float32; `spare` are the stored names that nothing needs, grouped.

    Of the layers' tensors one line stands for all: encoder.layer.{0..11}.output.dense.weight_integer.
    """

    config: CheckpointConfig
    weights: dict[str, Tensor]
    spare: list[str]

    def model(self) -> PrunedTransformer:
        """The model, in eval mode."""
        model = PrunedTransformer(self.config)
        model.load_state_dict(self.weights)
        return model.eval()


def read_original(kind: Original, directory: Path, padded_length: int) -> Conversion:
    """The checkpoint in `directory`, of `kind`; LTP's was trained on texts padded to `padded_length` tokens.

    Raises InputError with every problem of config.json at once, or with every tensor that is missing, of another
    shape, or not known.
    """
    home = encoder_directory(directory)
    raw, tensors = read_json_object(home / "config.json"), stored_tensors(home)
    if kind == "huggingface":
        config = read_huggingface_config(directory)
    else:
        config = _pruned(kind, raw, tensors, padded_length, home)
    family, token_level = family_of({**raw, "model_type": _dense_type(raw)}), config.head.token_level
    assert family is not None  # else there was no configuration
    plain = {_plain(name): value for name, value in tensors.items() if not _of_the_original(name, kind)}
    weights = {name: value.float() for name, value in named_tensors(plain, family, token_level, home).items()}
    if _SEGMENTS in weights and not gives_segments(home):
        weights[_SEGMENTS] = weights[_SEGMENTS][:1]
    if kind == "transkimmer":
        weights |= _predictors(tensors)
    rest = [n for n in tensors if _of_the_original(n, kind) or not _taken(_plain(n), family, token_level, weights)]
    needed = [DELTA] if kind == "ltp" else [PREDICTOR] if kind == "transkimmer" else []
    rest = [name for name in rest if not any(re.fullmatch(pattern, name) for pattern in needed)]
    known = (*SPARE, _QUANTISATION) if kind == "ltp" else SPARE
    spare = [name for name in rest if any(re.fullmatch(pattern, name) for pattern in known)]
    _refuse_misfits(config, weights, set(rest) - set(spare), home)
    return Conversion(config, weights, grouped(spare))


def grouped(names: Iterable[str]) -> list[str]:
    """Names in order, those that differ in their layer's number alone as one: layer.{0..3}.norm, layer.{1,3}.norm."""
    layers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        number = re.search(r"\.(\d+)\.", name)
        layers[re.sub(r"\.\d+\.", ".{}.", name, count=1)].update([int(number[1])] if number else [])
    return [pattern.replace("{}", _span(sorted(numbers))) for pattern, numbers in sorted(layers.items())]


def _span(layers: list[int]) -> str:
    if len(layers) < 2:
        return "".join(map(str, layers))
    whole = layers == list(range(layers[0], layers[-1] + 1))
    return "{" + (f"{layers[0]}..{layers[-1]}" if whole else ",".join(map(str, layers))) + "}"


def _pruned(
    kind: Original, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], padded_length: int, home: Path
) -> CheckpointConfig:
    """The configuration of a checkpoint of the papers' own code. Raises InputError with all its problems."""
    problems: list[str] = []
    usable = ("ltp",) if kind == "ltp" else ("bert", "roberta")
    if raw.get("model_type") not in usable:
        expected = " or ".join(map(repr, usable))
        problems.append(f"model_type must be {expected} for --from {kind}, found {raw.get('model_type')!r}")
    if kind == "ltp":
        rule = ltp_rule(raw, tensors, padded_length, problems)
    else:
        rule = transkimmer_rule(raw, tensors, problems)
    # One that is wrong is told already.
    dense = {**raw, "model_type": _dense_type(raw) if raw.get("model_type") in usable else "roberta"}
    last = [value for name, value in tensors.items() if re.fullmatch(r"(?:.*\.)?classifier(?:\.out_proj)?\.bias", name)]
    outputs = last[0].shape[0] if len(last) == 1 and last[0].dim() == 1 else None
    config = translate(dense, home, outputs=outputs, known=problems)
    length = min(config.max_length, padded_length) if "reference_length" in rule else config.max_length
    try:
        return CheckpointConfig.model_validate({**config.model_dump(), "pruner": rule, "max_length": length})
    except ValidationError as error:
        raise InputError.listing(str(home / "config.json"), validation_problems(error)) from None


def _dense_type(raw: Mapping[str, Any]) -> str:
    """The model type that the encoder has without its pruner: LTP's is I-BERT's, which is RoBERTa's."""
    kind = raw.get("model_type")
    return "roberta" if kind == "ltp" else str(kind)


def _plain(name: str) -> str:
    """A stored name as the family writes it."""
    return re.sub(r"^(?:module\.)?ibert\.", "", name)


def _of_the_original(name: str, kind: Original) -> bool:
    """Whether a tensor is none of the dense model's."""
    patterns = {"ltp": (DELTA, _QUANTISATION), "transkimmer": (PREDICTOR,), "huggingface": ()}[kind]
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _taken(name: str, family: Any, token_level: bool, weights: Mapping[str, Tensor]) -> bool:
    return any(ours in weights for ours in rename(name, family, token_level))


def _predictors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Transkimmer's predictors by our names."""
    weights = {}
    for name, value in tensors.items():
        if (match := re.fullmatch(PREDICTOR, name)) is not None:
            weights[f"pruner.predictors.{match[1]}.{match[2]}"] = value.float()
    return weights


def _refuse_misfits(
    config: CheckpointConfig, weights: Mapping[str, Tensor], unknown: Iterable[str], home: Path
) -> None:
    """Raises InputError with every weight that is missing or of another shape, and every name that is not known."""
    expected = PrunedTransformer(config).state_dict()
    wrong: dict[str, list[str]] = defaultdict(list)
    for name, value in weights.items():
        if name in expected and value.shape != expected[name].shape:
            wrong[f"expected shape {list(expected[name].shape)}, found {list(value.shape)}"].append(name)
    wrong["missing"] = [name for name in expected if name not in weights]
    wrong["not known"] = [*unknown, *(name for name in weights if name not in expected)]
    problems = [f"{name}: {problem}" for problem, names in wrong.items() for name in grouped(names)]
    if problems:
        raise InputError.listing(f"{home}: the weights are not those of its config.json", problems)
