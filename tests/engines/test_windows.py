"""Questions about texts that are longer than the model takes: windows, and the best answer of all of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines import Runner
from engines.errors import InputError, SkimError
from engines.reading import Reading
from engines.tokenization import TextEncoder, Tokens
from skimrt import pipeline
from tests.engines.toy import MAX_LENGTH, NAN_WORD, Toy, words

QUESTIONS = Toy(head="question_answering")
SPECIAL = 3


@given(st.integers(1, 20), st.integers(1, 90), st.integers(0, 30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_windows_hold_the_question_and_together_the_text(
    tiny_tokenizer: Path, asked: int, length: int, stride: int
) -> None:
    encode = TextEncoder(tiny_tokenizer, MAX_LENGTH, origins=True)
    pair = (words(asked), words(length, 7))
    (windows,) = encode.windows([pair], 1, stride)
    (whole,) = TextEncoder(tiny_tokenizer, 1000, origins=True)([pair])
    assert all(window.full_length == len(window) <= MAX_LENGTH for window in windows)
    if len(whole) <= MAX_LENGTH:
        assert windows == [whole]
        return
    room = MAX_LENGTH - SPECIAL - asked
    seen: list[tuple[int, int]] = []
    for number, window in enumerate(windows):
        assert window.input_ids[: asked + 2] == whole.input_ids[: asked + 2]
        assert window.origin is not None and window.origin.texts == pair
        spans = [window.origin.spans[token] for token in window.origin.of_part(1)]
        assert len(spans) == room or number == len(windows) - 1
        shared = min(stride, room // 2) if number else 0
        assert spans[:shared] == seen[len(seen) - shared :]
        seen += spans[shared:]
    assert whole.origin is not None and seen == [whole.origin.spans[token] for token in whole.origin.of_part(1)]


def by_hand(pair: tuple[str, str], windows: list[Tokens]) -> tuple[str, float]:
    """The most probable word or words of the second text in any window, by the toy's reference."""
    best = ("", 0.0)
    for window in windows:
        logits, _ = QUESTIONS.reference(window)
        assert window.origin is not None
        context = window.origin.of_part(1)
        weights = np.exp(logits[[0, *context]].astype(np.float64))
        start, end = (weights / weights.sum(0)).T
        for i, first in enumerate(context, 1):
            for j, last in enumerate(context[i - 1 : i + 14], i):
                text = pair[1][window.origin.spans[first][0] : window.origin.spans[last][1]]
                best = max(best, (text, float(start[i] * end[j])), key=lambda found: found[1])
    return best


@pytest.mark.parametrize("window", [1, 3, 256])
def test_the_answer_is_the_best_of_all_windows(toy_artifact, tiny_tokenizer: Path, window: int) -> None:
    """Words of the text differ, so no answer is there twice but by the overlap of two windows."""
    encode = TextEncoder(tiny_tokenizer, MAX_LENGTH, origins=True)
    pairs = [(words(2), words(length, first)) for first, length in enumerate((50, 3, 31, 19, 54))]
    runner = Runner(toy_artifact(QUESTIONS), window=window, reading=Reading(stride=8))
    for pair, found, cut in zip(pairs, runner(pairs), encode.windows(pairs, 1, 8), strict=True):
        text, probability = by_hand(pair, cut)
        answer = found.answers[0]
        assert (answer.text, answer.probability) == (text, pytest.approx(probability, abs=1e-5))
        assert pair[1][answer.start : answer.end] == text
        assert found.tokens == len(found.logits) == sum(map(len, cut)) and found.retention[0] <= found.tokens
        assert found == runner(pair)
        assert isinstance(found.label, tuple)
        first, last = found.label
        ids = [number for window in cut for number in window.input_ids]
        assert [f"w{number}" for number in ids[first : last + 1]] == text.split()


def test_no_answer_counts_as_in_the_window_that_believes_it_least(toy_artifact, tiny_tokenizer: Path) -> None:
    pair = (words(2), words(50, 3))
    reading = Reading(answers=1000, no_answer=True, stride=8)
    answers = Runner(toy_artifact(QUESTIONS), reading=reading)(pair).answers
    found = []
    for window in TextEncoder(tiny_tokenizer, MAX_LENGTH, origins=True).windows([pair], 1, 8)[0]:
        logits, _ = QUESTIONS.reference(window)
        assert window.origin is not None
        weights = np.exp(logits[[0, *window.origin.of_part(1)]].astype(np.float64))
        found.append(float(np.prod(weights[0] / weights.sum(0))))
    (none,) = [answer.probability for answer in answers if answer.tokens is None]
    assert none == pytest.approx(min(found), abs=1e-5) and min(found) < 0.9 * max(found)


def test_a_text_of_which_a_window_fails_has_no_answer(toy_artifact) -> None:
    bad = (words(2), f"{words(40)} w{NAN_WORD} {words(9)}")
    good = (words(2), words(40, 5))
    errors: list[SkimError] = []
    runner = Runner(toy_artifact(QUESTIONS))
    assert list(runner.stream([good, bad, good], errors.append)) == [runner(good)] * 2
    assert len(errors) == 1 and "NaN" in str(errors[0])
    with pytest.raises(SkimError, match="NaN"):
        runner([good, bad])


def test_a_question_that_leaves_no_room_is_refused(toy_artifact) -> None:
    runner = Runner(toy_artifact(QUESTIONS))
    pair = (words(MAX_LENGTH - SPECIAL), words(4))
    message = f"text 2: its first part has {MAX_LENGTH - SPECIAL} tokens, which leaves none of the model's {MAX_LENGTH}"
    with pytest.raises(InputError, match=re.escape(message)):
        runner([(words(1), words(1)), pair])
    with pytest.raises(InputError, match="stride: expected at least 0, found -1"):
        Reading(stride=-1)


def test_a_pipeline_reads_windows_or_cuts(toy_artifact) -> None:
    asked = {"question": words(2), "context": words(50)}
    found = pipeline(toy_artifact(QUESTIONS), doc_stride=8)(asked)
    assert found["answer"] == asked["context"][found["start"] : found["end"]]
    cut = pipeline(toy_artifact(QUESTIONS), truncate=True)(asked)
    assert cut["end"] <= len(words(MAX_LENGTH - SPECIAL - 2))
