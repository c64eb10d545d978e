"""HTTP middleware: authentication, rate limits, body limits, CORS, and the access log.

The order of the checks: framing of the body, the client's address (without API keys), the API
key, its rate limit, the size of the body, and timeouts for reading and writing.
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

from entrypoints.serving.client_address import ClientAddresses, host_of, is_local_name
from entrypoints.serving.errors import ApiError
from entrypoints.serving.metrics import Metrics
from entrypoints.serving.rate_limit import RateLimit
from paddle_stacks.errors import printable
from paddle_stacks.jobs.serving import Keys

__all__ = ["IO_TIMEOUT_SECONDS", "MAX_BODY_BYTES", "MAX_BUFFERED", "AccessRules", "Middleware"]

MAX_BODY_BYTES = 4 * 2**20
"""128k tokens are about 0.5 MB, and six times that as JSON with all characters escaped."""

IO_TIMEOUT_SECONDS = 30.0
"""Timeout for receiving a whole body, and for sending a part of a response."""

MAX_BUFFERED = 64 * MAX_BODY_BYTES
"""Total bytes of all bodies in memory."""

_DISCARDED = (
    4 * MAX_BODY_BYTES
)  # bytes to read of a body that is too large, before the client reads the error
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
# Arbitrary methods would create an unlimited number of metrics.
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
# Monitoring requests these every few seconds; they are logged only on failure.
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9-]{1,64}(, ?[A-Za-z0-9-]{1,64}){0,63}")

# The chat page and health checks: they reveal nothing about the model or its users.
_WITHOUT_KEY = frozenset({"/", "/health", "/healthz", "/readyz"})
_WITHOUT_KEY_UNDER = "/page/"
# Monitoring does not count for the rate limit.
_WITHOUT_RATE = frozenset({"/metrics", "/openapi.json", "/version"})

_LONGEST_FIELD = 500  # characters of a field of the access log
_PROMPT_FIELDS = frozenset({"messages", "prompt"})  # logged only with --log-prompts, and unabridged


@dataclass(frozen=True)
class AccessRules:
    """Rules for clients.

    Args:
        keys: the API keys; empty to answer this machine only.
        addresses: detects connections from this machine.
        rate: the rate limit of each client.
        log_prompts: whether prompts are logged.
        log: the access log, one JSON object per line.
        origins: sites whose pages may use the server; ``*`` for all.
    """

    keys: Keys
    addresses: ClientAddresses
    rate: RateLimit
    log_prompts: bool = False
    log: IO[str] = sys.stderr
    origins: frozenset[str] = frozenset()


class _Gone(Exception):
    """The client no longer reads the response."""


class Middleware:
    """ASGI middleware.

    Args:
        app: the application behind it.
        rules: for clients.
        metrics: updated with every response.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules, metrics: Metrics) -> None:
        self._app = app
        self._rules = rules
        self._metrics = metrics
        self._buffer = _Buffer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = _Exchange(scope, receive, send, self._rules, self._buffer)
        scope["state"] |= {
            "log_fields": exchange.log_fields,
            "log_prompts": self._rules.log_prompts,
        }
        try:
            try:
                exchange.check_framing()
                if exchange.is_preflight:
                    await exchange.answer_preflight()
                    return None
                exchange.log_fields["key"] = self._admitted(scope, exchange.headers)
                await self._app(scope, exchange.receive, exchange.send)
            except ApiError as error:
                # After the start of a response the connection can only be closed.
                if exchange.status:
                    raise
                await exchange.refuse(error)
        except _Gone:
            exchange.log_fields["failed"] = "slow reader"
            await exchange.abort()
        except ClientDisconnect:  # before the body was complete
            exchange.log_fields["failed"] = "gone"
        finally:
            self._finish(scope, exchange)
        return None

    def _admitted(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
        """Return the name of a request's API key; None if none is required.

        Raises:
            ApiError: 401, 403, 421 or 429.
        """
        rules = self._rules
        path = scope["path"]
        name = None
        public = path in _WITHOUT_KEY or path.startswith(_WITHOUT_KEY_UNDER)
        if not rules.keys:
            _check_local(scope, headers, rules.addresses)
        elif not public:
            name = _key_owner(headers, rules.keys)
        counts = not public and path not in _WITHOUT_RATE
        if counts and (wait := rules.rate.take(name or "")):
            message = f"rate limit exceeded: retry in {wait} s"
            retry = {"Retry-After": str(wait)}
            raise ApiError(429, message, code="rate_limit_exceeded", headers=retry)
        return name

    def _finish(self, scope: Scope, exchange: _Exchange) -> None:
        exchange.release()
        seconds = time.perf_counter() - exchange.start_time
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
            **exchange.log_fields,
        }
        print(_as_log_line(line), file=self._rules.log, flush=True)


def _as_log_line(fields: Mapping[str, Any]) -> str:
    """Return an access log line with truncated fields and without control characters."""
    cut = {
        name: printable(value, 0 if name in _PROMPT_FIELDS else _LONGEST_FIELD)
        if isinstance(value, str)
        else value
        for name, value in fields.items()
    }
    return printable(json.dumps(cut, ensure_ascii=False))


class _Buffer:
    """Counts the bytes of all bodies in memory."""

    def __init__(self) -> None:
        self.held = 0

    def take(self, count: int) -> None:
        """Add bytes.

        Raises:
            ApiError: 503, the limit is exceeded; none are added.
        """
        if self.held + count > MAX_BUFFERED:
            message = "the server is reading too many large requests: try again"
            raise ApiError(503, message, headers={"Retry-After": "5", "Connection": "close"})
        self.held += count


