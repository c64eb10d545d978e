"""A web server on loopback that serves files, with the faults that a test injects."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PIECE = 16 * 1024  # bytes of a file that is sent slowly


@dataclass
class Server:
    """The files and faults of a server, and the requests it received.

    Args:
        url: the server's address.
        files: contents by path.
        etag: of every file; none if empty.
        redirects: addresses by path.
        cut_after: bytes after which a connection is closed, once per entry.
        cut_at: the same by path.
        stall_after: bytes after which the transfer stalls, once per entry.
        stall_at: the same by path.
        statuses: answers to give before anything else, one per request.
        ranges: whether ranges are served.
        content_type: of every file.
        refusal: status and headers of every answer, for a server that refuses all requests.
        pause: seconds between two chunks of a file.
        lengths: wrong lengths to announce, once each, by path.
        requests: path and headers of every request.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    redirects: dict[str, str] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    cut_at: dict[str, list[int]] = field(default_factory=dict)
    stall_after: list[int] = field(default_factory=list)
    stall_at: dict[str, int] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    content_type: str = "application/octet-stream"
    refusal: tuple[int, dict[str, str]] | None = None
    pause: float = 0.0
    lengths: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_GET(self) -> None:
        state = self.state
        state.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        path = self.path.partition("?")[0]
        if state.refusal:
            self._short(*state.refusal)
        elif state.statuses:
            self._short(state.statuses.pop(0))
        elif path in state.redirects:
            self._short(302, {"Location": state.redirects[path]})
        elif path not in state.files:
            self._short(404)
        else:
            self._file(state.files[path])

    do_HEAD = do_GET

    def _short(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, content: bytes) -> None:
        begin = 0
        header = self.headers.get("Range", "")
        same = self.headers.get("If-Range", self.state.etag) == self.state.etag
        if header and same and self.state.ranges:
            begin = int(header.removeprefix("bytes=").split("-")[0])
            if begin >= len(content):
                self._short(416, {"Content-Range": f"bytes */{len(content)}"})
                return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        if self.state.etag:
            self.send_header("ETag", self.state.etag)
        self.send_header("Content-Type", self.state.content_type)
        length = self.state.lengths.pop(self.path, len(content) - begin)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = content[begin:]
        self.close_connection = length != len(body)
        cuts = self.state.cut_after or self.state.cut_at.get(self.path)
        if cuts:
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
        elif self.state.stall_after or self.path in self.state.stall_at:
            stalls = self.state.stall_after
            self.wfile.write(
                body[: stalls.pop(0) if stalls else self.state.stall_at.pop(self.path)]
            )
            self.wfile.flush()
            self.state.release.wait(300)  # longer than any client of ours waits
            self.close_connection = True
        else:
            self._write(body)

    def _write(self, body: bytes) -> None:
        if not self.state.pause:
            self.wfile.write(body)
            return
        for begin in range(0, len(body), _PIECE):
            self.wfile.write(body[begin : begin + _PIECE])
            self.state.release.wait(self.state.pause)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing; tests inspect the requests."""


class _Listener(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore disconnected clients: tests kill clients."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving() -> Iterator[Server]:
    server = _Listener(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    state = Server(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.release.set()
        server.shutdown()
        server.server_close()
