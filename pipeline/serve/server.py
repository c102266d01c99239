"""uvicorn: listens, and ends without losing a request."""

from __future__ import annotations

import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from engines.errors import InputError
from engines.runner import Runner
from pipeline.serve.app import create_app
from pipeline.serve.settings import Settings

_CONNECTIONS = 2048
"""Open at a time; each may hold the body of a request."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts nothing yet; port 0 takes a free one. Raises InputError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted connections inherit it. Without it, the body of an answer waits 40 ms for the acknowledgement of
            # its headers; asyncio sets it only where the protocol of the socket is named.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind((host, port))
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there: {error.strerror or error}; name another one, port 0 "
            "takes a free one"
        ) from None
    listener.set_inheritable(True)
    return listener


def serve(runner: Runner, settings: Settings, listener: socket.socket, started: Callable[[], None]) -> int:
    """Serves until SIGTERM or Ctrl-C, then finishes what is in flight; returns 0, or 130 for Ctrl-C."""
    server = HttpServer(runner, settings, started)
    server.run([listener])
    return 130 if server.ended_by == signal.SIGINT else 0


class HttpServer(uvicorn.Server):
    """Ends at a signal and keeps it to itself: whoever asked it to end gets an exit code that says it did.

    started: is called when it accepts.
    """

    def __init__(self, runner: Runner, settings: Settings, started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(runner, settings),
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=math.ceil(settings.grace),
            )
        )
        self._tell, self.ended_by = started, 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, and says so."""
        await super().startup(sockets)
        self._tell()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes SIGTERM and Ctrl-C while it serves; in another thread than the main one none come."""
        numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remembers the first signal; a second Ctrl-C does not wait."""
        self.ended_by = self.ended_by or sig
        super().handle_exit(sig, frame)
