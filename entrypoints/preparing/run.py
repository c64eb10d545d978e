"""The preparation: one process reads and writes in order, the others tokenize."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from entrypoints.preparing import documents, encoding, journal
from entrypoints.preparing.documents import MAX_REPORTED, Rules
from entrypoints.preparing.journal import State
from entrypoints.preparing.reading import Block, Position, Reader
from entrypoints.runtime.console import note, report, warn
from entrypoints.runtime.stop import StopSignal
from paddle_stacks.errors import JobError, Problem, RequestError, Stopped
from paddle_stacks.jobs.corpus import STDIN, Source

__all__ = ["SIZES", "TOKENS", "Task", "lines", "prepare", "resumable"]

TOKENS, SIZES = "tokens", "sizes"  # the files in the partial folder
_AHEAD = 4  # queued blocks per worker
_PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Task:
    """The settings of a preparation.

    Args:
        sources: the inputs, in order.
        rules: for parsing documents.
        model: the folder of the model with the tokenizer.
        append_eos: whether to append the end token to every document.
        fail: whether to stop at the first bad record.
        workers: tokenizing processes.
        save_seconds: the interval between journal entries.
        request: everything that determines the corpus, for the journal.
    """

    sources: tuple[Source, ...]
    rules: Rules
    model: Path
    append_eos: bool
    fail: bool
    workers: int
    save_seconds: float
    request: dict[str, Any]


@dataclass(frozen=True)
class _Worker:
    """The state of a worker process."""

    encode: encoding.Encode
    code: int
    rules: Rules
    end: bytes


@dataclass(frozen=True)
class _EncodedBlock:
    """A tokenized block.

    Args:
        tokens: of its documents, in stored form.
        sizes: of its documents, 4 bytes each.
        reasons: the number of bad records, by reason.
        bad: line and reason of the first bad records.
    """

    tokens: bytes
    sizes: bytes
    reasons: dict[str, int]
    bad: list[tuple[int, str]]


_worker: _Worker | None = None  # set before the workers are forked, which share its memory


def prepare(task: Task, folder: Path, tokenizer: Any, start: State, stop: StopSignal) -> State:
    """Write the tokens and the lengths of all documents into the folder.

    Args:
        task: the settings.
        folder: the partial folder.
        tokenizer: PaddleNLP's.
        start: the state to resume from.
        stop: the signal to stop, which is checked after every block; an exception at any
            other point could be lost in a destructor.

    Returns:
        The final state, which is on the disk.

    Raises:
        RequestError: an input is damaged or, with ``task.fail``, has a bad record.
        JobError: a worker was killed.
        Stopped: a signal was received; the progress is on the disk.
    """
    global _worker
    code = encoding.type_code(tokenizer)
    end = encoding.stored([tokenizer.eos_token_id] if task.append_eos else [], code)
    _worker = _Worker(encoding.encoder(tokenizer), code, task.rules, end)
    with (
        _continued(folder / TOKENS, start.tokens.size) as tokens,
        _continued(folder / SIZES, start.sizes.size) as sizes,
    ):
        writer = _Writer(task, folder, tokens, sizes, start, stop)
        pool = ProcessPoolExecutor(task.workers, multiprocessing.get_context("fork"), _begin_worker)
        try:
            _run(task, pool, writer)
        except BrokenProcessPool as error:
            raise JobError(
                "a tokenizing process was killed",
                remedy="if memory is short, use --workers 1; the same command resumes",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
        writer.save(complete=True)
    return writer.state


def _run(task: Task, pool: ProcessPoolExecutor, writer: _Writer) -> None:
    # The writer's tasks, in order. The next file is read while blocks of the previous ones are
    # being tokenized.
    under_way: deque[Callable[[], None]] = deque()
    start = writer.state.position
    for source in task.sources[writer.state.source :]:
        reader = Reader(source, task.rules.document)
        try:
            for block in reader.blocks(start):
                future = pool.submit(_make, block, source.format)
                under_way.append(partial(_take, writer, future, block.end, source))
                while len(under_way) > _AHEAD * task.workers:
                    under_way.popleft()()
            under_way.append(partial(writer.end_source, reader.sha256()))
        finally:
            reader.close()
        start = Position()
    while under_way:
        under_way.popleft()()


def _take(
    writer: _Writer, future: Future[_EncodedBlock], position: Position, source: Source
) -> None:
    writer.add(future.result(), position, source)


def _begin_worker() -> None:
    # Ctrl-C reaches all processes of a terminal, but the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core


def _make(block: Block, form: str) -> _EncodedBlock:
    """Tokenize a block's documents; runs in a worker."""
    assert _worker is not None
    parsed = documents.documents(block, form, _worker.rules)
    batch = encoding.Batch(_worker.code)
    encoded = _worker.encode(parsed.texts) if parsed.texts else []
    for line, tokens in zip(parsed.lines, encoded, strict=True):
        if tokens:
            batch.add(tokens + _worker.end)
        else:
            parsed.reject(line, "empty", ": no tokens")
    return _EncodedBlock(batch.tokens, batch.sizes, dict(parsed.reasons), parsed.bad)


