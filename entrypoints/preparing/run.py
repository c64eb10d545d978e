"""The preparation: one process reads and writes in order, the others make tokens of text."""

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
from entrypoints.preparing.documents import SHOWN, Rules
from entrypoints.preparing.journal import State
from entrypoints.preparing.reading import Block, Place, Reader
from entrypoints.runtime.console import note, report, warn
from entrypoints.runtime.stop import StopSignal
from paddle_stacks.errors import JobError, Problem, RequestError, Stopped
from paddle_stacks.jobs.corpus import STDIN, Source

__all__ = ["SIZES", "TOKENS", "Task", "lines", "prepare", "resumable"]

TOKENS, SIZES = "tokens", "sizes"  # the growing files in the partial folder
_AHEAD = 4  # blocks under way for each worker
_PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Task:
    """What is to be prepared.

    Args:
        sources: the inputs, in order.
        rules: how documents are read.
        model: the folder of the model whose tokenizer is used.
        append_eos: whether the end token follows every document.
        fail: whether the first bad record ends it.
        workers: processes that make tokens.
        save_seconds: from one record of the progress on the disk to the next.
        request: all of this that decides what comes out, for the journal.
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
    """What a worker has beside the blocks it gets."""

    encode: encoding.Encode
    code: int
    rules: Rules
    end: bytes


@dataclass(frozen=True)
class _Made:
    """What a block became.

    Args:
        tokens: of its documents, as they are stored.
        sizes: of its documents, 4 bytes each.
        reasons: bad records by reason.
        bad: line and reason of the first of them.
    """

    tokens: bytes
    sizes: bytes
    reasons: dict[str, int]
    bad: list[tuple[int, str]]


_worker: _Worker | None = None  # set before the workers are forked, which share its memory


def prepare(task: Task, folder: Path, tokenizer: Any, start: State, stop: StopSignal) -> State:
    """Write the tokens and the lengths of all documents into the folder.

    Args:
        task: what to do.
        folder: the partial folder.
        tokenizer: PaddleNLP's.
        start: the state to go on from.
        stop: the signal to leave, which is looked at after every block: raised anywhere it
            could be lost in a destructor.

    Returns:
        The state at the end, which is on the disk.

    Raises:
        RequestError: an input is damaged or, with ``task.fail``, has a bad record.
        JobError: a worker was killed.
        Stopped: by a signal; what was done until then is on the disk.
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
                "a process that makes tokens was ended from outside",
                remedy="is memory short? the same command goes on where it stopped; --workers 1",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
        writer.save(complete=True)
    return writer.state


def _run(task: Task, pool: ProcessPoolExecutor, writer: _Writer) -> None:
    # What the writer does next, in order. Small files do not wait for one another: the next
    # one is read while blocks of those before are under way.
    under_way: deque[Callable[[], None]] = deque()
    start = writer.state.place
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
        start = Place()
    while under_way:
        under_way.popleft()()


def _take(writer: _Writer, future: Future[_Made], place: Place, source: Source) -> None:
    writer.add(future.result(), place, source)


def _begin_worker() -> None:
    # The parent ends its workers; Ctrl-C reaches all of a terminal's processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are as many as the cores


def _make(block: Block, form: str) -> _Made:
    """Make tokens of a block's documents; in a worker."""
    assert _worker is not None
    parsed = documents.documents(block, form, _worker.rules)
    batch = encoding.Batch(_worker.code)
    encoded = _worker.encode(parsed.texts) if parsed.texts else []
    for line, tokens in zip(parsed.lines, encoded, strict=True):
        if tokens:
            batch.add(tokens + _worker.end)
        else:
            parsed.reject(line, "empty", ": no tokens")
    return _Made(batch.tokens, batch.sizes, dict(parsed.reasons), parsed.bad)


class _Writer:
    """Writes what the workers made, in order, and records how far that is."""

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

    def add(self, encoded: _Made, place: Place, source: Source) -> None:
        """Write what became of a block."""
        if encoded.bad and self._task.fail:
            raise RequestError(
                [
                    Problem(why, f"{source.path}:{line}", "mend the line")
                    for line, why in encoded.bad
                ]
                + [Problem("bad records end it", "--on-bad fail", "--on-bad skip counts them")]
            )
        self._tokens.write(encoded.tokens)
        self._sizes.write(encoded.sizes)
        state = self.state
        shown = [(f"{source.path}:{line}", why) for line, why in encoded.bad]
        shown = shown[: SHOWN - len(state.bad)]
        for where, why in shown:
            warn(f"skipped: {where}: {why}")
        self.state = replace(
            state,
            place=place,
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
        """Note that an input is read to its end."""
        self.state = replace(
            self.state,
            source=self.state.source + 1,
            place=Place(),
            hashes=(*self.state.hashes, sha256),
        )

    def save(self, *, complete: bool = False) -> None:
        """Put everything on the disk, and then the journal that says so."""
        self.state = replace(self.state, complete=complete)
        for stream in (self._tokens, self._sizes):
            stream.flush()
            os.fsync(stream.fileno())
        journal.write(self._folder, self.state)
        self._saved = time.monotonic()


class _Progress:
    """Says how far it is, how fast, and how long it will take."""

    def __init__(self, sources: tuple[Source, ...], start: State) -> None:
        self._before = [sum(s.size for s in sources[:n]) for n in range(len(sources) + 1)]
        self._endless = any(source.path == STDIN for source in sources)
        self._first = self._done(start)
        self._began = self._told = time.monotonic()

    def _done(self, state: State) -> int:
        return self._before[state.source] + state.place.raw

    def tell(self, state: State) -> None:
        """Report, if the last report is a second old."""
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
    """Return the state to go on from, or None if what is in the folder is of no use."""
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
