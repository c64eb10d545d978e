"""What host and container both know of ``serve``: who may use it.

The file of API keys has a key per line, or ``NAME KEY``. Blank lines and lines that begin
with ``#`` are skipped. A name is for the log and for counting; a key without one is called
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
"""Where the server listens, and its port is published, unless keys protect it."""

PUBLISHED_ADDRESS = "PADDLE_STACKS_PUBLISHED_ADDRESS"
"""The variable by which Compose tells the container where its port is published."""

SHORTEST = 16
"""Characters. Shorter ones can be guessed: ``openssl rand -hex 24`` makes one of 48."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[\x21-\x7e]+")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,253}|\*")


class Keys:
    """Who may use the server.

    Args:
        keys: the name and the key of everybody; none where no key is asked for.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = {name: key.encode() for name, key in keys.items()}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def owner(self, given: str) -> str | None:
        """Return whose key that is; None if it is nobody's.

        All keys are compared, each in constant time, so that how long it takes says
        nothing of how much of a key was right.
        """
        found = None
        for name, key in self._keys.items():
            if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key):
                found = name
        return found


def is_loopback(address: str) -> bool:
    """Return whether an address is reached from its own machine only."""
    if address == "localhost":
        return True
    return is_address(address) and ipaddress.ip_address(address).is_loopback


def is_address(text: str) -> bool:
    """Return whether that is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def open_to_the_network(address: str) -> Problem:
    """Return the problem of a server that others reach and that asks for no key."""
    return Problem(
        f"--host {address} requires --api-keys, otherwise the server is open to the network",
        "serve",
        "--api-keys FILE; without --host it answers this machine only",
    )


def is_origin(text: str) -> bool:
    """Return whether that is a site's origin, as a browser sends it, or ``*``."""
    return _ORIGIN.fullmatch(text) is not None


def load_some(path: Path) -> dict[str, str]:
    """Return names and keys of a file that has to have some.

    Raises:
        RequestError: it has none, or see :func:`load`.
    """
    found = load(path)
    if not found:
        remedy = "put a line into it: openssl rand -hex 24"
        raise RequestError("there is no key in it", where=str(path), remedy=remedy)
    return found


def load(path: Path) -> dict[str, str]:
    """Return names and keys of a file; none if it is empty or a device, as ``/dev/null`` is.

    Raises:
        RequestError: it cannot be read, or lines are wrong. No message holds a key.
    """
    try:
        if stat.S_ISCHR(path.stat().st_mode):  # Compose cannot leave a secret out
            return {}
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        what = f"cannot read the API keys: {error.strerror}"
        raise RequestError(
            what, where=str(path), remedy="--api-keys FILE, that this user may read"
        ) from None
    except UnicodeDecodeError:
        raise RequestError(
            "the API keys are not UTF-8", where=str(path), remedy="save it as UTF-8"
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
                    "a line is NAME KEY, for instance: alice 0123456789abcdef",
                )
            )
        keys[name] = words[-1]
    if problems:
        raise RequestError(problems)
    return keys


def _fault(words: list[str], name: str, keys: Mapping[str, str]) -> str:
    key = words[-1]
    if len(words) > 2:
        return "a line is KEY, or NAME KEY"
    if not _NAME.fullmatch(name):
        return "a name is of letters, digits, dots, dashes and underscores"
    if name in keys:
        return f"the name {name} is taken already"
    if key in keys.values():
        return "the key is there already"
    if not _KEY.fullmatch(key):
        return "a key is of printable ASCII characters"
    if len(key) < SHORTEST:
        return f"the key has {len(key)} characters: {SHORTEST} are the least"
    return ""
