"""Routes: OpenAI's API, monitoring, and the chat page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from entrypoints.serving.errors import ApiError
from entrypoints.serving.metrics import CONTENT_TYPE_LATEST, Metrics
from entrypoints.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Parsed,
    TokenizeRequest,
)
from entrypoints.serving.scheduler import describe
from entrypoints.serving.service import RunningRequest, Service
from paddle_stacks import __version__

__all__ = ["PAGE", "make"]

PAGE = Path(__file__).parent / "page"
"""The folder of the chat page, which is served as static files."""

_FRESH = {"Cache-Control": "no-cache"}
_DONE = b"data: [DONE]\n\n"
_ERRORS = {
    "description": "An error in OpenAI's format.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_ANSWERS = {
    "description": "The answer; with stream: true as server-sent events.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_STATUSES = (400, 401, 403, 404, 408, 413, 415, 421, 429, 500, 503, 504)


def make(service: Service, metrics: Metrics) -> FastAPI:
    """Return the application.

    Args:
        service: answers the requests.
        metrics: for ``/metrics``.
    """
    # FastAPI's documentation pages load scripts from other sites.
    app = FastAPI(title="paddle-stacks", version="v1", docs_url=None, redoc_url=None)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_fault)
    _add_answers(app, service)
    _add_tokens(app, service)
    _add_models(app, service)
    _add_watching(app, service, metrics)
    _add_page(app)
    _declare(app, service.model)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", **_posted(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """Answer a chat."""
        parsed = await _parsed(request, service, ChatRequest)
        _log_request(request, "messages", parsed)
        return await _answer(request, service, parsed)

    @app.post("/v1/completions", **_posted(CompletionRequest))
    async def completions(request: Request) -> Response:
        """Continue a text."""
        parsed = await _parsed(request, service, CompletionRequest)
        _log_request(request, "prompt", parsed)
        return await _answer(request, service, parsed)

    @app.api_route("/v1/responses", methods=["GET", "POST"], include_in_schema=False)
    @app.api_route("/v1/responses/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
    async def responses() -> Response:
        """Reject requests of the Responses API."""
        message = "this server has no Responses API: use POST /v1/chat/completions"
        raise ApiError(404, message, code="unsupported_api")


def _add_tokens(app: FastAPI, service: Service) -> None:
    """Add vLLM's routes for tokens."""

    @app.post("/tokenize", **_posted(TokenizeRequest, streams=False))
    async def tokenize(request: Request) -> Response:
        """Return the tokens of a text or a chat."""
        return JSONResponse(
            await service.tokenize(await _parsed(request, service, TokenizeRequest))
        )

    @app.post("/detokenize", **_posted(DetokenizeRequest, streams=False))
    async def detokenize(request: Request) -> Response:
        """Return the text of tokens."""
        return JSONResponse(
            await service.detokenize(await _parsed(request, service, DetokenizeRequest))
        )

    @app.get("/tokenizer_info", responses=dict.fromkeys((401, 403, 421, 429), _ERRORS))
    async def tokenizer_info() -> dict[str, Any]:
        """Return the special tokens that clients need to count tokens like the server."""
        return dict(service.encoder.special_tokens())


def _posted(kind: type[BaseModel], *, streams: bool = True) -> dict[str, Any]:
    """Return the OpenAPI description of a body that FastAPI does not parse."""
    answers = _ANSWERS if streams else {"description": "The answer."}
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    content = {"application/json": {"schema": schema}}
    return {
        "response_class": JSONResponse,
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "responses": {200: answers, **dict.fromkeys(_STATUSES, _ERRORS)},
    }


def _add_models(app: FastAPI, service: Service) -> None:
    entry = {
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "paddle-stacks",
        "max_model_len": service.bounds.context,
    }

    @app.get("/v1/models", responses={401: _ERRORS, 403: _ERRORS, 421: _ERRORS, 429: _ERRORS})
    async def models() -> dict[str, Any]:
        """Return the list of models."""
        return {"object": "list", "data": [entry]}

    @app.get(
        "/v1/models/{name:path}",
        responses=dict.fromkeys((401, 403, 404, 421, 429), _ERRORS),
    )
    async def model(name: str) -> dict[str, Any]:
        """Return one model."""
        if name != service.model:
            raise ApiError(404, f'the model "{name}" does not exist', code="model_not_found")
        return entry


