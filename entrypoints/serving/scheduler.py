"""Scheduler with continuous batching.

All running sequences form one batch. A sequence joins it after the prefill of its prompt and
leaves it with its last token, between two steps of the others. A step consists of

1. admission: waiting requests are admitted in their order, as far as sequences and memory
   allow;
2. prefill: of at most ``prefill_tokens`` tokens, which limits the delay of the running
   sequences. Prompts take turns, so a short one waits for one part of a long one only. Short
   prompts are prefilled in a batch;
3. decoding: every sequence of the batch gets its next token.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from entrypoints.inference.generate import RunningSequence
from entrypoints.inference.protocols import Decoding, LanguageModel
from entrypoints.inference.sampling import SampledToken, Sampler, sampled_token
from entrypoints.inference.text import Text
from entrypoints.runtime.console import warn
from entrypoints.serving.metrics import Metrics
from entrypoints.serving.request import Failure, PromptLogprobs, Request, RequestOutput
from entrypoints.serving.request_queue import RequestQueue

__all__ = ["Scheduler", "SchedulerConfig", "describe"]


@dataclass(frozen=True)
class SchedulerConfig:
    """Limits of the scheduler.

    Args:
        max_num_seqs: the maximum number of running sequences.
        cache_tokens: tokens in the KV cache. Every sequence of a batch uses as much as the
            longest, so this limits the number of sequences x the longest one.
        prefill_tokens: tokens of prompts per step.
        max_waiting: the maximum number of waiting requests.
        max_waiting_per_client: the same for one client; 0 for no such limit.
    """

    max_num_seqs: int
    cache_tokens: int
    prefill_tokens: int
    max_waiting: int
    max_waiting_per_client: int = 0


@dataclass
class _Prefill:
    """A request during prefill."""

    request: Request
    batch: Decoding
    done: int = 0
    is_alone: bool = False  # a batch with others has failed
    choices: list[SampledToken] = field(default_factory=list)  # of the prompt's tokens

    @property
    def left(self) -> int:
        return len(self.request.prompt) - self.done


@dataclass
class _Running:
    """A running sequence of a request."""

    request: Request
    index: int
    row: RunningSequence
    choices: list[SampledToken] = field(default_factory=list)  # not reported yet
    pending: int = 0  # the token to feed next
    last: float | None = None  # the time of the previous token


class Scheduler:
    """Schedules requests; used by one thread.

    Args:
        network: the model.
        text: its tokenizer.
        config: the limits.
        metrics: updated.
        clock: returns seconds.

    Attributes:
        waiting: the queue of requests that are not admitted yet.
        used_seqs: the number of admitted sequences.
        ended: the number of requests that have ended.
    """

    def __init__(
        self,
        network: LanguageModel,
        text: Text,
        config: SchedulerConfig,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._network = network
        self._text = text
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self.waiting = RequestQueue()
        self.used_seqs = self.ended = 0
        self._prefilling: deque[_Prefill] = deque()
        self._running: list[_Running] = []
        self._batch: Decoding | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.waiting or self._prefilling or self._running)

    def step(self) -> None:
        """Run one step."""
        self._remove_ended()
        self._admit()
        read = self._prefill()
        count = len(self._running)
        self._decode()
        self._metrics.step(read + count)
        self._update_metrics()

    def _update_metrics(self) -> None:
        self.used_seqs = len(self._running) + sum(r.request.count for r in self._prefilling)
        columns = self._batch.columns if self._batch else 0
        used = columns * len(self._running) + sum(
            r.done * r.request.count for r in self._prefilling
        )
        running = len({id(w) for w in self._active_requests()})
        self._metrics.state(running, len(self.waiting), used / self._config.cache_tokens)

    def fail(self, kind: str, cause: str = "") -> None:
        """End all admitted requests; the waiting ones stay.

        Args:
            kind: the reason; see :class:`entrypoints.serving.request.Failure`.
            cause: the exception, for the log.
        """
        requests = {id(request): request for request in self._active_requests()}
        self._prefilling.clear()
        self._running, self._batch = [], None
        for request in requests.values():
            self._fail(request, kind, cause)
        self._update_metrics()

    def fail_waiting(self, kind: str) -> None:
        """End the waiting requests."""
        for request in self.waiting.clear():
            self._fail(request, kind)
        self._update_metrics()

    def _active_requests(self) -> list[Request]:
        return [r.request for r in self._prefilling] + [a.request for a in self._running]

    def _fail(self, request: Request, kind: str, cause: str = "") -> None:
        self.ended += 1
        self._metrics.ended(request, "error" if kind == "fault" else "abort", self._clock())
        if not request.cancelled:
            request.listen(Failure(kind, request.started is not None, cause))

    def _fault(self, requests: Sequence[Request], error: Exception) -> None:
        """End requests whose own computation failed; the others continue."""
        trace = "".join(traceback.format_exception(error))
        warn(f"a request failed in the engine:\n{trace}")
        for request in requests:
            self._fail(request, "fault", describe(error))

    def _remove_ended(self) -> None:
        """Remove cancelled requests and those past their deadline."""
        now = self._clock()
        for request in self.waiting.pop_ended(now):
            self._fail(request, "timeout")
        over = {id(w): w for w in self._active_requests() if w.cancelled or now >= w.deadline}
        if not over:
            return
        self._prefilling = deque(r for r in self._prefilling if id(r.request) not in over)
        self._keep([at for at, a in enumerate(self._running) if id(a.request) not in over])
        for request in over.values():
            self._fail(request, "timeout")

    def _admit(self) -> None:
        while (request := self.waiting.peek()) and self._fits(request):
            request = self.waiting.pop()
            request.started = self._clock()
            self._prefilling.append(_Prefill(request, self._network.begin(1)))

    def _fits(self, request: Request) -> bool:
        """Return whether a request fits beside the others at their maximum lengths."""
        used_seqs = len(self._running) + sum(r.request.count for r in self._prefilling)
        max_num_seqs = used_seqs + request.count
        longest = max(w.longest for w in (request, *self._active_requests()))
        # A single request always fits: longer ones are rejected on arrival.
        memory = not used_seqs or max_num_seqs * longest <= self._config.cache_tokens
        return max_num_seqs <= self._config.max_num_seqs and memory

    def _prefill(self) -> int:
        """Prefill parts of prompts and return the number of their tokens.

        A request stays in the list until its prefill is complete, so that none is lost if
        it fails.
        """
        if not self._prefilling:
            return 0
        if len(batched := self._short_prompts()) > 1:
            try:
                batch = self._prefill_batch(batched)
            except Exception:  # prefill them one by one, so that only the faulty one fails
                for prefill in batched:
                    prefill.is_alone = True
                return 0
            self._start_decoding(batch, [r.request for r in batched])
            for _ in batched:
                self._prefilling.popleft()
            return sum(len(r.request.prompt) for r in batched)
        first = self._prefilling[0]
        count = min(first.left, self._config.prefill_tokens)
        try:
            self._prefill_part(first, count)
        except Exception as error:
            self._prefilling.popleft()
            self._fault([first.request], error)
            return count
        first.done += count
        if first.left:
            self._prefilling.rotate(-1)  # to the end of the queue
        else:
            if first.request.num_prompt_logprobs is not None:
                first.request.listen(PromptLogprobs(tuple(first.choices)))
            self._start_decoding(first.batch, [first.request])
            self._prefilling.popleft()
        return count

    def _prefill_part(self, prefill: _Prefill, count: int) -> None:
        request, done = prefill.request, prefill.done
        tokens = np.array([request.prompt[done : done + count]], dtype=np.int64)
        if request.num_prompt_logprobs is None:
            prefill.batch.read(tokens, np.ones_like(tokens, dtype=bool))
            return
        logits = prefill.batch.read_all(tokens)
        following = request.prompt[done + 1 : done + count + 1]
        # The token after the last one of the prompt is the first of the answer.
        for row, token in zip(logits, following, strict=False):
            prefill.choices.append(sampled_token(row, token, request.num_prompt_logprobs))

    def _short_prompts(self) -> list[_Prefill]:
        """Return the first prompts in the queue that can be prefilled completely in one batch."""
        prefills: list[_Prefill] = []
        longest = 0
        for prefill in self._prefilling:
            longest = max(longest, prefill.left)
            # A batch is as long as its longest prompt: padding costs as much as tokens.
            if longest * (len(prefills) + 1) > self._config.prefill_tokens or not _can_be_batched(
                prefill
            ):
                break
            prefills.append(prefill)
        return prefills

    def _prefill_batch(self, prefills: Sequence[_Prefill]) -> Decoding:
        longest = max(r.left for r in prefills)
        tokens = np.zeros((len(prefills), longest), dtype=np.int64)
        is_token = np.zeros_like(tokens, dtype=bool)
        for at, prefill in enumerate(prefills):
            tokens[at, longest - prefill.left :] = prefill.request.prompt
            is_token[at, longest - prefill.left :] = True
        batch = self._network.begin(len(prefills))
        batch.read(tokens, is_token)
        return batch

    def _start_decoding(self, batch: Decoding, requests: Sequence[Request]) -> None:
        """Sample the first tokens of prefilled requests, and add them to the batch."""
        rows = [at for at, request in enumerate(requests) for _ in range(request.count)]
        if rows != list(range(len(requests))):
            batch.keep(rows)  # every sequence of a request continues the same prompt
        running = [
            _Running(
                request,
                index,
                RunningSequence(
                    self._text,
                    request.prompt,
                    Sampler(request.sampling, index, request.prompt),
                    request.limits,
                ),
            )
            for request in requests
            for index in range(request.count)
        ]
        now = self._clock()
        for request in requests:
            request.first_token = now
            self._metrics.first_token(request, now)
        unfinished = self._sample(batch, running)
        if not unfinished:
            return
        if len(unfinished) < len(running):
            batch.keep(unfinished)
        self._running += [running[at] for at in unfinished]
        if self._batch is None:
            self._batch = batch
        else:
            self._batch.join(batch)

    def _decode(self) -> None:
        if self._batch is None:
            return
        self._batch.step([sequence.pending for sequence in self._running])
        self._keep(self._sample(self._batch, self._running))

    def _keep(self, rows: Sequence[int]) -> None:
        if len(rows) == len(self._running):
            return
        self._running = [self._running[at] for at in rows]
        if not rows:
            self._batch = None
        elif self._batch is not None:
            self._batch.keep(rows)

    def _sample(self, batch: Decoding, running: Sequence[_Running]) -> list[int]:
        """Sample and report the next token of every sequence; return the unfinished ones."""
        failed: set[int] = set()
        now = self._clock()
        for sequence, logits in zip(running, batch.logits, strict=True):
            if id(sequence.request) in failed:
                continue
            if sequence.last is not None:
                self._metrics.between_tokens(now - sequence.last)
            sequence.last = now
            try:
                self._append_token(sequence, logits, now)
            except Exception as error:
                failed.add(id(sequence.request))
                self._fault([sequence.request], error)
        return [
            at
            for at, sequence in enumerate(running)
            if not sequence.row.reason and id(sequence.request) not in failed
        ]

    def _append_token(
        self, sequence: _Running, logits: npt.NDArray[np.float32], now: float
    ) -> None:
        request, row = sequence.request, sequence.row
        text = ""
        if request.limits.max_new_tokens:
            token = sequence.pending = row.sample(logits)
            before = len(row.tokens)
            text = row.take(token)
            grown = len(row.tokens) > before
            request.tokens += grown
            # Clients that request a prompt's logprobs drop the last entry as the generated
            # token, so it must exist even for an end token.
            if request.top_logprobs is not None and (
                grown or request.num_prompt_logprobs is not None
            ):
                sequence.choices.append(sampled_token(logits, token, request.top_logprobs))
        else:
            row.reason = "length"
        if row.reason:
            request.finish_reasons[sequence.index] = row.reason
        if text or row.reason:
            choices, sequence.choices = tuple(sequence.choices), []
            request.listen(
                RequestOutput(sequence.index, text, choices, len(row.tokens), row.reason)
            )
        if len(request.finish_reasons) == request.count:
            self.ended += 1
            self._metrics.ended(request, "", now)


def _can_be_batched(prefill: _Prefill) -> bool:
    """Return whether a prompt can be prefilled in a batch with others."""
    return not (prefill.done or prefill.is_alone or prefill.request.num_prompt_logprobs is not None)


def describe(error: BaseException) -> str:
    """Return an exception's type and message for the log."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
