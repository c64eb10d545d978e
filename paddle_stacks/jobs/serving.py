"""Access to the server: API keys, addresses and origins, for the host and the container.

The file of API keys has a key per line, or ``NAME KEY``. Blank lines and lines that begin
with ``#`` are skipped. Names appear in the log and in counters; a key without one is named
``key`` and the number of its line.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from paddle_stacks.errors import Problem, RequestError

__all__ = [
    "LOOPBACK",
    "PUBLISHED_ADDRESS",
    "SHORTEST",
    "Keys",
    "is_address",
    "is_loopback",
    "is_origin",
    "load",
    "load_some",
    "open_to_the_network",
]

LOOPBACK = "127.0.0.1"
"""The default address of the server; others require API keys."""

PUBLISHED_ADDRESS = "PADDLE_STACKS_PUBLISHED_ADDRESS"
"""The variable with which Compose passes the published address to the container."""

SHORTEST = 16
"""Minimum characters of a key, because shorter ones can be guessed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[\x21-\x7e]+")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,253}|\*")


class Keys:
    """The API keys of the server.

    Args:
        keys: each key by its owner's name; empty if no key is required.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = {name: key.encode() for name, key in keys.items()}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def owner(self, key: str) -> str | None:
        """Return the name of a key's owner; None if the key is unknown.

        All keys are compared, each in constant time, so that the duration reveals nothing
        about a key.
        """
        owner = None
        for name, known_key in self._keys.items():
            if hmac.compare_digest(key.encode("utf-8", "surrogateescape"), known_key):
                owner = name
        return owner


def is_loopback(address: str) -> bool:
    """Return whether an address can be reached from its own machine only."""
    if address == "localhost":
        return True
    return is_address(address) and ipaddress.ip_address(address).is_loopback


def is_address(text: str) -> bool:
    """Return whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def open_to_the_network(address: str) -> Problem:
    """Return the problem of a server that is open to the network without API keys."""
    return Problem(
        f"--host {address} requires --api-keys, otherwise the server is open to the network",
        "serve",
        "--api-keys FILE; or remove --host to serve this machine only",
    )


def is_origin(text: str) -> bool:
    """Return whether a text is an origin, as a browser sends it, or ``*``."""
    return _ORIGIN.fullmatch(text) is not None


def load_some(path: Path) -> dict[str, str]:
    """Return the keys of a file by name, at least one.

    Raises:
        RequestError: the file has no keys, or see :func:`load`.
    """
    keys = load(path)
    if not keys:
        remedy = f"openssl rand -hex 24 >> {path}"
        raise RequestError("the file has no API keys", where=str(path), remedy=remedy)
    return keys


def load(path: Path) -> dict[str, str]:
    """Return the keys of a file by name; empty if it is empty or a device such as ``/dev/null``.

    Raises:
        RequestError: the file cannot be read, or lines are wrong. No message contains a key.
    """
    try:
        if stat.S_ISCHR(path.stat().st_mode):  # Compose cannot leave a secret out
            return {}
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        message = f"cannot read the API keys: {error.strerror}"
        raise RequestError(
            message, where=str(path), remedy=f"chmod u+r {path}, or use another file"
        ) from None
    except UnicodeDecodeError:
        raise RequestError(
            "the API keys are not UTF-8 text", where=str(path), remedy="save it as UTF-8"
        ) from None
    keys: dict[str, str] = {}
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name = words[0] if len(words) == 2 else f"key{number}"
        if fault := _fault(words, name, keys):
            problems.append(
                Problem(
                    fault,
                    f"{path}:{number}",
                    "write NAME KEY, such as: alice 0123456789abcdef",
                )
            )
        keys[name] = words[-1]
    if problems:
        raise RequestError(problems)
    return keys


def _fault(words: list[str], name: str, keys: Mapping[str, str]) -> str:
    key = words[-1]
    if len(words) > 2:
        return "a line must be KEY or NAME KEY"
    if not _NAME.fullmatch(name):
        return "a name must consist of letters, digits, dots, dashes and underscores"
    if name in keys:
        return f"the name {name} is used twice"
    if key in keys.values():
        return "the key is used twice"
    if not _KEY.fullmatch(key):
        return "a key must consist of printable ASCII characters"
    if len(key) < SHORTEST:
        return f"a key must have at least {SHORTEST} characters, got {len(key)}"
    return ""
