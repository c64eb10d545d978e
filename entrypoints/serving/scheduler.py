"""What the engine does next: who is let in, whose prompt is read, who gets a token.

Texts under way are one batch, in which each has a place of its own: a text joins it as
soon as its prompt has been read, and leaves it with its last token, between two steps of
the others. A round is

1. places: works are let in, in the order they came, while there are places and memory;
2. reading: at most ``prefill_tokens`` tokens of prompts are read, so that a long prompt
   delays everybody's next token by no more than that. Prompts take turns: a short one
   behind a long one waits for one part of it, not for all of it. Short ones are read
   together;
3. a step: every text in the batch gets its next token.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from entrypoints.inference.generate import Row
from entrypoints.inference.protocols import Decoding, LanguageModel
from entrypoints.inference.sampling import Choice, Chooser, choice
from entrypoints.inference.text import Text
from entrypoints.runtime.console import warn
from entrypoints.serving.metrics import Metrics
from entrypoints.serving.request_queue import RequestQueue
from entrypoints.serving.work import Failure, Piece, PromptLogprobs, Work

__all__ = ["Scheduler", "Space", "describe"]


@dataclass(frozen=True)
class Space:
    """What there is room for.

    Args:
        places: answers that are worked at together.
        cache_tokens: tokens whose keys and values are kept. In a batch every text takes
            as much as the longest, so this bounds places x the longest text.
        prefill_tokens: tokens of prompts that are read in a round.
        waiting: requests that may wait for a place.
        waiting_per_client: of one client; 0 where clients have no names.
    """

    places: int
    cache_tokens: int
    prefill_tokens: int
    waiting: int
    waiting_per_client: int = 0


@dataclass
class _Reading:
    """A work whose prompt is being read."""

    work: Work
    batch: Decoding
    done: int = 0
    alone: bool = False  # not together with others: that has failed
    choices: list[Choice] = field(default_factory=list)  # of the prompt's tokens

    @property
    def left(self) -> int:
        return len(self.work.prompt) - self.done


@dataclass
class _Answer:
    """One answer under way."""

    work: Work
    index: int
    row: Row
    choices: list[Choice] = field(default_factory=list)  # not told yet
    pending: int = 0  # the token that the model has not been given yet
    last: float | None = None  # when the token before it was there


class Scheduler:
    """Works in the order of their coming, for one thread.

    Args:
        network: the model.
        text: its tokenizer.
        space: what there is room for.
        metrics: is told what happens.
        clock: seconds from any beginning.

    Attributes:
        waiting: works that have no place yet.
        taken: places that are taken.
        ended: works that have ended so far.
    """

    def __init__(
        self,
        network: LanguageModel,
        text: Text,
        space: Space,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._network = network
        self._text = text
        self._space = space
        self._metrics = metrics
        self._clock = clock
        self.waiting = RequestQueue()
        self.taken = self.ended = 0
        self._reading: deque[_Reading] = deque()
        self._answers: list[_Answer] = []
        self._batch: Decoding | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.waiting or self._reading or self._answers)

    def round(self) -> None:
        """Do the next piece of work."""
        self._drop()
        self._let_in()
        read = self._read()
        count = len(self._answers)
        self._step()
        self._metrics.round(read + count)
        self._tell()

    def _tell(self) -> None:
        self.taken = len(self._answers) + sum(r.work.count for r in self._reading)
        columns = self._batch.columns if self._batch else 0
        used = columns * len(self._answers) + sum(r.done * r.work.count for r in self._reading)
        running = len({id(w) for w in self._under_way()})
        self._metrics.state(running, len(self.waiting), used / self._space.cache_tokens)

    def fail(self, kind: str, cause: str = "") -> None:
        """End all works that have begun, and begin anew with those that wait.

        Args:
            kind: why; see :class:`entrypoints.serving.work.Failure`.
            cause: the exception, for the log.
        """
        works = {id(work): work for work in self._under_way()}
        self._reading.clear()
        self._answers, self._batch = [], None
        for work in works.values():
            self._fail(work, kind, cause)
        self._tell()

    def fail_waiting(self, kind: str) -> None:
        """End the works that wait."""
        for work in self.waiting.clear():
            self._fail(work, kind)
        self._tell()

    def _under_way(self) -> list[Work]:
        return [r.work for r in self._reading] + [a.work for a in self._answers]

    def _fail(self, work: Work, kind: str, cause: str = "") -> None:
        self.ended += 1
        self._metrics.ended(work, "error" if kind == "fault" else "abort", self._clock())
        if not work.cancelled:
            work.listen(Failure(kind, work.started is not None, cause))

    def _fault(self, works: Sequence[Work], error: Exception) -> None:
        """End works whose own computation failed; the others go on."""
        trace = "".join(traceback.format_exception(error))
        warn(f"a request failed in the engine:\n{trace}")
        for work in works:
            self._fail(work, "fault", describe(error))

    def _drop(self) -> None:
        """Let go of works that nobody wants any more, and of those whose time is over."""
        now = self._clock()
        for work in self.waiting.pop_ended(now):
            self._fail(work, "timeout")
        over = {id(w): w for w in self._under_way() if w.cancelled or now >= w.deadline}
        if not over:
            return
        self._reading = deque(r for r in self._reading if id(r.work) not in over)
        self._keep([at for at, a in enumerate(self._answers) if id(a.work) not in over])
        for work in over.values():
            self._fail(work, "timeout")

    def _let_in(self) -> None:
        while (work := self.waiting.peek()) and self._fits(work):
            work = self.waiting.pop()
            work.started = self._clock()
            self._reading.append(_Reading(work, self._network.begin(1)))

    def _fits(self, work: Work) -> bool:
        """Return whether a work fits beside the others, however long all of them get."""
        taken = len(self._answers) + sum(r.work.count for r in self._reading)
        places = taken + work.count
        longest = max(w.longest for w in (work, *self._under_way()))
        # Alone it fits in any case: what is too long for that is refused when it comes.
        memory = not taken or places * longest <= self._space.cache_tokens
        return places <= self._space.places and memory

    def _read(self) -> int:
        """Read parts of prompts and return how many tokens that were.

        What is read stays in the list until it is through, so that nobody is forgotten
        where reading fails.
        """
        if not self._reading:
            return 0
        if len(together := self._short_ones()) > 1:
            try:
                batch = self._read_together(together)
            except Exception:  # one of them is at fault, and only its own request fails
                for reading in together:
                    reading.alone = True
                return 0
            self._begin_answers(batch, [r.work for r in together])
            for _ in together:
                self._reading.popleft()
            return sum(len(r.work.prompt) for r in together)
        first = self._reading[0]
        count = min(first.left, self._space.prefill_tokens)
        try:
            self._read_part(first, count)
        except Exception as error:
            self._reading.popleft()
            self._fault([first.work], error)
            return count
        first.done += count
        if first.left:
            self._reading.rotate(-1)  # the others' turn
        else:
            if first.work.num_prompt_logprobs is not None:
                first.work.listen(PromptLogprobs(tuple(first.choices)))
            self._begin_answers(first.batch, [first.work])
            self._reading.popleft()
        return count

    def _read_part(self, reading: _Reading, count: int) -> None:
        work, done = reading.work, reading.done
        tokens = np.array([work.prompt[done : done + count]], dtype=np.int64)
        if work.num_prompt_logprobs is None:
            reading.batch.read(tokens, np.ones_like(tokens, dtype=bool))
            return
        logits = reading.batch.read_all(tokens)
        following = work.prompt[done + 1 : done + count + 1]
        # Behind the last token of the prompt stands the answer's first, which is not chosen yet.
        for row, token in zip(logits, following, strict=False):
            reading.choices.append(choice(row, token, work.num_prompt_logprobs))

    def _short_ones(self) -> list[_Reading]:
        """Return the prompts, from the first in turn, that can be read whole and at once."""
        readings: list[_Reading] = []
        longest = 0
        for reading in self._reading:
            longest = max(longest, reading.left)
            # A batch is as long as its longest: padding costs as much as what is read.
            if longest * (len(readings) + 1) > self._space.prefill_tokens or not _joinable(reading):
                break
            readings.append(reading)
        return readings

    def _read_together(self, readings: Sequence[_Reading]) -> Decoding:
        longest = max(r.left for r in readings)
        tokens = np.zeros((len(readings), longest), dtype=np.int64)
        is_token = np.zeros_like(tokens, dtype=bool)
        for at, reading in enumerate(readings):
            tokens[at, longest - reading.left :] = reading.work.prompt
            is_token[at, longest - reading.left :] = True
        batch = self._network.begin(len(readings))
        batch.read(tokens, is_token)
        return batch

    def _begin_answers(self, batch: Decoding, works: Sequence[Work]) -> None:
        """Choose the first tokens of works that have been read, and let them join the others."""
        rows = [at for at, work in enumerate(works) for _ in range(work.count)]
        if rows != list(range(len(works))):
            batch.keep(rows)  # every answer of a work goes on from the same prompt
        answers = [
            _Answer(
                work,
                index,
                Row(
                    self._text,
                    work.prompt,
                    Chooser(work.sampling, index, work.prompt),
                    work.limits,
                ),
            )
            for work in works
            for index in range(work.count)
        ]
        now = self._clock()
        for work in works:
            work.first_token = now
            self._metrics.first_token(work, now)
        unfinished = self._choose(batch, answers)
        if not unfinished:
            return
        if len(unfinished) < len(answers):
            batch.keep(unfinished)
        self._answers += [answers[at] for at in unfinished]
        if self._batch is None:
            self._batch = batch
        else:
            self._batch.join(batch)

    def _step(self) -> None:
        if self._batch is None:
            return
        self._batch.step([answer.pending for answer in self._answers])
        self._keep(self._choose(self._batch, self._answers))

    def _keep(self, rows: Sequence[int]) -> None:
        if len(rows) == len(self._answers):
            return
        self._answers = [self._answers[at] for at in rows]
        if not rows:
            self._batch = None
        elif self._batch is not None:
            self._batch.keep(rows)

    def _choose(self, batch: Decoding, answers: Sequence[_Answer]) -> list[int]:
        """Choose every answer's next token, tell it, and return which answers go on."""
        failed: set[int] = set()
        now = self._clock()
        for answer, logits in zip(answers, batch.logits, strict=True):
            if id(answer.work) in failed:
                continue
            if answer.last is not None:
                self._metrics.between_tokens(now - answer.last)
            answer.last = now
            try:
                self._take(answer, logits, now)
            except Exception as error:
                failed.add(id(answer.work))
                self._fault([answer.work], error)
        return [
            at
            for at, answer in enumerate(answers)
            if not answer.row.reason and id(answer.work) not in failed
        ]

    def _take(self, answer: _Answer, logits: npt.NDArray[np.float32], now: float) -> None:
        work, row = answer.work, answer.row
        text = ""
        if work.limits.max_new_tokens:
            token = answer.pending = row.choose(logits)
            before = len(row.tokens)
            text = row.take(token)
            grown = len(row.tokens) > before
            work.tokens += grown
            # Clients that want a prompt's logprobs cut the last entry off as the generated
            # token, so it must be there even if it is an end token.
            if work.likeliest is not None and (grown or work.num_prompt_logprobs is not None):
                answer.choices.append(choice(logits, token, work.likeliest))
        else:
            row.reason = "length"
        if row.reason:
            work.finish_reasons[answer.index] = row.reason
        if text or row.reason:
            choices, answer.choices = tuple(answer.choices), []
            work.listen(Piece(answer.index, text, choices, len(row.tokens), row.reason))
        if len(work.finish_reasons) == work.count:
            self.ended += 1
            self._metrics.ended(work, "", now)


def _joinable(reading: _Reading) -> bool:
    """Return whether a prompt can be read in one batch with others."""
    return not (reading.done or reading.alone or reading.work.num_prompt_logprobs is not None)


def describe(error: BaseException) -> str:
    """Return an exception's type and message, as a log has it."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
