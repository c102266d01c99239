"""The service: texts of many callers, gathered for a moment, go through one call of a runner.

with Service(runner) as service:
    service.ask([Input("one text")], runner.read).result()  # -> [Prediction], from any thread
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Protocol

from engines.errors import InputError, SkimError
from engines.inputs import Answer, Input
from engines.prediction import SampleResult

_LOG = logging.getLogger("skimrt")

Read = Callable[[list[SampleResult]], Any]
"""Makes of a text's results what its caller wants."""


class OverloadedError(SkimError):
    """More texts wait than may. retry_after: seconds until there is probably room."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosedError(SkimError):
    """The service takes no more texts."""


class Answers(Protocol):
    """What answers texts: a `Runner`."""

    def answers(self, inputs: Sequence[Input]) -> list[Answer]:
        """The answer of every text, or its error in its place."""


@dataclass(frozen=True)
class Call:
    """One call of the runner: its answers, its seconds, and those that its texts had waited for it."""

    answers: Sequence[Answer]
    seconds: float
    waited: Sequence[float]


@dataclass
class _Request:
    """The texts of a caller; `asked` of them have gone into calls, `left` have no answer yet."""

    inputs: Sequence[Input]
    read: Read
    arrived: float
    future: Future[list[Any]] = field(default_factory=Future)
    answers: dict[int, Any] = field(default_factory=dict)
    asked: int = 0

    def take(self, most: int) -> list[tuple[_Request, int]]:
        """The places of the next texts, at most so many."""
        places = range(self.asked, min(self.asked + most, len(self.inputs)))
        self.asked = places.stop
        return [(self, place) for place in places]

    def answer(self, place: int, found: Answer) -> None:
        """Takes the answer of a text; the last one wakes the caller."""
        try:
            self.answers[place] = found if isinstance(found, SkimError) else self.read(found)
        except SkimError as error:
            self.answers[place] = error
        if len(self.answers) == len(self.inputs):
            _settle(self.future, lambda: [self.answers[n] for n in range(len(self.inputs))])


class Service:
    """Answers texts of many callers. Safe to call from any thread; one thread of its own runs the engines.

    runner:   what answers; every answer is the one that the text gets alone.
    max_wait: seconds that a text at most waits for others to share its call. Texts that arrive during a call share the
              next one.
    batch:    texts of a call. A caller of more takes turns with the others, a call at a time.
    queue:    texts that may wait at a time.
    observe:  is told of every call, in the service's thread.
    """

    def __init__(
        self,
        runner: Answers,
        *,
        max_wait: float = 0.002,
        batch: int = 64,
        queue: int = 1024,
        observe: Callable[[Call], None] = lambda call: None,
    ) -> None:
        problems = [
            f"{name}: expected at least 1, found {value}"
            for name, value in (("batch", batch), ("queue", queue))
            if value < 1
        ]
        if not 0 <= max_wait < math.inf:
            problems.append(f"max_wait: expected seconds from 0, found {max_wait}")
        if problems:
            raise InputError.listing("service", problems)
        self._runner, self._observe = runner, observe
        self._max_wait, self._batch, self._queue = max_wait, batch, queue
        self._requests: deque[_Request] = deque()
        self._waiting, self._closing, self._pace = 0, False, 0.0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="skimrt-service", daemon=True)
        self._thread.start()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Texts that are in no call yet."""
        return self._waiting

    @property
    def ready(self) -> bool:
        """Whether it takes texts."""
        return self._thread.is_alive() and not self._closing

    def ask(self, inputs: Sequence[Input], read: Read) -> Future[list[Any]]:
        """The answers to come, in the order of the texts: what `read` makes of each result, or the text's SkimError.

        A future that is cancelled leaves the queue. Raises OverloadedError where the queue has no room for all texts,
        ClosedError after `close`.
        """
        request = _Request(inputs, read, time.monotonic())
        with self._changed:
            if not self.ready:
                raise ClosedError("the service ends and takes no more texts; ask another one")
            if self._waiting + len(inputs) > self._queue and self._waiting:
                self._forget_cancelled()
            if self._waiting + len(inputs) > self._queue:
                seconds = max(1, math.ceil(self._waiting * self._pace))
                raise OverloadedError(
                    f"queue: expected room for {len(inputs)} text(s), found {self._waiting} of {self._queue} places "
                    f"taken; try again in {seconds} s, with fewer texts if there are more than {self._queue}",
                    seconds,
                )
            if not inputs:
                request.future.set_result([])
                return request.future
            self._requests.append(request)
            self._waiting += len(inputs)
            self._changed.notify()
        return request.future

    def close(self) -> None:
        """Takes no more texts, answers those that it has, and returns when that is done."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._gathered():
            try:
                self._call(batch)
            except BaseException as error:  # whatever it is, callers must not wait for ever, and others come
                _LOG.error("a call failed", exc_info=not isinstance(error, SkimError))
                for request, _ in batch:
                    _settle(request.future, error=error)

    def _call(self, batch: Sequence[tuple[_Request, int]]) -> None:
        started = time.monotonic()
        answers = self._runner.answers([request.inputs[place] for request, place in batch])
        seconds = time.monotonic() - started
        pace = seconds / len(batch)
        self._pace = pace if not self._pace else 0.8 * self._pace + 0.2 * pace
        self._observe(Call(answers, seconds, [started - request.arrived for request, _ in batch]))
        for (request, place), answer in zip(batch, answers, strict=True):
            request.answer(place, answer)

    def _gathered(self) -> list[tuple[_Request, int]]:
        """The texts of the next call; none when the service ends."""
        with self._changed:
            batch: list[tuple[_Request, int]] = []
            while not batch:
                while not self._requests and not self._closing:
                    self._changed.wait()
                if not self._requests:
                    return []
                until = self._requests[0].arrived + self._max_wait
                while self._waiting < self._batch and not self._closing and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                self._forget_cancelled()
                while self._requests and len(batch) < self._batch:
                    request = self._requests.popleft()
                    batch += request.take(self._batch - len(batch))
                    if request.asked < len(request.inputs):
                        self._requests.append(request)  # behind the others: many texts do not hold up few
                self._waiting -= len(batch)
            return batch

    def _forget_cancelled(self) -> None:
        """Drops the texts that nobody waits for any more."""
        self._requests = deque(request for request in self._requests if not request.future.done())
        self._waiting = sum(len(request.inputs) - request.asked for request in self._requests)


def _settle(
    future: Future[list[Any]], answers: Callable[[], list[Any]] = list, error: BaseException | None = None
) -> None:
    """Ends a future, unless its caller has given up."""
    try:
        if error is None:
            future.set_result(answers())
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass
