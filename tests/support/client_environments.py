"""Environments of the third-party clients that the server is tested with.

Each is created once for its pins, in ``.cache/clients``.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["node_modules", "python"]

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "tests" / "clients"
_CACHE = ROOT / ".cache" / "clients"
_COMPLETE = "complete"


def python(name: str) -> Path:
    """Return the interpreter of an environment with the pins of ``pins/NAME.txt``."""
    pins = CLIENTS / "pins" / f"{name}.txt"
    uv = Path(sys.executable).with_name("uv")
    with _made(name, pins.read_bytes() + sys.version.encode()) as (folder, missing):
        interpreter = folder / "bin" / "python"
        if missing:
            _run(uv, "venv", "--quiet", "--python", sys.executable, folder)
            _run(uv, "pip", "install", "--quiet", "--python", interpreter, "--requirement", pins)
    return interpreter


def node_modules() -> Path:
    """Return a folder with the packages of ``node/package-lock.json`` installed."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    lock = CLIENTS / "node" / "package-lock.json"
    with _made("node", lock.read_bytes()) as (folder, missing):
        if missing:
            folder.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(lock.with_name(name), folder / name)
            flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder)
            _run("npm", "ci", *flags)
    return folder


@contextmanager
def _made(name: str, pins: bytes) -> Iterator[tuple[Path, bool]]:
    """Yield an environment's folder, and whether it is empty; one process at a time."""
    folder = _CACHE / f"{name}-{hashlib.sha256(pins).hexdigest()[:16]}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not (folder / _COMPLETE).exists()
        if missing:
            shutil.rmtree(folder, ignore_errors=True)
        yield folder, missing
        (folder / _COMPLETE).touch()


def _run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
