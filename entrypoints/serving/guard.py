"""HTTP middleware: authentication, rate limits, limits of bodies, CORS, and the access log.

In the order of a request: its name and the security headers, how its body is framed, whether
it comes from this machine (where no keys are asked for), whose key it has, how often that one
may ask, how large the body is, and how long reading it and being read may take.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import IO, Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from entrypoints.serving.errors import ApiError
from entrypoints.serving.limits import RateLimit
from entrypoints.serving.metrics import Metrics
from entrypoints.serving.peers import Peers, host_of, is_local_name
from paddle_stacks.errors import printable
from paddle_stacks.jobs.serving import Keys

__all__ = ["LARGEST_BODY", "MAX_BUFFERED", "READ_SECONDS", "Guard", "Rules"]

LARGEST_BODY = 4 * 2**20
"""Bytes. 128k tokens are about 0.5 MB; as JSON, with every character escaped, six times that."""

READ_SECONDS = 30.0
"""For a body to come, all of it, and for a part of a response to be taken."""

MAX_BUFFERED = 64 * LARGEST_BODY
"""Bytes of bodies that the server holds at a time."""

_DISCARDED = 4 * LARGEST_BODY  # bytes of a body that is too large, read so that it is told so
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# A client's own words would make metrics without end.
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
# What watches the server asks every few seconds; the log has it when it fails.
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9-]{1,64}(, ?[A-Za-z0-9-]{1,64}){0,63}")

# The chat page, and what watches the server: they say nothing about the model or its users.
_WITHOUT_KEY = frozenset({"/", "/health", "/healthz", "/readyz"})
_WITHOUT_KEY_UNDER = "/page/"
# What a server that is watched asks for every few seconds counts for no rate.
_WITHOUT_RATE = frozenset({"/metrics", "/openapi.json", "/version"})

_LONGEST_FIELD = 500  # characters of a field of the access log
_PROMPT_FIELDS = frozenset({"messages", "prompt"})  # there only with --log-prompts, and whole


@dataclass(frozen=True)
class Rules:
    """Rules for clients.

    Args:
        keys: who may use the server; none to answer this machine only.
        peers: which addresses are this machine's.
        rate: how often each may ask.
        log_prompts: whether the log has what is asked.
        log: where the log goes, a JSON object a line.
        origins: of sites whose pages may use the server; ``*`` is every site.
    """

    keys: Keys
    peers: Peers
    rate: RateLimit
    log_prompts: bool = False
    log: IO[str] = sys.stderr
    origins: frozenset[str] = frozenset()


class _Gone(Exception):
    """The client takes nothing any more."""


class Guard:
    """An ASGI application before another.

    Args:
        app: the other.
        rules: what is asked of clients.
        metrics: are told of every response.
    """

    def __init__(self, app: ASGIApp, rules: Rules, metrics: Metrics) -> None:
        self._app = app
        self._rules = rules
        self._metrics = metrics
        self._buffer = _Buffer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = _Exchange(scope, receive, send, self._rules, self._buffer)
        scope["state"] |= {"told": exchange.told, "log_prompts": self._rules.log_prompts}
        try:
            try:
                exchange.check_framing()
                if exchange.is_preflight:
                    await exchange.answer_preflight()
                    return None
                exchange.told["key"] = self._admitted(scope, exchange.headers)
                await self._app(scope, exchange.receive, exchange.send)
            except ApiError as error:
                # Without an answer begun it can still be told; else the connection is cut.
                if exchange.status:
                    raise
                await exchange.refuse(error)
        except _Gone:
            exchange.told["failed"] = "slow reader"
            await exchange.abort()
        except ClientDisconnect:  # before its body was there
            exchange.told["failed"] = "gone"
        finally:
            self._finish(scope, exchange)
        return None

    def _admitted(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
        """Return whose key a request has; None where none is asked for.

        Raises:
            ApiError: 401, 403, 421 or 429.
        """
        rules = self._rules
        path = scope["path"]
        name = None
        public = path in _WITHOUT_KEY or path.startswith(_WITHOUT_KEY_UNDER)
        if not rules.keys:
            _check_local(scope, headers, rules.peers)
        elif not public:
            name = _key_owner(headers, rules.keys)
        counts = not public and path not in _WITHOUT_RATE
        if counts and (wait := rules.rate.take(name or "")):
            message = f"too many requests a minute: the next one in {wait} s"
            retry = {"Retry-After": str(wait)}
            raise ApiError(429, message, code="rate_limit_exceeded", headers=retry)
        return name

    def _finish(self, scope: Scope, exchange: _Exchange) -> None:
        exchange.release()
        seconds = time.perf_counter() - exchange.begun
        route = scope.get("route")
        handler = getattr(route, "path", None) or "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.http(method, handler, exchange.status, seconds)
        if exchange.status == 200 and scope["path"] in _PROBES:
            return
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "request": exchange.name,
            "client": (scope.get("client") or ("", 0))[0],
            "method": scope["method"],
            "path": scope["path"],
            "status": exchange.status,
            "seconds": round(seconds, 4),
            **exchange.told,
        }
        print(_as_log_line(line), file=self._rules.log, flush=True)


def _as_log_line(fields: Mapping[str, Any]) -> str:
    """Return an access line: fields cut, and nothing in it that a terminal would obey."""
    cut = {
        name: printable(value, 0 if name in _PROMPT_FIELDS else _LONGEST_FIELD)
        if isinstance(value, str)
        else value
        for name, value in fields.items()
    }
    return printable(json.dumps(cut, ensure_ascii=False))


class _Buffer:
    """Counts the bytes of the bodies that the server holds."""

    def __init__(self) -> None:
        self.held = 0

    def take(self, count: int) -> None:
        """Add bytes.

        Raises:
            ApiError: 503, they are too many; none are added.
        """
        if self.held + count > MAX_BUFFERED:
            message = "the server is reading too many large requests: try again"
            raise ApiError(503, message, headers={"Retry-After": "5", "Connection": "close"})
        self.held += count


class _Exchange:
    """One request and its response, with their limits.

    Attributes:
        name: the request's; the client's own if it brings one.
        headers: the request's.
        told: what else the log says of it.
        status: of the response; 0 while there is none.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, rules: Rules, buffer: _Buffer
    ) -> None:
        self.begun = time.perf_counter()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = self.headers.get(b"x-request-id", b"")
        self.name = (
            request_id.decode() if _REQUEST_ID.fullmatch(request_id) else secrets.token_hex(8)
        )
        self.told: dict[str, Any] = {}
        self.status = 0
        self._connection: Callable[[], None] | None = scope["state"].get("abort")
        self._receive, self._send, self._rules = receive, send, rules
        self._method = scope["method"]
        self._buffer = buffer
        self._buffered = self._read = 0
        self._deadline: float | None = None  # of the body
        self._whole = False  # the body has been read to its end

    @property
    def is_preflight(self) -> bool:
        """Return true for a CORS preflight request from an allowed origin."""
        return (
            self._method == "OPTIONS"
            and b"access-control-request-method" in self.headers
            and bool(self._allowed_origin())
        )

    async def answer_preflight(self) -> None:
        """Say what a page of an allowed origin may do."""
        wished = self.headers.get(b"access-control-request-headers", b"")
        headers = [
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-max-age", b"600"),
            (b"content-length", b"0"),
        ]
        if _HEADER_NAMES.fullmatch(wished):
            headers.append((b"access-control-allow-headers", wished))
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _allowed_origin(self) -> bytes:
        origin = self.headers.get(b"origin", b"")
        allowed = self._rules.origins
        return origin if origin.decode("latin-1") in allowed or (origin and "*" in allowed) else b""

    def release(self) -> None:
        """Give back the memory of the body."""
        self._buffer.held -= self._buffered
        self._buffered = 0

    def check_framing(self) -> None:
        """Refuse a body whose length is ambiguous or too large, before it is read.

        Raises:
            ApiError: 400 or 413.
        """
        if b"transfer-encoding" in self.headers and b"content-length" in self.headers:
            # A proxy in front may believe the other one (RFC 9112, 6.3: request smuggling).
            message = "the request has both Content-Length and Transfer-Encoding"
            raise ApiError(400, message, headers={"Connection": "close"})
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > LARGEST_BODY:
            raise _too_large()

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client has left."""
        if self._whole:
            return await self._receive()
        message = await self._next_part()
        count = len(message.get("body", b""))
        self._read += count
        if self._read > LARGEST_BODY:
            raise _too_large()
        self._buffer.take(count)
        self._buffered += count
        return message

    async def _next_part(self) -> Message:
        now = time.perf_counter()
        if self._deadline is None:
            self._deadline = now + READ_SECONDS
        try:
            message = await asyncio.wait_for(self._receive(), max(self._deadline - now, 0))
        except asyncio.TimeoutError:
            fault = f"the body did not come in {READ_SECONDS:g} s"
            raise ApiError(408, fault, headers={"Connection": "close"}) from None
        self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            name = (b"x-request-id", self.name.encode())
            headers = [*message["headers"], name, *_SECURITY]
            if origin := self._allowed_origin():
                headers += [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
                headers.append((b"access-control-expose-headers", b"x-request-id, retry-after"))
            message = {**message, "headers": headers}
        try:
            await asyncio.wait_for(self._send(message), READ_SECONDS)
        except asyncio.TimeoutError:
            raise _Gone from None

    async def refuse(self, error: ApiError) -> None:
        """Send an error instead of a response."""
        self.told |= error.log_fields()
        if error.status == 413:
            await self._discard()
        body = json.dumps(error.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers += [(k.lower().encode(), v.encode()) for k, v in error.headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def _discard(self) -> None:
        """Read on a little, keeping nothing: many clients listen only when they have sent all."""
        end = time.perf_counter() + 2
        try:
            while not self._whole and self._read < _DISCARDED and time.perf_counter() < end:
                message = await asyncio.wait_for(self._receive(), 1)
                self._whole = not message.get("more_body", False)
                self._read += len(message.get("body", b""))
        except asyncio.TimeoutError:
            return

    async def abort(self) -> None:
        """Cut the connection."""
        if self._connection is not None:
            self._connection()
            await asyncio.sleep(0)  # uvicorn learns of it in the loop's next round


def _too_large() -> ApiError:
    message = f"the body is larger than {LARGEST_BODY // 2**20} MiB"
    return ApiError(413, message, code="request_too_large", headers={"Connection": "close"})


def _check_local(scope: Scope, headers: Mapping[bytes, bytes], peers: Peers) -> None:
    client = (scope.get("client") or ("", 0))[0]
    server = (scope.get("server") or ("", 0))[0]
    if not peers.local(client, server):
        message = "without API keys this server answers connections from its own machine only"
        raise ApiError(403, message, code="keys_needed")
    host = host_of(headers.get(b"host", b"").decode("latin-1"))
    if not is_local_name(host):
        message = f'without API keys this server is called localhost or 127.0.0.1, not "{host}"'
        raise ApiError(421, message, code="keys_needed")


def _key_owner(headers: Mapping[bytes, bytes], keys: Keys) -> str:
    scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    owner = keys.owner(key.strip()) if scheme.lower() == "bearer" else None
    if owner is None:
        message = "the API key is not known here" if key else "an API key is needed"
        message += ": Authorization: Bearer KEY"
        retry = {"WWW-Authenticate": "Bearer"}
        raise ApiError(401, message, code="invalid_api_key", headers=retry)
    return owner
