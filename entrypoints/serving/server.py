"""Listens, and at SIGTERM finishes what is under way before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from entrypoints.runtime.console import note
from entrypoints.serving.connection import Connection
from entrypoints.serving.engine import Engine
from paddle_stacks.errors import MachineError, Stopped

__all__ = ["KEEP_ALIVE_SECONDS", "Listening", "listen", "run"]

_BACKLOG = 512
_SEND_BUFFER = 256 * 2**10  # bytes
KEEP_ALIVE_SECONDS = 15
"""For the next request on a connection to begin."""

_TICK_SECONDS = 0.05


@dataclass(frozen=True)
class Listening:
    """Where a server listens.

    Args:
        socket: bound, and not listening yet.
        url: by which a browser on this machine finds it.
    """

    socket: socket.socket
    url: str


def listen(host: str, port: int) -> Listening:
    """Return a socket on an address; port 0 is any free one.

    Raises:
        MachineError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By its number: only then asyncio sends small parts at once (TCP_NODELAY), and a token
    # does not wait for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it: what a reader that does not read can hold back.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise MachineError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            where="serve",
            remedy="--port N: another one",
        ) from None
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    return Listening(listener, f"http://{shown}:{listener.getsockname()[1]}/")


def run(app: ASGIApp, engine: Engine, listening: Listening, grace: float) -> None:
    """Answer until SIGTERM or SIGINT; then finish what is under way.

    Args:
        app: the application.
        engine: what computes; it is stopped at the end.
        listening: where to listen.
        grace: seconds to finish; a second signal ends them.

    Raises:
        Stopped: there was not enough time to finish.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="error",  # or every client could fill the log with what is no HTTP
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=64 * 2**10,
    )
    cut = asyncio.run(_serve(_Server(config), engine, listening, grace))
    engine.stop()
    if cut is not None:
        raise Stopped(
            cut,
            "stopped before every answer was finished",
            "start it again; clients repeat those requests",
        )


class _Server(uvicorn.Server):
    """Uvicorn's, which leaves the signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    @property
    def answering(self) -> bool:
        """Whether requests are under way."""
        return bool(self.server_state.tasks)


async def _serve(server: _Server, engine: Engine, listening: Listening, grace: float) -> int | None:
    """Serve until a signal; return it if it cut answers off."""
    heard: list[int] = []
    news = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear(signum: int) -> None:
        heard.append(signum)
        news.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, hear, signum)
    serving = asyncio.create_task(server.serve(sockets=[listening.socket]))
    wait = asyncio.create_task(news.wait())
    await asyncio.wait((serving, wait), return_when=asyncio.FIRST_COMPLETED)
    wait.cancel()
    engine.drain()
    note("stopping: what is under way is finished, and nothing new is taken")
    end = loop.time() + grace
    while server.answering and len(heard) < 2 and loop.time() < end and not serving.done():
        await asyncio.sleep(_TICK_SECONDS)
    cut = heard[0] if heard and server.answering else None
    if cut is not None:
        # The engine tells those who wait, so that every client gets an error and not silence.
        await loop.run_in_executor(None, engine.stop)
        await asyncio.sleep(_TICK_SECONDS)
    server.should_exit = True
    await serving
    return cut
