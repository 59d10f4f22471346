"""OpenAI's embeddings over HTTP."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, field_validator

from .batching import Batcher, ClosedError, Limits, OverloadedError
from .embedder import Embedder
from .metrics import Metrics

MOST_INPUTS = 2048  # as OpenAI has it


class ApiError(Exception):
    """What a client is told, in OpenAI's form."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def response(self) -> JSONResponse:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        said = {"message": str(self), "type": kind, "param": self.param, "code": self.code or None}
        headers = {"Retry-After": "1"} if self.status in (429, 503) else None
        return JSONResponse({"error": said}, self.status, headers)


class EmbeddingsRequest(BaseModel):
    """OpenAI's, but for token ids as input: a client's tokens may not be the model's."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _texts(cls, given: Any) -> Any:
        texts = given if isinstance(given, list) else [given]
        if not 0 < len(texts) <= MOST_INPUTS:
            raise ValueError(f"{len(texts)} texts: give 1 to {MOST_INPUTS}")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise ValueError(f"text {index} is of type {kind}: give a string or a list of them")
            if not text.strip():
                raise ValueError(f"text {index} is empty")
        return given


def create_app(embedder: Embedder, limits: Limits | None = None) -> FastAPI:
    """The server of one model."""
    metrics = Metrics()
    batcher = Batcher(embedder.embed, limits or Limits(), metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batches = asyncio.create_task(batcher.run())
        yield
        # uvicorn has waited for the requests in flight before.
        batcher.close()
        await batches

    app = FastAPI(title="prefilltune embeddings", lifespan=lifespan)

    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingsRequest) -> Response:
        _check(request, embedder)
        texts = [request.input] if isinstance(request.input, str) else request.input
        sequences = await asyncio.to_thread(embedder.tokenize, texts)
        _check_lengths(sequences, embedder.max_length)
        try:
            vectors = await batcher.submit(sequences)
        except OverloadedError:
            raise ApiError(
                429, "too much waits to be computed: try again", None, "overloaded"
            ) from None
        except ClosedError:
            raise ApiError(503, "the server is going down", None, "closed") from None
        form = _base64 if request.encoding_format == "base64" else np.ndarray.tolist
        tokens = sum(map(len, sequences))
        data = [
            {"object": "embedding", "index": index, "embedding": form(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse(
            {"object": "list", "data": data, "model": embedder.name, "usage": usage}
        )

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": embedder.name, "object": "model", "created": 0, "owned_by": "prefilltune"}
        return {"object": "list", "data": [model]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(ApiError)
    async def told(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(each for each in first["loc"][1:] if isinstance(each, str)) or None
        message = first["msg"].removeprefix("Value error, ")
        return ApiError(400, f"{param or 'the body'}: {message}", param).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return ApiError(500, "it could not be computed; the server's log says why").response()

    return app


def _check(request: EmbeddingsRequest, embedder: Embedder) -> None:
    if request.model not in (None, embedder.name):
        raise ApiError(
            404,
            f"there is no model {request.model!r} here: {embedder.name!r} is served",
            "model",
            "model_not_found",
        )
    if request.dimensions not in (None, embedder.size):
        raise ApiError(
            400,
            f"vectors of {embedder.name} have {embedder.size} dimensions: leave dimensions away",
            "dimensions",
        )


def _check_lengths(sequences: Sequence[Sequence[int]], longest: int) -> None:
    for index, ids in enumerate(sequences):
        if len(ids) > longest:
            raise ApiError(
                400,
                f"text {index} has {len(ids)} tokens, the model takes {longest}: shorten it, or "
                "start the server with --truncate",
                "input",
                "context_length_exceeded",
            )


def _base64(vector: np.ndarray) -> str:
    """Of float32, the first byte the least, as OpenAI's clients read it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
