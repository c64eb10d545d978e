"""The routes: OpenAI's API, what watches a server, and the chat page."""

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
from entrypoints.serving.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Parsed,
    TokenizeRequest,
)
from entrypoints.serving.scheduler import describe
from entrypoints.serving.service import Conversation, Service
from paddle_stacks import __version__

__all__ = ["PAGE", "make"]

PAGE = Path(__file__).parent / "page"
"""The chat page: files that are served as they are."""

_FRESH = {"Cache-Control": "no-cache"}
_DONE = b"data: [DONE]\n\n"
_ERRORS = {
    "description": "An error, as OpenAI's API has it.",
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
        service: answers requests.
        metrics: that ``/metrics`` shows.
    """
    # FastAPI's own pages of documentation load scripts from elsewhere.
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
        """Answer a conversation."""
        parsed = await _parsed(request, service, ChatRequest)
        _log_request(request, "messages", parsed)
        return await _answer(request, service, parsed)

    @app.post("/v1/completions", **_posted(CompletionRequest))
    async def completions(request: Request) -> Response:
        """Go on with a text."""
        parsed = await _parsed(request, service, CompletionRequest)
        _log_request(request, "prompt", parsed)
        return await _answer(request, service, parsed)

    @app.api_route("/v1/responses", methods=["GET", "POST"], include_in_schema=False)
    @app.api_route("/v1/responses/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
    async def responses() -> Response:
        """Refuse the Responses API, which this server does not have."""
        message = "this server has no Responses API: use POST /v1/chat/completions"
        raise ApiError(404, message, code="unsupported_api")


def _add_tokens(app: FastAPI, service: Service) -> None:
    """Add vLLM's routes for tokens."""

    @app.post("/tokenize", **_posted(TokenizeRequest, streams=False))
    async def tokenize(request: Request) -> Response:
        """Return the tokens of a text or a conversation."""
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
        """Return the special tokens that a client needs to count as the server does."""
        return dict(service.encoder.special_tokens())


def _posted(kind: type[BaseModel], *, streams: bool = True) -> dict[str, Any]:
    """Return what a route tells FastAPI of a body that it does not read itself."""
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
        """Return the models there are."""
        return {"object": "list", "data": [entry]}

    @app.get(
        "/v1/models/{name:path}",
        responses=dict.fromkeys((401, 403, 404, 421, 429), _ERRORS),
    )
    async def model(name: str) -> dict[str, Any]:
        """Return one of them."""
        if name != service.model:
            raise ApiError(404, f'the model "{name}" does not exist', code="model_not_found")
        return entry


def _add_watching(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/healthz", responses={500: {"description": "It does not compute any more."}})
    async def healthz() -> JSONResponse:
        """Say whether the server works; it has to be started again where it does not."""
        if service.engine.alive:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "the engine has ended"}, 500)

    @app.get("/health", response_class=Response, responses={500: {"description": "See /healthz."}})
    async def health() -> Response:
        """Say the same by the status alone, as vLLM does."""
        return Response(status_code=200 if service.engine.alive else 500)

    @app.get("/version")
    async def version() -> dict[str, str]:
        """Return the version of paddle-stacks."""
        return {"version": __version__}

    @app.get("/readyz", responses={503: {"description": "It takes nothing new."}})
    async def readyz() -> JSONResponse:
        """Say whether the server takes requests."""
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
    """Put the bodies that the routes read themselves into the OpenAPI document."""
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
    """Return the body of a request that says it is JSON.

    A page of another site can make a browser send a form or plain text here, but not JSON:
    for that a browser asks first, and is not told yes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body has to be JSON, with Content-Type: application/json")
    return await request.body()


async def _parsed(request: Request, service: Service, kind: type[Parsed]) -> Parsed:
    parsed, unknown = await service.parse(await _json_body(request), kind)
    if unknown:
        request.scope["state"]["told"]["ignored_fields"] = unknown
    return parsed


def _log_request(request: Request, field: str, parsed: ChatRequest | CompletionRequest) -> None:
    told: dict[str, Any] = request.scope["state"]["told"]
    told["stream"] = bool(parsed.stream)
    if request.scope["state"]["log_prompts"]:
        told[field] = parsed.model_dump(mode="json", exclude_unset=True)[field]


async def _answer(
    request: Request, service: Service, parsed: ChatRequest | CompletionRequest
) -> Response:
    client = request.scope["state"]["told"].get("key") or ""
    conversation = await service.begin(parsed, client)
    try:
        async with _watched(request, conversation):
            if parsed.stream:
                stream = conversation.stream()
                first = await anext(stream, None)
            else:
                response = await conversation.whole()
    except BaseException:
        _close(request, conversation)
        raise
    if parsed.stream and not conversation.failed:
        return _Stream(request, conversation, first, stream)
    _close(request, conversation)
    # Where nobody is there any more, nobody reads this; 499 is nginx's word for it.
    return Response(status_code=499) if conversation.failed else JSONResponse(response)


def _close(request: Request, conversation: Conversation) -> None:
    """Let go of what is not wanted any more, and tell the log what there was."""
    conversation.let_go()
    told: dict[str, Any] = request.scope["state"]["told"]
    told |= conversation.usage
    told["finish_reasons"] = [answer.finish_reason for answer in conversation.answers]
    if conversation.failed:
        told["failed"] = conversation.failed


@asynccontextmanager
async def _watched(request: Request, conversation: Conversation) -> AsyncIterator[None]:
    """Tell a conversation when its client leaves."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        conversation.leave()

    watcher = asyncio.create_task(wait())
    try:
        yield
    finally:
        watcher.cancel()


class _Stream(Response):
    """Server-sent events, an object each, as they come.

    Args:
        request: that is answered.
        conversation: whose objects they are.
        first: the first of them.
        rest: those that follow; None is the end of a stream that came to its end.
    """

    def __init__(
        self,
        request: Request,
        conversation: Conversation,
        first: dict[str, Any] | None,
        rest: AsyncIterator[dict[str, Any] | None],
    ) -> None:
        self.status_code = 200
        self.background = None
        self._request = request
        self._conversation = conversation
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        # no and no-transform: a proxy that waits for the whole makes no stream of it.
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
            self._request.scope["state"]["told"] |= error.log_fields()
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
    """The chat page's files, which a browser asks for anew when they have changed."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Return a file."""
        response = super().file_response(*args, **options)
        response.headers.update(_FRESH)
        return response


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.scope["state"]["told"] |= error.log_fields()
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _on_fault(request: Request, error: Exception) -> Response:
    """Say that the server is at fault; the log has the rest."""
    fault = ApiError(500, "the server failed; its log says how", cause=describe(error))
    request.scope["state"]["told"] |= fault.log_fields()
    return JSONResponse(fault.body(), fault.status)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"{request.method} {request.url.path[:100]} does not exist; see /openapi.json",
        405: f"{request.method} is not allowed here",
    }
    message = messages.get(error.status_code, str(error.detail))
    refusal = ApiError(error.status_code, message)
    request.scope["state"]["told"] |= refusal.log_fields()
    return JSONResponse(refusal.body(), error.status_code, headers=error.headers)
