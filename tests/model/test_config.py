"""checkpoint.json: what is refused, and that every wrong field is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.errors import InputError
from pipeline.model.config import SCHEMA_VERSION, CheckpointConfig, parse_checkpoint_config
from tests.conftest import LAYERS, TinyModel

SOURCE = Path("checkpoint.json")


def edited(model, **parts) -> str:
    """The model's checkpoint.json with fields of its parts replaced; None removes a field."""
    raw = json.loads(model.config.model_dump_json(exclude_none=True))
    for part, changes in parts.items():
        if not isinstance(changes, dict):
            raw[part] = changes
            continue
        raw.setdefault(part, {}).update(changes)
        raw[part] = {name: value for name, value in raw[part].items() if value is not None}
    return json.dumps(raw)


@pytest.mark.parametrize("method", ["ltp", "topk", "transkimmer", "threshold"])
def test_a_configuration_survives_its_file(tiny_model: TinyModel, method: str) -> None:
    config = tiny_model(method).config
    assert parse_checkpoint_config(config.model_dump_json(exclude_none=True), SOURCE) == config


@pytest.mark.parametrize(
    ("method", "parts", "messages"),
    [
        (
            "ltp",
            {"pruner": {"thresholds": None, "reference_length": None}},
            ["needs thresholds, reference_length"],
        ),
        (
            "ltp",
            {"pruner": {"method": None, "thresholds": [float("nan"), -0.1, 0.1, 0.1]}},
            ["thresholds.0", "s.1"],
        ),
        (
            "ltp",
            {"pruner": {"thresholds": [0.0, float("inf"), 0, 0]}},
            ["pruner.thresholds.1: ", "found inf"],
        ),
        (
            "ltp",
            {"pruner": {"thresholds": [0.1] * 3}},
            [f"pruner.thresholds has 3 values for {LAYERS} layers"],
        ),
        ("ltp", {"pruner": {"reference_length": 0}}, ["pruner.reference_length: ", "found 0"]),
        ("topk", {"pruner": {"keep_rates": [1.0, 0.0, 1.5, 0.5]}}, ["keep_rates.1: ", "keep_rates.2: "]),
        ("topk", {"pruner": {"keep_rates": None}}, ["method 'topk' needs keep_rates"]),
        (
            "transkimmer",
            {"pruner": {"predictor_hidden": None}},
            ["method 'transkimmer' needs predictor_hidden"],
        ),
        ("transkimmer", {"pruner": {"decides_at": [1, 9]}}, [f"decides_at names layers [9], the encoder has {LAYERS}"]),
        ("threshold", {"pruner": {"thresholds": None}}, ["method 'threshold' needs thresholds"]),
        ("dense", {"pruner": {"method": "magic", "prune_mode": 1}}, ["found 'magic'", "pruner.prune_mode: "]),
        ("dense", {"encoder": {"heads": 3}}, ["hidden_size must be a multiple of heads, found 32 and 3"]),
        ("dense", {"encoder": {"layers": 0}, "head": {"labels": []}}, ["encoder.layers: ", "head.labels: "]),
        (
            "dense",
            {"max_length": 99, "adapter": {"rank": 2, "alpha": 2}},
            ["max_length is 99", "without the backbone"],
        ),
        ("dense", {"head": {"kind": "regression"}}, ["a regression head has 1 label, found 3"]),
        ("dense", {"head": {"kind": "question_answering"}}, ["has 2 labels (start, end), found 3"]),
        (
            "dense",
            {"head": {"labels": ["no", "yes", "no"]}},
            ["every label must be another one, 'no' is there 2 times"],
        ),
        ("dense", {"head": {"labels": ["no", " "]}}, ["expected names, found ' '"]),
    ],
)
def test_fault_04_every_wrong_field_is_named(tiny_model: TinyModel, method: str, parts: dict, messages: list) -> None:
    with pytest.raises(InputError) as error:
        parse_checkpoint_config(edited(tiny_model(method), **parts), SOURCE)
    assert str(error.value).startswith("checkpoint.json: ")
    assert error.value.exit_code == 2
    for message in messages:
        assert message in str(error.value)


def test_a_newer_file_is_recognised_whatever_else_it_holds(tiny_model: TinyModel) -> None:
    text = edited(tiny_model("dense"), schema_version=SCHEMA_VERSION + 1, sparsity="new")
    with pytest.raises(InputError, match=f"schema {SCHEMA_VERSION + 1}, this one reads {SCHEMA_VERSION}"):
        parse_checkpoint_config(text, SOURCE)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_what_is_no_json_object_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match="expected a JSON object"):
        parse_checkpoint_config(text, SOURCE)


def test_configurations_cannot_be_changed_in_place(tiny_model: TinyModel) -> None:
    config: CheckpointConfig = tiny_model("dense").config
    with pytest.raises(ValueError, match="frozen"):
        config.max_length = 1
