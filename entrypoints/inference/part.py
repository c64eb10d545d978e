"""The unfinished output of a run, from which the same command goes on.

``OUTPUT.part`` begins with a line that says what the answers depend on; a line
per answer follows, in the order they were made, each flushed when it was made.
When all are there, ``OUTPUT`` is written in the order of the prompts.
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

__all__ = ["Part", "open_part"]

_BEGUN_WITH = "begun_with"


class Part:
    """Answers that are done, by the number of their prompt.

    Args:
        stream: the file, open for appending.
        done: the answers it holds.
    """

    def __init__(self, stream: IO[str], done: dict[int, Mapping[str, Any]]) -> None:
        self._stream = stream
        self.done = done

    def add(self, number: int, line: Mapping[str, Any]) -> None:
        """Append an answer; it survives the process from here on."""
        self._stream.write(_encoded({"number": number, "line": line}))
        self._stream.flush()
        self.done[number] = line


@contextmanager
def open_part(
    output: Path, fingerprint: Mapping[str, str], ids: Sequence[str | int], *, force: bool
) -> Iterator[Part]:
    """Yield what is done of ``output``; write ``output`` when the block ends well.

    If the block raises, the part stays for the next run.

    Args:
        output: the file that is wanted.
        fingerprint: what the answers depend on.
        ids: the prompts' ids, in their order.
        force: whether an existing output is replaced and a part of other options dropped.

    Raises:
        RequestError: the output exists, another job is writing it, or its part
            was begun with other options.
        MachineError: the machine does not let us write.
    """
    path = output.with_name(output.name + ".part")
    # With a part beside it, the output may be that of a run killed before it removed the part.
    _check_free(output, force or path.exists())
    with writing_below(path.parent), _locked(path, output) as stream:
        remove_unfinished(output)
        done = _read(stream, path, fingerprint, ids, force)
        _check_free(output, force or len(done) == len(ids))
        part = Part(stream, done)
        yield part
        with replacing_file(output) as final:
            for number in range(len(ids)):
                final.write(_encoded(part.done[number]))
        path.unlink()


def _check_free(output: Path, allowed: bool) -> None:
    if output.is_dir():
        raise RequestError("the output is a folder", where=str(output), remedy="name a file")
    if output.exists() and not allowed:
        remedy = "name another --output, or replace it with --force"
        raise RequestError("the output exists", where=str(output), remedy=remedy)


@contextmanager
def _locked(path: Path, output: Path) -> Iterator[IO[str]]:
    """Yield the part, open and ours alone."""
    try:
        with writing_below(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        fault = f"the output cannot be written: {error.strerror}"
        raise RequestError(
            fault,
            where=str(path.parent),
            remedy="--output FILE, in a folder of the workspace that may be written",
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait for it, or name another --output"
            fault = "another job is writing this output"
            raise RequestError(fault, where=str(output), remedy=remedy) from None
        # Between opening and locking, the one before us may have finished and removed the file.
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
    """Return the answers of a part that was begun with the same; begin it if there is none."""
    # As bytes: the last line may be torn, in the middle of a character too.
    whole = path.read_bytes().splitlines(keepends=True)
    if whole and not whole[-1].endswith(b"\n"):
        del whole[-1]
    begun_with = _decoded(whole[0], path).get(_BEGUN_WITH) if whole else None
    if begun_with != dict(fingerprint):
        if whole and not force:
            raise _begun_differently(path, begun_with, fingerprint)
        stream.truncate(0)
        stream.write(_encoded({_BEGUN_WITH: dict(fingerprint)}))
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


def _begun_differently(path: Path, begun_with: Any, fingerprint: Mapping[str, str]) -> RequestError:
    if not isinstance(begun_with, dict):
        return _damaged(path)
    names = [name for name in fingerprint if begun_with.get(name) != fingerprint[name]]
    return RequestError(
        f"unfinished answers are there, and were begun with other {', '.join(names)}",
        where=str(path),
        remedy="go on with the same, or begin anew with --force",
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
    remedy = "remove it, or begin anew with --force"
    return RequestError("these are not unfinished answers of infer", where=str(path), remedy=remedy)


def _encoded(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
