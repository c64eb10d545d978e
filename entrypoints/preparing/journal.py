"""How far a preparation is: what a killed one left, and whether it can be trusted."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from entrypoints.preparing.reading import Place
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.files import replacing_file

__all__ = ["Growing", "State", "read", "write"]

_NAME = "journal.json"


@dataclass(frozen=True)
class Growing:
    """A file that is only ever written at its end.

    Args:
        size: bytes that are on the disk.
        checksum: their CRC-32.
    """

    size: int = 0
    checksum: int = 0

    def longer_by(self, data: bytes) -> Growing:
        """Return it with more at its end."""
        return Growing(self.size + len(data), zlib.crc32(data, self.checksum))

    def is_in(self, path: Path) -> bool:
        """Return whether a file begins with what was written."""
        left, checksum = self.size, 0
        try:
            with path.open("rb") as stream:
                while left and (data := stream.read(min(left, 2**20))):
                    checksum, left = zlib.crc32(data, checksum), left - len(data)
        except FileNotFoundError:
            return self.size == 0
        return not left and checksum == self.checksum


@dataclass(frozen=True)
class State:
    """How far a preparation is.

    Args:
        request: what is prepared, as :func:`write` was told; another one begins anew.
        source: how many inputs are done.
        place: how far the next one is.
        tokens: the file of tokens.
        sizes: the file of the documents' lengths.
        documents: how many are written.
        reasons: how many records were bad, by reason.
        bad: the first bad ones, each ``file:line`` and why.
        hashes: the SHA-256 of the inputs that are done.
        complete: whether all inputs are done.
    """

    request: dict[str, Any]
    source: int = 0
    place: Place = field(default_factory=Place)
    tokens: Growing = field(default_factory=Growing)
    sizes: Growing = field(default_factory=Growing)
    documents: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    bad: tuple[tuple[str, str], ...] = ()
    hashes: tuple[str, ...] = ()
    complete: bool = False


def write(folder: Path, state: State) -> None:
    """Put the state on the disk, in place of the one before."""
    with replacing_file(folder / _NAME) as stream:
        json.dump(asdict(state), stream, ensure_ascii=False)


def read(folder: Path) -> State | None:
    """Return the state that was written last, or None if there is none that can be read."""
    try:
        state = json_files.parse((folder / _NAME).read_text(encoding="utf-8"))
        return State(
            **{
                **state,
                "place": Place(**state["place"]),
                "tokens": Growing(**state["tokens"]),
                "sizes": Growing(**state["sizes"]),
                "bad": tuple((where, why) for where, why in state["bad"]),
                "hashes": tuple(state["hashes"]),
            }
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
