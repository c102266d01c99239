"""What stands in front of the application: bounds of size and time, and what is counted of every request."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serve.metrics import Metrics
from pipeline.serve.responses import RefusedError, refusal

_GONE = 499
"""The status that is counted where a client did not wait for its answer."""


class Guard:
    """Refuses bodies of more than `size` bytes, of another type than JSON, and what takes more than `timeout` seconds.

    The texts of a client that hangs up leave the queue. paths: those that are counted by name.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, size: int, timeout: float, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._size, self._timeout, self._paths = app, metrics, size, timeout, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application for one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), _GONE

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._refuse(scope)
            body = await self._body(receive)
            if body is not None:
                await self._answer(scope, body, receive, sending, started + self._timeout - time.perf_counter())
        except Exception as error:
            if status != _GONE:  # the answer has begun: the connection is closed, and the log has why
                raise
            await refusal(scope["path"], error)(scope, receive, sending)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.latency.labels(path).observe(time.perf_counter() - started)

    def _refuse(self, scope: Scope) -> None:
        """Raises RefusedError for what the header tells already."""
        if scope["method"] != "POST":
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._size:
            raise self._too_large(length)
        kind = headers.get("content-type", "none").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, f"content-type: expected application/json, found {kind:.80}; send it as a header")

    async def _body(self, receive: Receive) -> bytes | None:
        """All of the body; None of a client that has hung up. Raises RefusedError."""
        body = bytearray()

        async def read() -> bool:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                body.extend(message.get("body", b""))
                if len(body) > self._size:
                    raise self._too_large(f"more than {self._size}")
                if not message.get("more_body", False):
                    return True

        try:
            whole = await asyncio.wait_for(read(), self._timeout)
        except asyncio.TimeoutError:
            late = f"body: expected all of it within {self._timeout:g} s, found {len(body)} bytes; send it faster"
            raise RefusedError(408, late) from None
        return bytes(body) if whole else None

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send, seconds: float) -> None:
        """Runs the application on a body that is there. Raises RefusedError where it takes too long."""

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        answer = asyncio.ensure_future(self._app(scope, again, send))
        gone = asyncio.ensure_future(receive())  # behind the body nothing comes but the end of the connection
        try:
            done, _ = await asyncio.wait({answer, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer in done:
                answer.result()
            elif not done:
                late = f"no answer within {self._timeout:g} s; try again, with fewer texts at a time"
                raise RefusedError(503, late, retry_after=1)
        finally:
            for task in (answer, gone):
                task.cancel()

    def _too_large(self, found: str) -> RefusedError:
        return RefusedError(
            413, f"body: expected at most {self._size} bytes, found {found}; send fewer texts at a time"
        )
