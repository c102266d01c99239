"""The routes of the service."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from engines.errors import InputError, SkimError
from engines.inputs import Input, text_of_item
from engines.prediction import SampleResult
from engines.reranking import best_first, refuse_other_use
from engines.runner import Runner
from engines.service import Read, Service
from engines.tokenization import Text
from engines.version import __version__
from pipeline.serve.guard import Guard
from pipeline.serve.info import info_of
from pipeline.serve.metrics import Metrics
from pipeline.serve.requests import EmbeddingsRequest, EmbedRequest, PredictRequest, RerankRequest
from pipeline.serve.responses import RefusedError, add_handlers
from pipeline.serve.settings import Settings

_NOTHING_SENT = {"auto_configure": False, "tracing": False, "metrics": False, "logs": False}
"""Newer FastAPIs export to where OpenTelemetry's variables say; older ones take the setting and ignore it."""


def create_app(runner: Runner, settings: Settings) -> FastAPI:
    """The application; its lifespan opens and closes the service. Pages from elsewhere, such as Swagger's, are off."""
    metrics = Metrics()
    service = Service(
        runner,
        max_wait=settings.max_wait,
        batch=settings.batch,
        queue=settings.queue,
        observe=metrics.observe,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="SkimRT",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=_NOTHING_SENT,  # type: ignore[arg-type]
    )
    add_handlers(app)
    asker = Asker(runner, service, settings)
    _add_answers(app, asker)
    _add_ranking(app, asker)
    _add_state(app, asker, metrics)
    paths = frozenset(app.openapi()["paths"])
    app.add_middleware(Guard, metrics=metrics, size=settings.size, timeout=settings.timeout, paths=paths)
    return app


class Asker:
    """Brings the texts of a request to the service."""

    def __init__(self, runner: Runner, service: Service, settings: Settings) -> None:
        self.runner, self.service, self.settings = runner, service, settings

    async def __call__(self, texts: Sequence[Any], truncate: bool, read: Read) -> list[Any]:
        """What `read` makes of every text's result, or the text's error. Raises RefusedError for too many texts."""
        most = self.settings.texts
        if len(texts) > most:
            raise RefusedError(413, f"texts: expected at most {most}, found {len(texts)}; send fewer")
        inputs = [Input(text, number, truncate) for number, text in enumerate(texts, 1)]
        return await asyncio.wrap_future(self.service.ask(inputs, read))

    async def all_of(self, texts: Sequence[Text], truncate: bool, read: Read) -> list[Any]:
        """The same, where one bad text refuses the request. Raises InputError with all problems."""
        found = await self(texts, truncate, read)
        refuse_bad(found)
        return found

    async def embeddings(self, texts: str | list[str], truncate: bool) -> list[SampleResult]:
        """The results of an embedder. Raises InputError for another model."""
        if (kind := self.runner.manifest.head.kind) != "embedding":
            raise InputError(f"expected an artifact that embeds, found a {kind} model; ask /predict")
        return await self.all_of([texts] if isinstance(texts, str) else texts, truncate, _only)


def refuse_bad(answers: Sequence[Any]) -> None:
    """Raises what is wrong with the texts: InputError for all that are bad, or the first other error."""
    errors = [answer for answer in answers if isinstance(answer, SkimError)]
    for error in errors:
        if not isinstance(error, InputError):
            raise error
    if errors:
        raise InputError.listing("request", [str(error) for error in errors])


def _add_answers(app: FastAPI, ask: Asker) -> None:
    def read(results: list[SampleResult]) -> dict[str, object]:
        return ask.runner.read(results).record()

    @app.post("/predict")
    async def predict(request: PredictRequest) -> JSONResponse:
        """What the model says of every text, as `skimrt run` prints it; of a bad one, its error."""
        items = request.inputs if isinstance(request.inputs, list) else [request.inputs]
        found = await ask([text_of_item(item) for item in items], request.truncate, read)
        if request.on_error == "raise":
            refuse_bad(found)
        told = [{"error": str(one)} if isinstance(one, SkimError) else one for one in found]
        return JSONResponse({"predictions": told, "errors": sum(isinstance(one, SkimError) for one in found)})

    @app.post("/embed")
    async def embed(request: EmbedRequest) -> JSONResponse:
        """An embedding of every text, as Text Embeddings Inference gives them."""
        vectors = [result.logits for result in await ask.embeddings(request.inputs, request.truncate)]
        if request.normalize:
            vectors = [vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in vectors]
        return JSONResponse([vector.tolist() for vector in vectors])

    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingsRequest) -> JSONResponse:
        """An embedding of every text, as OpenAI gives them."""
        results = await ask.embeddings(request.input, truncate=False)
        data = [
            {"object": "embedding", "index": n, "embedding": request.encoded(result.logits)}
            for n, result in enumerate(results)
        ]
        tokens = sum(result.length for result in results)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        model = ask.settings.artifact.resolve().name
        return JSONResponse({"object": "list", "data": data, "model": model, "usage": usage})


def _add_ranking(app: FastAPI, ask: Asker) -> None:
    @app.post("/rerank")
    async def rerank(request: RerankRequest) -> JSONResponse:
        """The texts by their score for the query, best first, as Text Embeddings Inference gives them."""
        refuse_other_use(ask.runner.manifest.head, request.query, request.texts, request.top_n)
        pairs = [(request.query, text) for text in request.texts]
        results = await ask.all_of(pairs, request.truncate, _only)
        ranks: list[dict[str, Any]] = []
        for index, score in best_first(results, request.top_n):
            ranks.append({"index": index, "score": score if request.raw_scores else _sigmoid(score)})
            if request.return_text:
                ranks[-1]["text"] = request.texts[index]
        if request.return_context:
            found = await asyncio.to_thread(ask.runner.rank, request.query, request.texts, results, request.top_n)
            for rank, one in zip(ranks, found, strict=True):
                rank["context"] = one.context
        return JSONResponse(ranks)


def _add_state(app: FastAPI, ask: Asker, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        """The process lives."""
        return JSONResponse({"status": "alive"})

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Engines are loaded and texts are taken; 503 otherwise."""
        return JSONResponse({"ready": ask.service.ready}, 200 if ask.service.ready else 503)

    @app.get("/info")
    async def info() -> JSONResponse:
        """The artifact in short, what runs it, and the limits."""
        return JSONResponse(info_of(ask.runner, ask.settings))

    @app.get("/metrics")
    async def figures() -> Response:
        """All figures for Prometheus."""
        metrics.waiting.set(ask.service.waiting)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _only(results: list[SampleResult]) -> SampleResult:
    """The result of a text that is not read in windows."""
    (result,) = results
    return result


def _sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))
