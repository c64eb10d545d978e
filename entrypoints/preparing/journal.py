"""Journal of the progress, from which an interrupted preparation resumes."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from entrypoints.preparing.reading import Position
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.files import replacing_file

__all__ = ["Growing", "State", "read", "write"]

_NAME = "journal.json"


@dataclass(frozen=True)
class Growing:
    """An append-only file.

    Args:
        size: bytes on the disk.
        checksum: their CRC-32.
    """

    size: int = 0
    checksum: int = 0

    def longer_by(self, data: bytes) -> Growing:
        """Return the state after appending data."""
        return Growing(self.size + len(data), zlib.crc32(data, self.checksum))

    def is_in(self, path: Path) -> bool:
        """Return whether a file starts with the written data."""
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
    """The progress of a preparation.

    Args:
        request: everything that determines the corpus; another one starts again.
        source: the number of finished inputs.
        position: the position in the next input.
        tokens: the file of tokens.
        sizes: the file of the documents' lengths.
        documents: the number of written documents.
        reasons: the number of bad records, by reason.
        bad: the first bad records, each ``file:line`` and the reason.
        hashes: the SHA-256 of the finished inputs.
        complete: whether all inputs are finished.
    """

    request: dict[str, Any]
    source: int = 0
    position: Position = field(default_factory=Position)
    tokens: Growing = field(default_factory=Growing)
    sizes: Growing = field(default_factory=Growing)
    documents: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    bad: tuple[tuple[str, str], ...] = ()
    hashes: tuple[str, ...] = ()
    complete: bool = False


def write(folder: Path, state: State) -> None:
    """Replace the state on the disk."""
    with replacing_file(folder / _NAME) as stream:
        json.dump(asdict(state), stream, ensure_ascii=False)


def read(folder: Path) -> State | None:
    """Return the last state, or None if it is missing or unreadable."""
    try:
        state = json_files.parse((folder / _NAME).read_text(encoding="utf-8"))
        return State(
            **{
                **state,
                "position": Position(**state["position"]),
                "tokens": Growing(**state["tokens"]),
                "sizes": Growing(**state["sizes"]),
                "bad": tuple((where, why) for where, why in state["bad"]),
                "hashes": tuple(state["hashes"]),
            }
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
