"""python -m pipeline.serve: what cannot be used is refused at once, and SIGTERM loses no request."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines.runner import Runner
from pipeline.serve.server import listen
from tests.gates.builds import run_verb
from tests.serve.serving import Client

ROOT = Path(__file__).parents[2]
RunnerOf = Callable[[str], Runner]
serve = importlib.import_module("pipeline.serve.__main__")


@pytest.fixture(scope="session")
def artifact(runner_of: RunnerOf) -> Path:
    return runner_of("classification").artifact.path


@contextmanager
def process(artifact: Path, *flags: object) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """The verb in a process of its own, ready."""
    command = [sys.executable, "-m", "pipeline.serve", artifact, "--port", 0, "--threads", 1, "--json", *flags]
    running = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    with running:
        try:
            assert running.stdout is not None
            said = json.loads(running.stdout.readline())
            assert said["artifact"] == str(artifact)
            yield running, Client(int(said["url"].rpartition(":")[2]))
        finally:
            running.kill()


def test_sigterm_ends_it_when_what_is_in_flight_is_answered(artifact: Path) -> None:
    with process(artifact, "--max-wait-ms", 3000) as (running, client), ThreadPoolExecutor(1) as pool:
        waits = pool.submit(client.post, "/predict", {"inputs": "w7 w8"})
        while "skimrt_queue_texts 1.0" not in client.text("/metrics"):
            assert not waits.done()
        running.send_signal(signal.SIGTERM)
        assert waits.result().status == 200
        assert (running.wait(30), *running.communicate()) == (0, "", "")


def test_an_interrupted_service_ends_as_an_interrupted_verb_does(artifact: Path) -> None:
    with process(artifact) as (running, client):
        assert client.get("/ready").status == 200
        running.send_signal(signal.SIGINT)
        assert (running.wait(30), *running.communicate()) == (130, "", "")


def test_replicas_answer_together_and_one_that_dies_comes_back(artifact: Path) -> None:
    with process(artifact, "--replicas", 2) as (running, client):
        children = [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
        for _ in range(20):
            assert client.post("/predict", {"inputs": ["w7", "w8"]}).status == 200
        assert 'skimrt_texts_total{outcome="answered"} 40.0' in client.text("/metrics")  # of both, whichever is asked
        os.kill(max(children), signal.SIGKILL)
        assert running.stderr is not None
        assert "ended with -9; started anew" in running.stderr.readline()
        assert client.post("/predict", {"inputs": "w7"}).status == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--port", 70000), "--port: expected 0 to 65535, found 70000"),
        (("--queue", 5), "--queue: expected at least --max-texts 256, found 5"),
        (("--host", "256.1.1.1"), "cannot listen there"),
        (("--provider", "abacus", "--port", 0), "provider 'abacus'"),
        (("--threshold", 2), "threshold: expected 0 to 1, found 2"),
    ],
)
def test_what_cannot_be_used_is_refused(
    artifact: Path, capsys: pytest.CaptureFixture[str], flags: tuple, message: str
) -> None:
    assert run_verb(serve, artifact, *flags) == 2
    assert message in capsys.readouterr().err


def test_all_wrong_flags_are_named_at_once(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--max-batch", 0, "--replicas", 0, "--timeout", 0, "--max-wait-ms", -1)
    assert run_verb(serve, artifact, *flags) == 2
    said = capsys.readouterr().err
    assert all(f"{flag}: expected" in said for flag in flags[::2])


def test_no_artifact_and_a_port_that_is_taken_are_refused(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_verb(serve, tmp_path, "--port", port) == 2
        assert "manifest.json" in capsys.readouterr().err
        assert run_verb(serve, artifact, "--port", port) == 2
        assert (
            f"--port {port}: cannot listen there: Address already in use; name another one" in capsys.readouterr().err
        )


def test_an_accepted_connection_sends_at_once() -> None:
    """Else every answer over a connection that stays open takes 40 ms more."""
    with listen("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
