"""A pytest plugin that mounts folders into every container the tests create.

Each pytest process has a relay in front of the engine's socket, which is its ``DOCKER_HOST``.
The relay adds the mounts to requests that create a container and forwards the rest as is, so
the ``docker`` command, Compose and docker-py behave alike and other users of the engine see
nothing. ``mounts.json`` beside this file lists the mounts, and the tests to run where that is
not all. Where it names a folder of data, each pytest process mounts a folder of its own in
there, with a file that names the running test.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import measured_process
import pytest

__all__ = ["Relay", "add_mounts"]

_ENGINE = "/var/run/docker.sock"
_CREATE = re.compile(rb"POST (/v[\d.]+)?/containers/create[? ]")
_DATA = "/opt/coverage/data"
_CHUNK = 1 << 16


class Relay:
    """A socket in front of the engine's that edits requests to create a container.

    Args:
        path: of this socket.
        engine: the path of the engine's socket.
        edit: changes the document of such a request.
    """

    def __init__(self, path: Path, engine: str, edit: Callable[[dict[str, Any]], None]) -> None:
        self._engine = engine
        self._edit = edit
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        # Whoever may use the engine may use the relay.
        status = Path(engine).stat()
        path.chmod(status.st_mode & 0o777)
        os.chown(path, -1, status.st_gid)
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._engine)
            for target, ends in ((self._requests, (near, far)), (self._answers, (far, near))):
                threading.Thread(target=_until_closed, args=(target, *ends), daemon=True).start()

    def _answers(self, far: socket.socket, near: socket.socket) -> None:
        while chunk := far.recv(_CHUNK):
            near.sendall(chunk)

    def _requests(self, near: socket.socket, far: socket.socket) -> None:
        stream = near.makefile("rb")
        while head := _head(stream):
            fields = _fields(head)
            if _CREATE.match(head):
                document = json.loads(b"".join(_body(stream, fields)))
                self._edit(document)
                body = json.dumps(document).encode()
                lines = [line for line in head.splitlines() if not _about_length(line)]
                head = b"\r\n".join([*lines[:-1], b"Content-Length: %d" % len(body), b"", b""])
                far.sendall(head + body)
                continue
            far.sendall(head)
            if b"upgrade" in fields:  # a stream from here on: attach, exec, build
                while chunk := stream.read1(_CHUNK):
                    far.sendall(chunk)
                return
            for chunk in _body(stream, fields, framed=True):
                far.sendall(chunk)


def _until_closed(
    transfer: Callable[[socket.socket, socket.socket], None],
    source: socket.socket,
    target: socket.socket,
) -> None:
    with contextlib.suppress(OSError):  # one of the two went away
        transfer(source, target)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _head(stream: BinaryIO) -> bytes:
    """Return a request's line and headers, with the blank line; nothing at the end."""
    lines = []
    while line := stream.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _fields(head: bytes) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in head.splitlines()[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _about_length(line: bytes) -> bool:
    return line.lower().startswith((b"content-length:", b"transfer-encoding:"))


def _body(stream: BinaryIO, fields: dict[bytes, bytes], framed: bool = False) -> Iterator[bytes]:
    """Yield a request's body.

    Args:
        stream: after the headers.
        fields: the headers.
        framed: with the sizes of the chunks, where it comes in chunks.
    """
    if fields.get(b"transfer-encoding", b"").lower() != b"chunked":
        left = int(fields.get(b"content-length", 0))
        while left:
            part = stream.read(min(left, _CHUNK))
            left -= len(part)
            yield part
        return
    size = -1
    while size:
        line = stream.readline()
        size = int(line.split(b";")[0], 16)
        part = stream.read(size + 2)  # a line break follows
        yield line + part if framed else part[:-2]


def add_mounts(document: dict[str, Any], mounts: list[str], relay: Path, engine: str) -> None:
    """Add mounts to a request that creates a container.

    Args:
        document: the request, which is changed.
        mounts: in the form of ``--volume``.
        relay: the socket that a container gets that wants the engine's.
        engine: the engine's socket.
    """
    host = document.setdefault("HostConfig", {})
    binds = [
        re.sub(f"^{re.escape(engine)}:", f"{relay}:", bind) for bind in host.get("Binds") or []
    ]
    taken = {bind.split(":")[1] for bind in binds}
    host["Binds"] = binds + [mount for mount in mounts if mount.split(":")[1] not in taken]


def pytest_configure(config: pytest.Config) -> None:
    settings = json.loads(Path(__file__).with_name("mounts.json").read_text())
    mounts = list(settings["mounts"])
    if settings["data"]:
        data = Path(settings["data"], f"containers-{os.getpid()}")
        data.mkdir(parents=True)
        data.chmod(0o1777)  # a container's user may be anybody
        mounts.append(f"{data}:{_DATA}")
        config.pluginmanager.register(_Contexts(data / "context"))
    # A revision without tiers has no slow test, and can be asked for them all the same.
    config.addinivalue_line("markers", "slow: left out of the fast tier")
    if settings["selected"] is not None:
        config.pluginmanager.register(_Selection(settings["selected"]))
    engine = os.environ.get("DOCKER_HOST", _ENGINE).removeprefix("unix://")
    # Not below pytest's folder: the path of a socket has to be short.
    folder = Path(tempfile.mkdtemp(prefix="relay-"))
    folder.chmod(0o755)
    config.add_cleanup(lambda: shutil.rmtree(folder))
    path = folder / "docker.sock"
    Relay(path, engine, lambda document: add_mounts(document, mounts, path, engine))
    os.environ["DOCKER_HOST"] = f"unix://{path}"


class _Contexts:
    """Records which test is running, for this process and for those in containers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._switch(item.nodeid)
        try:
            return (yield)
        finally:
            self._switch("")

    def _switch(self, test: str) -> None:
        replaced = self._path.with_suffix(".new")
        replaced.write_text(test, encoding="utf-8")
        replaced.replace(self._path)
        measured_process.switch_context(test)


class _Selection:
    """Runs only the tests with given ids, file by file in the order of these."""

    def __init__(self, ids: list[str]) -> None:
        self._ids = set(ids)
        self._files = {file: place for place, file in enumerate(dict.fromkeys(map(_file, ids)))}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        others = [item for item in items if item.nodeid not in self._ids]
        selected = [item for item in items if item.nodeid in self._ids]
        # Stable: tests of a file stay together, and so do those that share a fixture.
        items[:] = sorted(selected, key=lambda item: self._files[_file(item.nodeid)])
        config.hook.pytest_deselected(items=others)


def _file(test: str) -> str:
    return test.partition("::")[0]
