"""The service: who asks with whom changes no answer, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import Runner
from engines.errors import InputError, SkimError
from engines.inputs import Answer, Input
from engines.prediction import SampleResult
from engines.reading import Reading
from engines.service import Call, ClosedError, OverloadedError, Service
from tests.engines.toy import NAN_WORD, Toy, words

GOOD = st.builds(words, st.integers(1, 20), st.integers(0, 50))
PAIRS = st.tuples(GOOD, st.just("w7 w9"))
BAD = st.sampled_from(["", " ", "\ud800", f"w5 w{NAN_WORD}", words(30), 7, ("w4", None), ["w4"]])
CALLERS = st.lists(st.lists(st.one_of(GOOD, PAIRS, BAD), max_size=6), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def runner(toy_artifact: Callable[[Toy], Path]) -> Runner:
    runner = Runner(toy_artifact(Toy()), threads=1)
    runner.warm_up()
    return runner


def only(results: list[SampleResult]) -> SampleResult:
    (result,) = results
    return result


def inputs_of(texts: Sequence[Any], truncate: bool = False) -> list[Input]:
    return [Input(text, number, truncate) for number, text in enumerate(texts, 1)]


def same(found: SampleResult | SkimError, alone: Answer) -> None:
    """Checks that an answer is the one that the text gets alone, its error word by word."""
    if isinstance(alone, SkimError):
        assert isinstance(found, type(alone)) and str(found) == str(alone)
        return
    (expected,) = alone
    assert isinstance(found, SampleResult) and found.length == expected.length
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    assert [kept.tolist() for kept in found.survivors] == [kept.tolist() for kept in expected.survivors]


@settings(max_examples=60)
@given(callers=CALLERS, batch=st.integers(1, 12), wait=st.sampled_from([0.0, 0.003]), cut=st.booleans())
def test_an_answer_never_depends_on_who_else_asks(runner: Runner, callers, batch: int, wait: float, cut: bool) -> None:
    with Service(runner, max_wait=wait, batch=batch) as service:
        futures = [service.ask(inputs_of(texts, truncate=cut), only) for texts in callers]
        for texts, future in zip(callers, futures, strict=True):
            found = future.result(60)
            assert len(found) == len(texts)
            for one, answer in zip(inputs_of(texts, truncate=cut), found, strict=True):
                same(answer, runner.answers([one])[0])


def test_a_good_text_gets_what_a_plain_call_gives(runner: Runner) -> None:
    texts = ["w7 w8", ("w9", "w10 w11"), words(20)]
    with Service(runner) as service:
        found = service.ask(inputs_of(texts), runner.read).result(60)
    assert [one.label for one in found] == [one.label for one in runner(texts)]
    assert [one.retention for one in found] == [one.retention for one in runner(texts)]


def test_questions_about_long_texts_are_answered_from_their_windows(toy_artifact: Callable[[Toy], Path]) -> None:
    runner = Runner(toy_artifact(Toy(head="question_answering")), reading=Reading(stride=4), threads=1)
    texts = [("w7", "w9"), ("w7 w8", words(60)), ("w5", f"w6 {words(40)} w{NAN_WORD}"), ("w8", words(40))]
    cut = Input(texts[1], 5, truncate=True)
    with Service(runner) as service:
        *found, of_the_cut = service.ask([*inputs_of(texts), cut], runner.read).result(60)
    plain = runner([texts[0], texts[1], texts[3]])
    assert [one.answers for one in (found[0], found[1], found[3])] == [one.answers for one in plain]
    assert found[1].tokens > 60 and of_the_cut.tokens == 24
    assert isinstance(found[2], SkimError) and "NaN or infinity for text 3" in str(found[2])


class Gate:
    """Stands in for a runner: remembers its calls, and answers when it is let."""

    def __init__(self, opened: bool = True) -> None:
        self.calls: list[list[Any]] = []
        self.entered, self.opened = threading.Semaphore(0), threading.Event()
        if opened:
            self.opened.set()

    def answers(self, inputs: Sequence[Input]) -> list[Answer]:
        self.calls.append([one.text for one in inputs])
        self.entered.release()
        assert self.opened.wait(60)
        if any(one.text == "crash" for one in inputs):
            raise ZeroDivisionError("an engine is gone")
        return [[SampleResult(1, np.array([len(one.text)]), [np.array([0])], [])] for one in inputs]


def ask(service: Service, *texts: str) -> Future:
    return service.ask(inputs_of(texts), lambda results: int(results[0].logits[0]))


def test_what_waits_while_an_engine_is_busy_goes_through_one_call() -> None:
    gate = Gate(opened=False)
    with Service(gate, max_wait=0) as service:
        first = ask(service, "a")
        assert gate.entered.acquire(timeout=60)
        others = [ask(service, "bb"), ask(service, "ccc", "d"), ask(service, "ee")]
        assert service.waiting == 4
        gate.opened.set()
        assert [future.result(60) for future in (first, *others)] == [[1], [2], [3, 1], [2]]
    assert gate.calls == [["a"], ["bb", "ccc", "d", "ee"]]


def test_nobody_waits_longer_than_until_a_call_is_full() -> None:
    gate = Gate()
    with Service(gate, max_wait=600, batch=3) as service:
        futures = [ask(service, text) for text in "abc"]
        assert [future.result(60) for future in futures] == [[1]] * 3
        last = ask(service, "d")  # which waits for others that never come, until the service ends
        service.close()
        assert last.result(60) == [1]
    assert gate.calls == [["a", "b", "c"], ["d"]]


def test_many_texts_of_one_caller_do_not_hold_up_few_of_another() -> None:
    gate = Gate(opened=False)
    with Service(gate, max_wait=0, batch=2) as service:
        first = ask(service, "x")
        assert gate.entered.acquire(timeout=60)
        many, few = ask(service, *"abcdef"), ask(service, "g")
        gate.opened.set()
        assert first.result(60) and few.result(60) == [1] and many.result(60) == [1] * 6
    assert gate.calls == [["x"], ["a", "b"], ["g", "c"], ["d", "e"], ["f"]]


def test_more_texts_than_may_wait_are_refused_with_a_time_to_come_back() -> None:
    gate = Gate(opened=False)
    with Service(gate, max_wait=0, queue=3) as service:
        running = ask(service, "a")
        assert gate.entered.acquire(timeout=60)
        waiting = ask(service, "b", "c")
        with pytest.raises(OverloadedError, match=r"expected room for 2 text\(s\), found 2 of 3 places taken") as full:
            ask(service, "d", "e")
        assert full.value.retry_after >= 1
        fitting = ask(service, "f")
        waiting.cancel()
        more = ask(service, "g", "h")  # in the places of what nobody waits for any more
        gate.opened.set()
        assert [running.result(60), fitting.result(60), more.result(60)] == [[1], [1], [1, 1]]
        with pytest.raises(CancelledError):
            waiting.result(60)
    assert gate.calls == [["a"], ["f", "g", "h"]]


def test_an_error_that_nobody_foresaw_ends_no_more_than_its_call() -> None:
    with Service(Gate(), max_wait=0, batch=2) as service:
        with pytest.raises(ZeroDivisionError):
            ask(service, "a", "crash", "b").result(60)
        assert ask(service, "b").result(60) == [1] and service.ready


def test_what_cannot_be_read_is_an_error_in_its_place() -> None:
    def read(results: list[SampleResult]) -> int:
        if results[0].logits[0] == 2:
            raise InputError("two is too many")
        return int(results[0].logits[0])

    with Service(Gate()) as service:
        one, two, three = service.ask(inputs_of(["a", "bb", "ccc"]), read).result(60)
    assert (one, str(two), three) == (1, "two is too many", 3)


def test_a_service_that_ends_answers_what_it_has_and_takes_no_more() -> None:
    gate = Gate(opened=False)
    service = Service(gate, max_wait=600)
    waiting = ask(service, "a")
    closing = threading.Thread(target=service.close)
    closing.start()
    assert gate.entered.acquire(timeout=60)
    assert not service.ready
    with pytest.raises(ClosedError, match="takes no more texts"):
        ask(service, "b")
    gate.opened.set()
    closing.join(60)
    assert waiting.result(0) == [1]


def test_every_call_is_told_of() -> None:
    seen: list[Call] = []
    with Service(Gate(), max_wait=600, batch=3, observe=seen.append) as service:
        assert ask(service, "a", "bb", "ccc").result(60) == [1, 2, 3]
        assert ask(service).result(60) == []
    (call,) = seen
    assert len(call.answers) == len(call.waited) == 3 and min(call.waited) >= 0 and call.seconds >= 0


def test_settings_that_cannot_be_used_are_refused_together() -> None:
    with pytest.raises(InputError) as refused:
        Service(Gate(), max_wait=-1, batch=0, queue=0)
    assert all(name in str(refused.value) for name in ("batch: expected at least 1", "queue: ", "max_wait: expected"))