class _Exchange:
    """One request and its response.

    Attributes:
        name: the request ID; the client's own if it sends one.
        headers: of the request.
        log_fields: further fields of the log line.
        status: of the response; 0 before it.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, rules: AccessRules, buffer: _Buffer
    ) -> None:
        self.start_time = time.perf_counter()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = self.headers.get(b"x-request-id", b"")
        self.name = (
            request_id.decode() if _REQUEST_ID.fullmatch(request_id) else secrets.token_hex(8)
        )
        self.log_fields: dict[str, Any] = {}
        self.status = 0
        self._connection: Callable[[], None] | None = scope["state"].get("abort")
        self._receive, self._send, self._rules = receive, send, rules
        self._method = scope["method"]
        self._buffer = buffer
        self._buffered = self._read = 0
        self._deadline: float | None = None  # of the body
        self._whole = False  # the whole body was read

    @property
    def is_preflight(self) -> bool:
        """Return true for a CORS preflight request from an allowed origin."""
        return (
            self._method == "OPTIONS"
            and b"access-control-request-method" in self.headers
            and bool(self._allowed_origin())
        )

    async def answer_preflight(self) -> None:
        """Answer a preflight request of an allowed origin."""
        requested = self.headers.get(b"access-control-request-headers", b"")
        headers = [
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-max-age", b"600"),
            (b"content-length", b"0"),
        ]
        if _HEADER_NAMES.fullmatch(requested):
            headers.append((b"access-control-allow-headers", requested))
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _allowed_origin(self) -> bytes:
        origin = self.headers.get(b"origin", b"")
        allowed = self._rules.origins
        return origin if origin.decode("latin-1") in allowed or (origin and "*" in allowed) else b""

    def release(self) -> None:
        """Release the memory of the body."""
        self._buffer.held -= self._buffered
        self._buffered = 0

    def check_framing(self) -> None:
        """Reject a body whose length is ambiguous or too large, before it is read.

        Raises:
            ApiError: 400 or 413.
        """
        if b"transfer-encoding" in self.headers and b"content-length" in self.headers:
            # A proxy in front may use the other one (RFC 9112, 6.3: request smuggling).
            message = "the request has both Content-Length and Transfer-Encoding"
            raise ApiError(400, message, headers={"Connection": "close"})
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            raise _too_large()

    async def receive(self) -> Message:
        """Return the next part of the body, or the client's disconnection."""
        if self._whole:
            return await self._receive()
        message = await self._next_part()
        count = len(message.get("body", b""))
        self._read += count
        if self._read > MAX_BODY_BYTES:
            raise _too_large()
        self._buffer.take(count)
        self._buffered += count
        return message

    async def _next_part(self) -> Message:
        now = time.perf_counter()
        if self._deadline is None:
            self._deadline = now + IO_TIMEOUT_SECONDS
        try:
            message = await asyncio.wait_for(self._receive(), max(self._deadline - now, 0))
        except asyncio.TimeoutError:
            fault = f"the body was not received within {IO_TIMEOUT_SECONDS:g} s"
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
            await asyncio.wait_for(self._send(message), IO_TIMEOUT_SECONDS)
        except asyncio.TimeoutError:
            raise _Gone from None

    async def refuse(self, error: ApiError) -> None:
        """Send an error response."""
        self.log_fields |= error.log_fields()
        if error.status == 413:
            await self._discard()
        body = json.dumps(error.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers += [(k.lower().encode(), v.encode()) for k, v in error.headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def _discard(self) -> None:
        """Read and discard more of the body: many clients read only after sending everything."""
        end = time.perf_counter() + 2
        try:
            while not self._whole and self._read < _DISCARDED and time.perf_counter() < end:
                message = await asyncio.wait_for(self._receive(), 1)
                self._whole = not message.get("more_body", False)
                self._read += len(message.get("body", b""))
        except asyncio.TimeoutError:
            return

    async def abort(self) -> None:
        """Close the connection at once."""
        if self._connection is not None:
            self._connection()
            await asyncio.sleep(0)  # uvicorn handles it in the next iteration of the loop


def _too_large() -> ApiError:
    message = f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB"
    return ApiError(413, message, code="request_too_large", headers={"Connection": "close"})


def _check_local(scope: Scope, headers: Mapping[bytes, bytes], addresses: ClientAddresses) -> None:
    client = (scope.get("client") or ("", 0))[0]
    server = (scope.get("server") or ("", 0))[0]
    if not addresses.local(client, server):
        message = "without API keys this server only accepts connections from its own machine"
        raise ApiError(403, message, code="keys_needed")
    host = host_of(headers.get(b"host", b"").decode("latin-1"))
    if not is_local_name(host):
        message = f'without API keys the host name must be localhost or 127.0.0.1, not "{host}"'
        raise ApiError(421, message, code="keys_needed")


def _key_owner(headers: Mapping[bytes, bytes], keys: Keys) -> str:
    scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    owner = keys.owner(key.strip()) if scheme.lower() == "bearer" else None
    if owner is None:
        message = "unknown API key" if key else "an API key is required"
        message += ": Authorization: Bearer KEY"
        retry = {"WWW-Authenticate": "Bearer"}
        raise ApiError(401, message, code="invalid_api_key", headers=retry)
    return owner