class _Writer:
    """Writes the tokenized blocks in order, and keeps the journal."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        tokens: IO[bytes],
        sizes: IO[bytes],
        start: State,
        stop: StopSignal,
    ) -> None:
        self.state = start
        self._task = task
        self._folder = folder
        self._stop = stop
        self._tokens, self._sizes = tokens, sizes
        self._saved = time.monotonic()
        self._progress = _Progress(task.sources, start)

    def add(self, encoded: _EncodedBlock, position: Position, source: Source) -> None:
        """Write a tokenized block."""
        if encoded.bad and self._task.fail:
            raise RequestError(
                [
                    Problem(why, f"{source.path}:{line}", "correct the line")
                    for line, why in encoded.bad
                ]
                + [
                    Problem(
                        "bad records end it",
                        "--on-bad fail",
                        "use --on-bad skip to skip and count them",
                    )
                ]
            )
        self._tokens.write(encoded.tokens)
        self._sizes.write(encoded.sizes)
        state = self.state
        shown = [(f"{source.path}:{line}", why) for line, why in encoded.bad]
        shown = shown[: MAX_REPORTED - len(state.bad)]
        for where, why in shown:
            warn(f"skipped: {where}: {why}")
        self.state = replace(
            state,
            position=position,
            tokens=state.tokens.longer_by(encoded.tokens),
            sizes=state.sizes.longer_by(encoded.sizes),
            documents=state.documents + len(encoded.sizes) // 4,
            reasons=dict(Counter(state.reasons) + Counter(encoded.reasons)),
            bad=(*state.bad, *shown),
        )
        self._progress.tell(self.state)
        if self._stop.received is not None:
            self.save()
            raise Stopped(self._stop.received)
        if time.monotonic() - self._saved >= self._task.save_seconds:
            self.save()

    def end_source(self, sha256: str) -> None:
        """Record the end of an input."""
        self.state = replace(
            self.state,
            source=self.state.source + 1,
            position=Position(),
            hashes=(*self.state.hashes, sha256),
        )

    def save(self, *, complete: bool = False) -> None:
        """Flush all data to the disk, then write the journal."""
        self.state = replace(self.state, complete=complete)
        for stream in (self._tokens, self._sizes):
            stream.flush()
            os.fsync(stream.fileno())
        journal.write(self._folder, self.state)
        self._saved = time.monotonic()


class _Progress:
    """Reports progress, speed and remaining time."""

    def __init__(self, sources: tuple[Source, ...], start: State) -> None:
        self._before = [sum(s.size for s in sources[:n]) for n in range(len(sources) + 1)]
        self._endless = any(source.path == STDIN for source in sources)
        self._first = self._done(start)
        self._began = self._told = time.monotonic()

    def _done(self, state: State) -> int:
        return self._before[state.source] + state.position.raw

    def tell(self, state: State) -> None:
        """Report at most once per second."""
        now = time.monotonic()
        if now - self._told < _PROGRESS_SECONDS:
            return
        self._told = now
        done, total = self._done(state), self._before[-1]
        speed = (done - self._first) / (now - self._began)
        unit = f"MB, {speed / 1e6:.1f} MB/s, {state.documents} documents"
        if not self._endless and speed:
            unit += f", {max(0, total - done) / speed:.0f} s left"
        report(
            "progress",
            what="read",
            done=round(done / 1e6, 1),
            total=None if self._endless else round(total / 1e6, 1),
            unit=unit,
        )


def resumable(folder: Path, request: dict[str, Any]) -> State | None:
    """Return the state to resume from, or None if the folder cannot be used."""
    state = journal.read(folder)
    if state is None:
        return None
    if state.request != request:
        note("what an earlier command left is of other inputs or options: from the beginning")
        return None
    # Complete and without tokens: they have their final name already.
    named = state.complete and not (folder / TOKENS).exists()
    whole = named or state.tokens.is_in(folder / TOKENS)
    if not whole or not state.sizes.is_in(folder / SIZES):
        warn("what an earlier command left is damaged: from the beginning")
        return None
    return state


def _continued(path: Path, size: int) -> IO[bytes]:
    """Open a growing file at the place up to which it is known to be right."""
    stream = path.open("r+b" if path.exists() else "w+b")
    stream.truncate(size)
    stream.seek(size)
    return stream


def lines(state: State) -> Iterator[str]:
    """Yield what a person should know of the bad records, a line each."""
    total = sum(state.reasons.values())
    if total:
        yield f"{total} bad records were skipped" + (
            f"; the first {len(state.bad)} are named above" if total > len(state.bad) else ""
        )
        for reason, count in sorted(state.reasons.items(), key=lambda item: -item[1]):
            yield f"  {count} of them: {reason}"
