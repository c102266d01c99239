"""What a service refuses, and how it survives what goes wrong."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engines.inputs import Answer, Input
from engines.runner import Runner
from tests.serve.serving import Client, served

RunnerOf = Callable[[str], Runner]


@pytest.fixture(scope="module")
def client(runner_of: RunnerOf) -> Iterator[Client]:
    with served(runner_of("classification"), size=20_000, texts=8, timeout=20) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"inputs": ["w7"', 422, "body: expected JSON, found an error at character 16"),
        (b"\xff\xfe", 422, "body: expected JSON"),
        (b"[" * 15_000, 422, "body: expected JSON"),
        (b"", 422, "body: field required"),
        ([], 422, "found []"),
        ({"input": "w7", "truncate": "yes"}, 422, "body.inputs: field required"),
        ({"input": "w7", "truncate": "yes"}, 422, "body.truncate: input should be a valid boolean, found 'yes'"),
        ({"inputs": "w7", "on_error": "ignore"}, 422, "body.on_error: input should be 'return' or 'raise', found"),
        ({"inputs": "w7", "raw_scores": True}, 422, "body.raw_scores: extra inputs are not permitted"),
        ({"inputs": ["w7"] * 9}, 413, "texts: expected at most 8, found 9; send fewer"),
        ({"inputs": "w7 " * 9000}, 413, "body: expected at most 20000 bytes, found 27014; send fewer texts"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(client: Client, body: object, status: int, message: str) -> None:
    said = client.post("/predict", body)
    assert said.status == status and message in said.body["error"] and said.body["error_type"] == "Validation"


def test_a_body_of_unknown_length_is_bounded_too(client: Client) -> None:
    said = client.post("/predict", iter([b'{"inputs": "', *[b"w7 " * 1000] * 9, b'"}']))
    assert said.status == 413 and "found more than 20000" in said.body["error"]
    assert client.post("/predict", iter([b'{"inputs": "w7', b'"}'])).status == 200


def test_other_paths_methods_and_types_say_what_is_expected(client: Client) -> None:
    nowhere = client.get("/docs")  # whose page would come from another host
    assert (nowhere.status, nowhere.body["error_type"]) == (404, "NotFound") and "/predict" in nowhere.body["error"]
    assert client.get("/predict").status == 405
    assert set(client.get("/openapi.json").body["paths"]) >= {"/predict", "/rerank", "/embed", "/v1/embeddings"}
    form = client.post("/predict", {"inputs": "w7"}, **{"content-type": "text/plain"})
    assert form.status == 415 and "expected application/json, found text/plain" in form.body["error"]


class Held(Runner):
    """A runner whose calls wait until they are let, and that crashes where it is told to."""

    opened: threading.Event
    entered: threading.Semaphore
    seen: list[object]

    def answers(self, inputs: Sequence[Input]) -> list[Answer]:
        self.seen += [one.text for one in inputs]
        self.entered.release()
        assert self.opened.wait(60)
        if any(one.text == "w13" for one in inputs):
            raise ZeroDivisionError("in an engine's own words")
        return super().answers(inputs)


@pytest.fixture
def held(runner_of: RunnerOf) -> Held:
    runner = Held(runner_of("classification").artifact.path, threads=1)
    runner.opened, runner.entered, runner.seen = threading.Event(), threading.Semaphore(0), []
    return runner


def until(true: Callable[[], bool]) -> None:
    """Waits for what must come true."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waiting(client: Client) -> float:
    families = text_string_to_metric_families(client.text("/metrics"))
    return next(sample.value for f in families for sample in f.samples if sample.name == "skimrt_queue_texts")


def test_a_full_queue_says_when_to_come_back(held: Held) -> None:
    with served(held, queue=2, texts=2) as client, ThreadPoolExecutor(2) as pool:
        running = pool.submit(client.post, "/predict", {"inputs": "w7"})
        assert held.entered.acquire(timeout=30)
        queued = pool.submit(client.post, "/predict", {"inputs": ["w8", "w9"]})
        until(lambda: waiting(client) == 2)
        refused = client.post("/predict", {"inputs": "w10"})
        assert (refused.status, refused.body["error_type"]) == (429, "Overloaded")
        assert int(refused.headers["retry-after"]) >= 1 and "found 2 of 2 places taken" in refused.body["error"]
        held.opened.set()
        assert [one.result().status for one in (running, queued)] == [200, 200]
    assert "w10" not in held.seen


def test_what_takes_too_long_is_given_up_and_leaves_the_queue(held: Held) -> None:
    with served(held, timeout=0.3) as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.post, "/predict", {"inputs": "w7"})
        assert held.entered.acquire(timeout=30)
        late = client.post("/predict", {"inputs": "w8"})
        assert (late.status, late.body["error_type"]) == (503, "Unavailable") and "retry-after" in late.headers
        assert "no answer within 0.3 s" in late.body["error"] and running.result().status == 503
        held.opened.set()
        until(lambda: client.post("/predict", {"inputs": "w9"}).status == 200)
    assert "w8" not in held.seen


def test_a_client_that_hangs_up_leaves_the_queue(held: Held) -> None:
    with served(held) as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.post, "/predict", {"inputs": "w7"})
        assert held.entered.acquire(timeout=30)
        with socket.create_connection(("127.0.0.1", client.port)) as gone:
            body = b'{"inputs": "w8"}'
            head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            gone.sendall(head % len(body) + body)
            until(lambda: waiting(client) == 1)
        until(lambda: 'status="499"' in client.text("/metrics"))
        held.opened.set()
        assert running.result().status == 200 and client.post("/predict", {"inputs": "w9"}).status == 200
    assert "w8" not in held.seen


def test_a_body_that_does_not_come_is_not_waited_for(runner_of: RunnerOf) -> None:
    begun = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    with (
        served(runner_of("classification"), timeout=0.3) as client,
        socket.create_connection(("127.0.0.1", client.port), timeout=30) as slow,
    ):
        slow.sendall(begun)
        assert b"408 Request Timeout" in slow.recv(65536)


def test_an_unforeseen_error_is_told_to_the_log_and_ends_nothing(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    held.opened.set()
    with served(held) as client, caplog.at_level(logging.ERROR):
        said = client.post("/predict", {"inputs": "w13"})
        assert (said.status, said.body["error_type"]) == (500, "Backend")
        assert said.body["error"] == "unexpected ZeroDivisionError; the service's log tells where it happened"
        assert client.post("/predict", {"inputs": "w7"}).status == 200
    assert "in an engine's own words" in caplog.text


def test_requests_in_flight_are_answered_when_the_service_ends(held: Held) -> None:
    with ThreadPoolExecutor(1) as pool:
        with served(held) as client:
            running = pool.submit(client.post, "/predict", {"inputs": "w7"})
            assert held.entered.acquire(timeout=30)
            threading.Timer(0.3, held.opened.set).start()
        assert running.result().status == 200
        with pytest.raises(ConnectionRefusedError):
            client.get("/health")
