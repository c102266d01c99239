"""Errors as JSON: one line that says what is wrong, what was expected, what was found and what to do."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from engines.errors import InputError, SkimError
from engines.service import ClosedError, OverloadedError

_KINDS = {404: "NotFound", 405: "NotFound", 413: "Validation", 415: "Validation", 422: "Validation"} | {
    429: "Overloaded",
    503: "Unavailable",
    408: "Timeout",
}
"""Names of errors, mostly those of Text Embeddings Inference; any other is "Backend"."""
_LOG = logging.getLogger("skimrt")


class RefusedError(SkimError):
    """A request that is answered with a status of its own, before it is read or because it took too long."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def error_response(path: str, status: int, message: str, retry_after: int | None = None) -> JSONResponse:
    """The error of a request; below /v1 in OpenAI's form, else in that of Text Embeddings Inference."""
    kind = _KINDS.get(status, "Backend")
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    if path.startswith("/v1/"):
        return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status, headers)
    return JSONResponse({"error": message, "error_type": kind}, status, headers)


def refusal(path: str, error: BaseException) -> JSONResponse:
    """What is answered to an error that was raised; what nobody foresaw is in the log, not in the answer."""
    if isinstance(error, RefusedError):
        return error_response(path, error.status, str(error), error.retry_after)
    if isinstance(error, OverloadedError):
        return error_response(path, 429, str(error), error.retry_after)
    if isinstance(error, ClosedError):
        return error_response(path, 503, str(error), 1)
    if isinstance(error, InputError):
        return error_response(path, 422, str(error))
    if isinstance(error, SkimError):
        return error_response(path, 500, str(error))
    _LOG.error("%s failed", path, exc_info=error)
    return error_response(path, 500, f"unexpected {type(error).__name__}; the service's log tells where it happened")


def add_handlers(app: FastAPI) -> None:
    """Answers every error of the application in JSON."""

    async def raised(request: Request, error: Exception) -> JSONResponse:
        return refusal(request.url.path, error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(request.url.path, 422, str(InputError.listing("request", _problems(error))))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        status, message = error.status_code, str(error.detail)
        if status in (404, 405):
            paths = ", ".join(sorted(app.openapi()["paths"]))
            phrase = HTTPStatus(status).phrase.lower()
            message = f"{request.method} {request.url.path}: {phrase}; expected one of {paths} (/openapi.json)"
        elif status == 400:
            status, message = 422, "body: expected JSON, found something that cannot be read as such"
        return error_response(request.url.path, status, message)

    app.add_exception_handler(SkimError, raised)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _problems(error: RequestValidationError) -> list[str]:
    """One line for each wrong field: where, what was expected, what was found."""
    lines = []
    for one in error.errors():
        where = ".".join(str(part) for part in one["loc"])
        if one["type"] == "json_invalid":
            lines.append(f"body: expected JSON, found an error at character {one['loc'][-1]}: {one['ctx']['error']}")
            continue
        found = "" if one["type"] == "missing" else f", found {one.get('input')!r:.80}"
        lines.append(f"{where}: {one['msg'][:1].lower()}{one['msg'][1:]}{found}")
    return lines
