"""A service on a socket of its own, and what asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from engines.runner import Runner
from pipeline.serve.server import HttpServer, listen
from pipeline.serve.settings import Settings


@dataclass(frozen=True)
class Said:
    """A response: its status, its headers, and its body read as JSON."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Client:
    """Asks a service on this machine, with a connection for every request."""

    port: int

    def post(self, path: str, body: object, **headers: str) -> Said:
        """Sends a body: bytes as they are, an iterator of them in chunks, and anything else as JSON."""
        content = body if isinstance(body, bytes | Iterator) else json.dumps(body).encode()
        return self._ask("POST", path, content, {"content-type": "application/json", **headers})

    def get(self, path: str) -> Said:
        return self._ask("GET", path, None, {})

    def text(self, path: str) -> str:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def _ask(self, method: str, path: str, content: bytes | Iterator[bytes] | None, headers: dict[str, str]) -> Said:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            found = dict(response.getheaders())
            return Said(response.status, {n.lower(): v for n, v in found.items()}, json.loads(response.read()))
        finally:
            connection.close()


@contextmanager
def served(runner: Runner, **settings: Any) -> Iterator[Client]:
    """A service of a runner in a thread; ends as SIGTERM ends it."""
    with listen("127.0.0.1", 0) as listener:
        started = threading.Event()
        server = HttpServer(runner, Settings(runner.artifact.path, port=0, **settings), started.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert started.wait(60)
            yield Client(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
