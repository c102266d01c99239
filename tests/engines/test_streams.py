"""Streams of texts: how far the runner reads ahead, and what a bad text among good ones costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engines import Runner
from engines.errors import InputError, SkimError
from engines.tokenization import Tokens
from tests.engines.driving import check
from tests.engines.toy import NAN_WORD, Toy, random_tokens, words


def test_an_interrupted_stream_leaves_the_runner_usable(toy_artifact) -> None:
    """Fault 30: Ctrl-C while texts are read or engines run."""
    runner = Runner(toy_artifact(Toy()))

    def interrupted() -> Iterator[Tokens]:
        yield from random_tokens(0, 20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run_tokens(interrupted())
    samples = random_tokens(2, 5)
    check(Toy(), samples, runner.run_tokens(samples))


def test_a_stream_reads_no_further_ahead_than_its_window(toy_artifact) -> None:
    runner = Runner(toy_artifact(Toy()), window=10)
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for number in range(200):
            read += 1
            yield words(1 + number % 20, number)

    ahead = []
    for done, _ in enumerate(runner.stream(source()), 1):
        ahead.append(read - done)
    # Texts are tokenised up to a window at a time, so one more chunk than the window may be read.
    assert done == 200 and max(ahead) <= 2 * 10


def test_with_batches_of_one_every_text_is_answered_before_the_next_is_run(toy_artifact) -> None:
    runner = Runner(toy_artifact(Toy()), max_batch=1, window=1)
    read: list[int] = []
    for number, _ in enumerate(runner.stream(words(3, n) for n in read_into(read, 5))):
        assert len(read) <= number + 2


def read_into(read: list[int], count: int) -> Iterator[int]:
    for number in range(count):
        read.append(number)
        yield number


@pytest.mark.parametrize("window", [1, 7, 256])
def test_what_stands_before_a_bad_text_is_answered(toy_artifact, window: int) -> None:
    runner = Runner(toy_artifact(Toy()), window=window)
    stream, answered = runner.stream([*(words(3, n) for n in range(40)), " ", words(3)]), 0
    with pytest.raises(InputError, match="text 41: expected at least one word"):
        for _ in stream:
            answered += 1
    assert answered == 40


def test_what_stands_before_bad_tokens_is_answered(toy_artifact) -> None:
    results = Runner(toy_artifact(Toy()))._run([*random_tokens(3, 5), Tokens([10**6], [0], 1)])
    with pytest.raises(InputError, match="text 6: expected every token id"):
        for answered, _ in enumerate(results, 1):
            assert answered <= 5
    assert answered == 5


def test_what_stands_before_an_input_that_cannot_be_read_is_answered(toy_artifact) -> None:
    def read() -> Iterator[str]:
        yield from (words(3, n) for n in range(40))
        raise InputError("line 41: expected JSON")

    stream, answered = Runner(toy_artifact(Toy())).stream(read()), 0
    with pytest.raises(InputError, match="line 41: expected JSON"):
        for _ in stream:
            answered += 1
    assert answered == 40


def test_a_text_without_finite_numbers_takes_no_others_answer(toy_artifact, provider: str) -> None:
    """In the middle of a window, and before texts that go into the same places of the same buffers after it."""
    runner, alone = Runner(toy_artifact(Toy()), provider=provider), Runner(toy_artifact(Toy()), provider=provider)
    bad = f"w7 w{NAN_WORD} w8 w9 w10 w11"
    texts = [words(6, n) for n in range(9)] + [bad] + [words(3, n) for n in range(9)]
    failed: list[SkimError] = []
    found = list(runner.stream(texts, failed.append))
    good = [text for text in texts if text != bad]
    assert [p.logits for p in found] == [pytest.approx(alone([text])[0].logits, abs=1e-5) for text in good]
    assert [str(error).partition(";")[0] for error in failed] == [
        "stage 0: expected finite values, found NaN or infinity for text 10"
    ]
    stream = runner.stream([*texts[:9], bad, *texts[10:]])
    assert len([next(stream) for _ in range(9)]) == 9, "those in front of it"
    with pytest.raises(SkimError, match="for text 10"):
        next(stream)
