"""Answers to a file of prompts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from entrypoints.inference import fingerprint
from entrypoints.inference.arguments import Options
from entrypoints.inference.batch_input import batches
from entrypoints.inference.partial_output import PartialOutput, open_partial
from entrypoints.inference.sampling import SampledToken
from entrypoints.inference.session import ModelLoader, Session, open_text
from entrypoints.inference.text import all_tokens
from entrypoints.runtime.console import note, phase, report
from paddle_stacks.jobs.prompts import Prompt

__all__ = ["answer_file"]


def answer_file(
    options: Options,
    content: bytes,
    prompts: Sequence[Prompt],
    model: Path,
    adapter: Path | None,
    load: ModelLoader,
    start_time: float,
) -> None:
    """Answer every prompt that an interrupted earlier run has not answered."""
    with _unfinished(options, content, prompts, model, adapter) as part:
        left = [number for number in range(len(prompts)) if number not in part.done]
        if part.done:
            note(f"{len(part.done)} of {len(prompts)} answers already exist")
        if not left:
            return
        phase("check the prompts")
        text = open_text(options, model)
        tokens = dict(zip(left, all_tokens(text, [prompts[n] for n in left]), strict=True))
        session = Session.open(options, text, model, adapter, load, start_time)
        phase("answer")
        for batch in batches({number: len(tokens[number]) for number in left}, options.batch_size):
            _answer_batch(session, part, prompts, tokens, batch)
            report(
                "progress", what="answers", done=len(part.done), total=len(prompts), unit="prompts"
            )
        session.report()


class _StandardOutput(PartialOutput):
    """Prints answers to standard output, in the order of the prompts."""

    def __init__(self) -> None:
        super().__init__(sys.stdout, {})
        self._next = 0

    def add(self, number: int, line: Mapping[str, Any]) -> None:
        self.done[number] = line
        while self._next in self.done:
            print(json.dumps(self.done[self._next], ensure_ascii=False), flush=True)
            self._next += 1


def _unfinished(
    options: Options,
    content: bytes,
    prompts: Sequence[Prompt],
    model: Path,
    adapter: Path | None,
) -> AbstractContextManager[PartialOutput]:
    if options.output_file is None:
        return nullcontext(_StandardOutput())
    depends_on = fingerprint.of_run(options, model, adapter, content)
    ids = [prompt.id for prompt in prompts]
    return open_partial(Path(options.output_file), depends_on, ids, force=options.force)


def _answer_batch(
    session: Session,
    part: PartialOutput,
    prompts: Sequence[Prompt],
    tokens: Mapping[int, Sequence[int]],
    batch: Sequence[int],
) -> None:
    params = [prompts[number].sampling for number in batch]
    answers = session.answer([tokens[number] for number in batch], batch, params=params)
    for number, answer in sorted(zip(batch, answers, strict=True), key=lambda pair: pair[0]):
        line: dict[str, Any] = {
            "id": prompts[number].id,
            "text": answer.text,
            "token_ids": list(answer.token_ids),
            "finish_reason": answer.finish_reason,
        }
        if session.options.logprobs is not None:
            line["logprobs"] = [_logprob_fields(choice) for choice in answer.choices]
        part.add(number, line)


def _logprob_fields(choice: SampledToken) -> dict[str, Any]:
    """Return the log probabilities of a token for an output line."""
    top = [{"token_id": each.token, "logprob": each.logprob} for each in choice.top_logprobs]
    return {"token_id": choice.chosen.token, "logprob": choice.chosen.logprob, "top": top}
