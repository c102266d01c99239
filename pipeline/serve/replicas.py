"""Several processes that accept from one socket, each with a runner and a queue of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

from prometheus_client.multiprocess import mark_process_dead

from engines.errors import SkimError
from pipeline.serve.metrics import SHARED
from pipeline.serve.server import serve
from pipeline.serve.settings import Settings

_LOOK = 0.2
"""Seconds between two looks at the processes."""


def serve_replicas(settings: Settings, listener: socket.socket, started: Callable[[], None]) -> int:
    """Serves until SIGTERM or Ctrl-C, then lets every replica finish; returns 0, or 130 for Ctrl-C.

    A replica that dies is started anew; where one cannot even start, all end, and its exit code is returned. Their
    figures add up in a folder that is removed at the end.
    """
    with _added_figures(), _signals() as caught:
        replicas = [_Replica(settings, listener) for _ in range(settings.replicas)]
        try:
            told = False
            while not caught:
                if not told and all(replica.ready.is_set() for replica in replicas):
                    told = True
                    started()
                connection.wait([replica.process.sentinel for replica in replicas], timeout=_LOOK)
                for place, replica in enumerate(replicas):
                    if replica.process.is_alive() or caught:
                        continue
                    if not replica.ready.is_set():
                        return replica.process.exitcode or 1
                    print(f"replica {place} ended with {replica.process.exitcode}; started anew", file=sys.stderr)
                    mark_process_dead(replica.process.pid)
                    replicas[place] = _Replica(settings, listener)
        finally:
            listener.close()
            for replica in replicas:
                replica.process.terminate()
            for replica in replicas:
                replica.process.join(settings.grace + 5)
                replica.process.kill()
                replica.process.join()
        return 130 if caught[0] == signal.SIGINT else 0


class _Replica:
    """A process that serves, and whether it has begun to."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        context = get_context("spawn")  # a fork would copy what the libraries' threads hold
        self.ready: Event = context.Event()
        self.process: BaseProcess = context.Process(target=_run, args=(settings, listener, self.ready))
        self.process.start()


def _run(settings: Settings, listener: socket.socket, ready: Event) -> None:
    try:
        runner = settings.runner()
    except SkimError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(serve(runner, settings, listener, ready.set))


@contextmanager
def _added_figures() -> Iterator[None]:
    os.environ[SHARED] = tempfile.mkdtemp(prefix="skimrt-metrics-")
    try:
        yield
    finally:
        shutil.rmtree(os.environ.pop(SHARED), ignore_errors=True)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that ask it to end, as they come."""
    caught: list[int] = []
    before = {n: signal.signal(n, lambda n, _: caught.append(n)) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
