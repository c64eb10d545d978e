"""Partial output of a run, from which the same command continues.

The first line of ``OUTPUT.part`` is a fingerprint of everything that the answers depend on.
One line per answer follows, in the order of generation, each flushed at once. When all answers
exist, ``OUTPUT`` is written in the order of the prompts.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from entrypoints.runtime.disk import writing_below
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import json_files
from paddle_stacks.jobs.files import remove_unfinished, replacing_file

__all__ = ["PartialOutput", "open_partial"]

_FINGERPRINT = "begun_with"


class PartialOutput:
    """The finished answers, by the number of their prompt.

    Args:
        stream: the file, open for appending.
        done: the answers in it.
    """

    def __init__(self, stream: IO[str], done: dict[int, Mapping[str, Any]]) -> None:
        self._stream = stream
        self.done = done

    def add(self, number: int, line: Mapping[str, Any]) -> None:
        """Append an answer; from here on it survives the process."""
        self._stream.write(_encoded({"number": number, "line": line}))
        self._stream.flush()
        self.done[number] = line


@contextmanager
def open_partial(
    output: Path, fingerprint: Mapping[str, str], ids: Sequence[str | int], *, force: bool
) -> Iterator[PartialOutput]:
    """Yield the partial output; write ``output`` when the block succeeds.

    If the block raises, the partial output stays for the next run.

    Args:
        output: the final file.
        fingerprint: of everything that the answers depend on.
        ids: the prompts' IDs, in their order.
        force: whether to replace an existing output, and a partial one of other options.

    Raises:
        RequestError: the output exists, another job is writing it, or the partial output
            belongs to other options.
        MachineError: the file cannot be written.
    """
    path = output.with_name(output.name + ".part")
    # If both exist, a run may have been killed before it removed the partial output.
    _check_free(output, force or path.exists())
    with writing_below(path.parent), _locked(path, output) as stream:
        remove_unfinished(output)
        done = _read(stream, path, fingerprint, ids, force)
        _check_free(output, force or len(done) == len(ids))
        part = PartialOutput(stream, done)
        yield part
        with replacing_file(output) as final:
            for number in range(len(ids)):
                final.write(_encoded(part.done[number]))
        path.unlink()


def _check_free(output: Path, allowed: bool) -> None:
    if output.is_dir():
        raise RequestError("the output is a folder", where=str(output), remedy="use a file")
    if output.exists() and not allowed:
        remedy = "use another --output, or replace it with --force"
        raise RequestError("the output exists", where=str(output), remedy=remedy)


@contextmanager
def _locked(path: Path, output: Path) -> Iterator[IO[str]]:
    """Yield the partial output, open and locked."""
    try:
        with writing_below(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        fault = f"the output cannot be written: {error.strerror}"
        raise RequestError(
            fault,
            where=str(path.parent),
            remedy="use --output FILE in a writable folder of the workspace",
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait for it, or use another --output"
            fault = "another job is writing this output"
            raise RequestError(fault, where=str(output), remedy=remedy) from None
        # Another job may have finished and removed the file between opening and locking.
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(stream.fileno())):
            raise RequestError(
                "another job has just finished this output",
                where=str(output),
                remedy="--force computes it again",
            )
        yield stream


def _read(
    stream: IO[str],
    path: Path,
    fingerprint: Mapping[str, str],
    ids: Sequence[str | int],
    force: bool,
) -> dict[int, Mapping[str, Any]]:
    """Return the answers of a partial output with this fingerprint; start one if there is none."""
    # As bytes: the last line may be cut, even within a character.
    whole = path.read_bytes().splitlines(keepends=True)
    if whole and not whole[-1].endswith(b"\n"):
        del whole[-1]
    stored = _decoded(whole[0], path).get(_FINGERPRINT) if whole else None
    if stored != dict(fingerprint):
        if whole and not force:
            raise _other_options(path, stored, fingerprint)
        stream.truncate(0)
        stream.write(_encoded({_FINGERPRINT: dict(fingerprint)}))
        stream.flush()
        return {}
    stream.truncate(sum(map(len, whole)))
    done: dict[int, Mapping[str, Any]] = {}
    for text in whole[1:]:
        entry = _decoded(text, path)
        number, line = entry.get("number"), entry.get("line")
        if not isinstance(number, int) or not isinstance(line, dict):
            raise _damaged(path)
        if not 0 <= number < len(ids) or line.get("id") != ids[number]:
            raise _damaged(path)
        done[number] = line
    return done


def _other_options(path: Path, stored: Any, fingerprint: Mapping[str, str]) -> RequestError:
    if not isinstance(stored, dict):
        return _damaged(path)
    names = [name for name in fingerprint if stored.get(name) != fingerprint[name]]
    return RequestError(
        f"the partial output was started with other values of {', '.join(names)}",
        where=str(path),
        remedy="use the same options, or start again with --force",
    )


def _decoded(line: bytes, path: Path) -> dict[str, Any]:
    try:
        entry = json_files.parse(line)
    except ValueError:
        raise _damaged(path) from None
    if not isinstance(entry, dict):
        raise _damaged(path)
    return entry


def _damaged(path: Path) -> RequestError:
    remedy = "remove it, or start again with --force"
    return RequestError("this is not a partial output of infer", where=str(path), remedy=remedy)


def _encoded(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
