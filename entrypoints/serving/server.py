"""HTTP server with graceful shutdown."""

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
"""Timeout for the next request on a connection."""

_TICK_SECONDS = 0.05


@dataclass(frozen=True)
class Listening:
    """A listening address.

    Args:
        socket: the bound socket.
        url: for a browser on this machine.
    """

    socket: socket.socket
    url: str


def listen(host: str, port: int) -> Listening:
    """Return a listening socket; port 0 is any free one.

    Raises:
        MachineError: the address is not this machine's, or the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol number, asyncio sets TCP_NODELAY; otherwise tokens are delayed by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by connections: the maximum that a slow reader leaves unread.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise MachineError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            where="serve",
            remedy="use another --port",
        ) from None
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    return Listening(listener, f"http://{shown}:{listener.getsockname()[1]}/")


def run(app: ASGIApp, engine: Engine, listening: Listening, grace: float) -> None:
    """Serve until SIGTERM or SIGINT, then finish the running requests.

    Args:
        app: the application.
        engine: computes the answers; stopped at the end.
        listening: the address.
        grace: seconds to finish; a second signal stops at once.

    Raises:
        Stopped: requests were not finished in time.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="error",  # otherwise clients could fill the log with invalid requests
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
            "start it again; clients must repeat those requests",
        )


class _Server(uvicorn.Server):
    """Uvicorn's server without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    @property
    def answering(self) -> bool:
        """Return whether requests are running."""
        return bool(self.server_state.tasks)


async def _serve(server: _Server, engine: Engine, listening: Listening, grace: float) -> int | None:
    """Serve until a signal; return it if answers were not finished."""
    signals: list[int] = []
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(signum: int) -> None:
        signals.append(signum)
        stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal, signum)
    serving = asyncio.create_task(server.serve(sockets=[listening.socket]))
    wait = asyncio.create_task(stopping.wait())
    await asyncio.wait((serving, wait), return_when=asyncio.FIRST_COMPLETED)
    wait.cancel()
    engine.drain()
    note("stopping: running requests are finished, new ones are rejected")
    end = loop.time() + grace
    while server.answering and len(signals) < 2 and loop.time() < end and not serving.done():
        await asyncio.sleep(_TICK_SECONDS)
    cut = signals[0] if signals and server.answering else None
    if cut is not None:
        # Stopping the engine sends every waiting client an error.
        await loop.run_in_executor(None, engine.stop)
        await asyncio.sleep(_TICK_SECONDS)
    server.should_exit = True
    await serving
    return cut
