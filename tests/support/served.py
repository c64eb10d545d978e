"""Start the server with the fake model in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
SECONDS = 60  # for what takes less than one


class Served:
    """A server and its standard error."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(SECONDS), self.lines
        self.url = next(
            (line.split()[1].rstrip("/") for line in self.lines if line.startswith("ready:")), ""
        )
        assert self.url, "".join(self.lines)

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.lines.append(line)
            if line.startswith("ready:"):
                self._ready.set()
        self._ready.set()

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Post JSON; ``content`` posts bytes unchanged."""
        if body is not None:
            options["json"] = body
        with httpx.Client(timeout=SECONDS, trust_env=False) as client:
            return client.post(self.url + path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with httpx.Client(timeout=SECONDS, trust_env=False) as client:
            return client.get(self.url + path, **options)

    def options(self, path: str, **options: Any) -> httpx.Response:
        with httpx.Client(timeout=SECONDS, trust_env=False) as client:
            return client.options(self.url + path, **options)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def logged(self, request: str) -> dict[str, Any]:
        """Wait for the access line of a request, by its X-Request-Id."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for line in self.log():
                if line["request"] == request:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no line of {request}")

    def end(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        status = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return 128 - status if status < 0 else status


@contextmanager
def serving(*arguments: str, step_seconds: float = 0.0, hasty: bool = False) -> Iterator[Served]:
    """Start a server; a hasty one waits for a second instead of half a minute."""
    program = [sys.executable, str(Path(__file__).with_name("fake_server.py"))]
    path = str(ROOT)
    process = subprocess.Popen(
        [*program, str(step_seconds), "--port", "0", *arguments],
        env={**os.environ, "PYTHONPATH": path, **({"HASTY": "1"} if hasty else {})},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Served(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
