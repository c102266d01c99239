"""What a plan's expected time has beside its engines: tokenising, measured on the texts that are planned for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.data import read_examples
from engines.intake import TOKENISE_TOGETHER
from pipeline.builder import typical
from pipeline.builder.subject import Subject
from pipeline.builder.typical import TypicalTexts
from pipeline.model.checkpoint import load_checkpoint
from pipeline.planning.plan import Planner
from tests.conftest import TinyModel
from tests.planning.test_plan import RowCost, falling


def test_tokenising_is_measured_as_the_runner_does_it(tiny_checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[int] = []

    def counted(*_: object):
        return lambda texts: chunks.append(len(texts))

    monkeypatch.setattr(typical, "encoder_of", counted)
    subject = Subject.load(tiny_checkpoint("ltp"), "movie-reviews", 4)
    texts = TypicalTexts(["w4 w5"] * (TOKENISE_TOGETHER + 3), np.ones((1, 5), int))
    seconds = texts.tokenising_seconds(subject, (1, 8))
    assert set(seconds) == {1, 8} and min(seconds.values()) > 0
    one_by_one = [1] * (1 + len(texts.texts))  # the first chunk is a warm-up
    assert chunks == [*one_by_one, TOKENISE_TOGETHER, TOKENISE_TOGETHER, 3]


@pytest.mark.parametrize("method", ["dense", "transkimmer"])
def test_rows_are_what_the_reference_retains(tiny_checkpoint, method: str) -> None:
    checkpoint = tiny_checkpoint(method)
    examples = read_examples("movie-reviews", "dev")
    subject = Subject.of(checkpoint, load_checkpoint(checkpoint), "movie-reviews", examples[:4], examples)
    found = TypicalTexts.of(subject)
    assert found.rows.shape == (len(found.texts), 1 + subject.model.config.encoder.layers)
    assert (np.diff(found.rows, axis=1) <= 0).all() and (found.rows >= 1).all()
    assert (found.rows[:, -1] < found.rows[:, 0]).any() == (method != "dense")


def test_every_plan_pays_for_tokenising_alike(tiny_model: TinyModel) -> None:
    planner = Planner(tiny_model("ltp"), falling(tiny_model("ltp"), 0.5), RowCost(3), (1, 8), 64)
    paying = replace(planner, tokenising_seconds={1: 7.0, 8: 2.0})
    for plain, paid in ((planner.best(), paying.best()), (planner.given([]), paying.given([]))):
        assert paid.cuts == plain.cuts and paid.buckets == plain.buckets
        assert paid.expected_seconds == {1: plain.expected_seconds[1] + 7, 8: plain.expected_seconds[8] + 2}