def _add_watching(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/healthz", responses={500: {"description": "The engine has failed."}})
    async def healthz() -> JSONResponse:
        """Return whether the server works; if not, it must be restarted."""
        if service.engine.alive:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "the engine has ended"}, 500)

    @app.get("/health", response_class=Response, responses={500: {"description": "See /healthz."}})
    async def health() -> Response:
        """Return the same as a status only, like vLLM."""
        return Response(status_code=200 if service.engine.alive else 500)

    @app.get("/version")
    async def version() -> dict[str, str]:
        """Return the version of paddle-stacks."""
        return {"version": __version__}

    @app.get("/readyz", responses={503: {"description": "It accepts no new requests."}})
    async def readyz() -> JSONResponse:
        """Return whether the server accepts requests."""
        if service.engine.alive and not service.engine.draining:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "draining"}, 503)

    @app.get("/metrics", response_class=Response, responses={401: _ERRORS, 403: _ERRORS})
    async def show_metrics() -> Response:
        """Return Prometheus metrics."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        """Return the chat page."""
        return FileResponse(PAGE / "index.html", headers=_FRESH)

    app.mount("/page", _Files(directory=PAGE))


def _declare(app: FastAPI, model: str) -> None:
    """Add the request bodies to the OpenAPI document."""
    document = app.openapi()
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Error"] = _ERROR_SCHEMA
    kinds: tuple[type[BaseModel], ...] = (
        ChatRequest,
        CompletionRequest,
        TokenizeRequest,
        DetokenizeRequest,
    )
    for kind in kinds:
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schema["properties"]["model"]["enum"] = [model]
        schemas[kind.__name__] = schema


async def _json_body(request: Request) -> bytes:
    """Return the body of a request with the content type JSON.

    Another site's page can make a browser send forms or plain text without permission, but not
    JSON, which requires a successful preflight request.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be JSON, with Content-Type: application/json")
    return await request.body()


async def _parsed(request: Request, service: Service, kind: type[Parsed]) -> Parsed:
    parsed, unknown = await service.parse(await _json_body(request), kind)
    if unknown:
        request.scope["state"]["log_fields"]["ignored_fields"] = unknown
    return parsed


def _log_request(request: Request, field: str, parsed: ChatRequest | CompletionRequest) -> None:
    fields: dict[str, Any] = request.scope["state"]["log_fields"]
    fields["stream"] = bool(parsed.stream)
    if request.scope["state"]["log_prompts"]:
        fields[field] = parsed.model_dump(mode="json", exclude_unset=True)[field]


async def _answer(
    request: Request, service: Service, parsed: ChatRequest | CompletionRequest
) -> Response:
    client = request.scope["state"]["log_fields"].get("key") or ""
    running = await service.begin(parsed, client)
    try:
        async with _watched(request, running):
            if parsed.stream:
                stream = running.stream()
                first = await anext(stream, None)
            else:
                response = await running.whole()
    except BaseException:
        _close(request, running)
        raise
    if parsed.stream and not running.failed:
        return _Stream(request, running, first, stream)
    _close(request, running)
    # 499 is nginx's status for a disconnected client, who does not receive it.
    return Response(status_code=499) if running.failed else JSONResponse(response)


def _close(request: Request, running: RunningRequest) -> None:
    """Cancel unfinished answers, and add the result to the log."""
    running.cancel()
    fields: dict[str, Any] = request.scope["state"]["log_fields"]
    fields |= running.usage
    fields["finish_reasons"] = [answer.finish_reason for answer in running.answers]
    if running.failed:
        fields["failed"] = running.failed


@asynccontextmanager
async def _watched(request: Request, running: RunningRequest) -> AsyncIterator[None]:
    """Cancel a request when its client disconnects."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        running.leave()

    watcher = asyncio.create_task(wait())
    try:
        yield
    finally:
        watcher.cancel()


class _Stream(Response):
    """A stream of objects as server-sent events.

    Args:
        request: the HTTP request.
        running: the submitted request.
        first: the first object.
        rest: the following objects; None marks the end of a complete stream.
    """

    def __init__(
        self,
        request: Request,
        running: RunningRequest,
        first: dict[str, Any] | None,
        rest: AsyncIterator[dict[str, Any] | None],
    ) -> None:
        self.status_code = 200
        self.background = None
        self._request = request
        self._conversation = running
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        # Otherwise a proxy could buffer the stream.
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with _watched(self._request, self._conversation):
                await send(_part(_event(self._first)))
                async for chunk in self._rest:
                    await send(_part(_event(chunk)))
        except ApiError as error:
            self._request.scope["state"]["log_fields"] |= error.log_fields()
            await send(_part(_event(error.body())))
        finally:
            _close(self._request, self._conversation)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _part(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _event(chunk: dict[str, Any] | None) -> bytes:
    if chunk is None:
        return _DONE
    return (
        b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


class _Files(StaticFiles):
    """The files of the chat page, which browsers must revalidate."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Return a file."""
        response = super().file_response(*args, **options)
        response.headers.update(_FRESH)
        return response


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.scope["state"]["log_fields"] |= error.log_fields()
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _on_fault(request: Request, error: Exception) -> Response:
    """Return an error 500; the log has the details."""
    fault = ApiError(500, "the server failed; see its log", cause=describe(error))
    request.scope["state"]["log_fields"] |= fault.log_fields()
    return JSONResponse(fault.body(), fault.status)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"{request.method} {request.url.path[:100]} does not exist; see /openapi.json",
        405: f"{request.method} is not allowed here",
    }
    message = messages.get(error.status_code, str(error.detail))
    refusal = ApiError(error.status_code, message)
    request.scope["state"]["log_fields"] |= refusal.log_fields()
    return JSONResponse(refusal.body(), error.status_code, headers=error.headers)
