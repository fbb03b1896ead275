"""The routes of `mtfrun serve`, an ASGI application of Starlette."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import numpy as np
import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from mtfrun.errors import InputError
from mtfrun.errors.checks import Range
from mtfrun.experiment import Classification
from mtfrun.extras.serving.completions import Completion
from mtfrun.extras.serving.fields import Fields, RequestError, refusal_of
from mtfrun.extras.serving.generation import (
    MOST_PROMPTS,
    Generation,
    Limits,
    read_chat,
    read_completion,
    read_texts,
)
from mtfrun.extras.serving.middleware import Gate, Metrics
from mtfrun.extras.serving.served_model import ServedModel
from mtfrun.extras.vision import Segmentation

_PAGE = pathlib.Path(__file__).parent / "page.html"

# A page may load nothing, and may talk to this server only.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_app(model: ServedModel, limits: Limits, token: str | None) -> Starlette:
    """Returns the application; with a token requests must have it, else come from this machine."""
    metrics = Metrics(model.engine)
    routes = _Routes(model, limits, metrics)
    return Starlette(
        routes=routes.table(),
        middleware=[Middleware(Gate, token, limits, metrics)],
        exception_handlers=dict.fromkeys(
            (HTTPException, RequestError, InputError, Exception), _refuse
        ),
        lifespan=routes.lifespan,
    )


async def _refuse(_: Request, error: Exception) -> Response:
    response = refusal_of(error).response()
    response.headers.update(getattr(error, "headers", None) or {})
    return response


class _Routes:
    def __init__(self, model: ServedModel, limits: Limits, metrics: Metrics):
        self._model, self._limits, self._metrics = model, limits, metrics

    def table(self) -> list[Route]:
        return [
            Route("/", self._page),
            Route("/health", self._health),
            Route("/metrics", self._show_metrics),
            Route("/v1/models", self._models),
            Route("/v1/models/{name}", self._models),
            self._post("/v1/completions", self._generate(read_completion)),
            self._post("/v1/chat/completions", self._generate(read_chat)),
            self._post("/v1/embeddings", self._embed),
            self._post("/score", self._score),
            self._post("/classify", self._classify),
            self._post("/segment", self._segment),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._model.running():
            yield

    async def _page(self, _: Request) -> Response:
        page = _PAGE.read_text(encoding="utf-8")
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    async def _health(self, _: Request) -> Response:
        model = self._model
        status, code = ("ok", 200) if model.is_running else ("failed", 503)
        facts = {"model": model.name, "step": model.step, "adapter": model.adapter}
        return JSONResponse({"status": status, **facts, "features": model.features}, code)

    async def _show_metrics(self, _: Request) -> Response:
        text = prometheus_client.generate_latest(self._metrics.registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def _models(self, request: Request) -> Response:
        name = request.path_params.get("name")
        model = {"id": self._model.name, "object": "model", "created": 0, "owned_by": "mtfrun"}
        if name is None:
            return JSONResponse({"object": "list", "data": [model]})
        self._check_model(name)
        return JSONResponse(model)

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self._model.name):
            raise RequestError(f"there is no model {name!r}: this is {self._model.name!r}", 404)

    def _post(self, path: str, answer: Callable[[Fields], Awaitable[Response]]) -> Route:
        async def respond(request: Request) -> Response:
            fields = Fields(await request.body())
            self._check_model(fields.text("model"))
            return await _unless_disconnected(request, answer(fields))

        return Route(path, respond, methods=["POST"])

    def _generate(
        self, read: Callable[[Fields, Limits], Generation]
    ) -> Callable[[Fields], Awaitable[Response]]:
        async def answer(fields: Fields) -> Response:
            prepared = await self._model.prepare(read(fields, self._limits))
            self._metrics.prompt_tokens.inc(prepared.prompt_tokens)
            completion = Completion(self._model, prepared, self._metrics.output_tokens.inc)
            if not prepared.generation.streams:
                return JSONResponse(await completion.whole())
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return _Events(completion.events(), media_type="text/event-stream", headers=headers)

        return answer

    async def _embed(self, fields: Fields) -> Response:
        fields.refuse("dimensions")
        fields.get("user")
        encoding = fields.text("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise fields.error("encoding_format", "must be float or base64")
        texts = read_texts(fields, "input")
        fields.check_names()
        vectors, tokens = await self._model.vectors(texts)

        def encode(vector: np.ndarray) -> object:
            if encoding == "float":
                return vector.tolist()
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()

        data = [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        name = self._model.name
        return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})

    async def _score(self, fields: Fields) -> Response:
        entries = fields.get("pairs")
        fields.check_names()
        if not isinstance(entries, list):
            raise fields.error("pairs", 'must be a list of {"input": TEXT, "target": TEXT}')
        fields.check_count("pairs", entries, MOST_PROMPTS)
        scores = await self._model.scores([_pair(entry) for entry in entries])
        return JSONResponse({"scores": [score._asdict() for score in scores]})

    async def _classify(self, fields: Fields) -> Response:
        top_k = fields.number("top_k", Range(1, 1000, whole=True))
        if ("texts" in fields) == ("images" in fields):
            raise RequestError('send either "texts", or "images": each a file in base64')
        fields.check_names()
        if "texts" in fields:
            texts = fields.texts("texts", MOST_PROMPTS)
            return JSONResponse({"predictions": await self._model.classify_texts(texts)})
        records = await self._model.images(Classification, self._images(fields), top_k)
        return JSONResponse({"predictions": [record.fields for record in records]})

    async def _segment(self, fields: Fields) -> Response:
        images = self._images(fields)
        fields.check_names()
        predictions = []
        for record in await self._model.images(Segmentation, images):
            (mask,) = record.files.values()
            predictions.append({**record.fields, "mask": base64.b64encode(mask).decode()})
        return JSONResponse({"predictions": predictions})

    def _images(self, fields: Fields) -> list[bytes]:
        images = fields.texts("images", MOST_PROMPTS)
        try:
            return [base64.b64decode(image, validate=True) for image in images]
        except ValueError as error:
            raise RequestError(f"an image is not base64: {error}", field="images") from error


def _pair(entry: object) -> tuple[bytes, bytes]:
    texts = [entry.get(name, "") for name in ("input", "target")] if isinstance(entry, dict) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise RequestError('pairs has an entry that is not {"input": TEXT, "target": TEXT}')
    source, target = texts
    return source.encode(), target.encode()


class _Events(StreamingResponse):
    """Closes its events when the client goes away."""

    body_iterator: AsyncGenerator[str]

    async def stream_response(self, send: Send) -> None:
        async with contextlib.aclosing(self.body_iterator):
            await super().stream_response(send)


async def _unless_disconnected(request: Request, answer: Awaitable[Response]) -> Response:
    """Returns the answer; cancels it if the client goes away."""

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, gone = asyncio.ensure_future(answer), asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        # nginx's code of a client that has gone, for the metrics.
        return work.result() if work.done() else Response(status_code=499)
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.wait({work, gone})
