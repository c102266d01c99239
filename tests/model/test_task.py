"""Two checkpoints do one task, or every difference is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engines.errors import InputError
from pipeline.builder.config import DEMO
from pipeline.model.checkpoint import TOKENIZER_NAME, read_config, tokenizer_path
from pipeline.model.config import CheckpointConfig
from pipeline.model.task import refuse_other_task


def refuse(other: Path, ours: Path, **changes) -> None:
    """Whether `other` does the task of `ours`, with another configuration of it."""
    config = CheckpointConfig.model_validate({**read_config(ours).model_dump(), **changes})
    refuse_other_task("--dense", other, config, tokenizer_path(ours))


def test_the_shipped_models_do_one_task() -> None:
    for method in ("ltp", "transkimmer"):
        refuse(DEMO / "dense", DEMO / method)


@pytest.mark.parametrize(
    ("head", "changes", "problem"),
    [
        ("classification", {"labels": ["yes", "maybe", "no"]}, "in the order yes, maybe, no, found a classification "),
        ("classification", {"labels": ["no", "yes"]}, "expected a classification of 2 in the order no, yes, found "),
        ("classification", {"kind": "tagging"}, "expected a tagging of 3 in the order no, maybe, yes, found a class"),
        ("regression", {"labels": ["no", "yes"], "kind": "classification"}, "in the order no, yes, found a regression"),
    ],
)
def test_another_head_is_another_task(tiny_checkpoint, head: str, changes: dict, problem: str) -> None:
    ours = tiny_checkpoint("ltp", head)
    wanted = {**read_config(ours).head.model_dump(), **changes}
    with pytest.raises(InputError, match=r"^--dense .*, which has another task; name .*: head: ") as error:
        refuse(tiny_checkpoint("dense", head), ours, head=wanted)
    assert problem in str(error.value)


def test_a_regression_may_call_its_output_as_it_likes(tiny_checkpoint) -> None:
    ours = tiny_checkpoint("ltp", "regression")
    refuse(tiny_checkpoint("dense", "regression"), ours, head={"kind": "regression", "labels": ["LABEL_0"]})


def test_other_tokens_and_a_shorter_reach_are_named_together(tiny_checkpoint, tmp_path: Path) -> None:
    ours, other = tiny_checkpoint("ltp"), shutil.copytree(tiny_checkpoint("dense"), tmp_path / "other")
    with (other / TOKENIZER_NAME).open("a", encoding="utf-8") as file:
        file.write("\n")
    encoder = {**read_config(ours).encoder.model_dump(), "max_positions": 64}
    with pytest.raises(InputError, match="2 problem") as error:
        refuse(other, ours, encoder=encoder, max_length=64)
    assert "tokenizer.json: expected SHA-256 " in str(error.value)
    assert "length: expected at least 64 tokens, found 34" in str(error.value)


def test_what_is_no_checkpoint_says_so(tiny_checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected checkpoint\.json or a Hugging Face config\.json, found neither"):
        refuse(tmp_path, tiny_checkpoint("ltp"))
