"""Conversion of records to token IDs and labels: chat template, masking, truncation.

It follows ``llm/utils/data.py`` of PaddleNLP 3.0.0b3 (``tokenize_rounds_example``
and ``tokenize_example``), so that configurations have the same meaning.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrypoints.models.chat_template import ChatTemplateError, variables_of
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.fault_report import FaultReport
from paddle_stacks.jobs.records import Record

__all__ = ["IGNORED", "Encoded", "Encoder", "Example", "ExampleFile"]

IGNORED = -100  # a position without a label

_Turn = tuple[list[int], list[int]]  # ids of what the user says, ids of the answer


@dataclass(frozen=True)
class Example:
    """One tokenized conversation.

    Args:
        input_ids: token ids; [length].
        labels: the token that follows each of them, or ``IGNORED``; [length].
            PaddleNLP's models do not shift labels, so they are shifted here.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """The examples of a split.

    Args:
        examples: those with labels.
        cut: the number truncated to ``src_length`` and ``max_length``.
        dropped: the number without labels after that.
    """

    examples: Sequence[Example]
    cut: int
    dropped: int


class ExampleFile(Sequence[Example]):
    """Examples in an unnamed file, so that data may be larger than the memory.

    Eight bytes of an example stay in memory: where it ends.

    Args:
        folder: where the file is, which vanishes with the process.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open as long as this is)
        self._ends = array("Q", [0])
        self._tokens: npt.NDArray[np.int32] | None = None

    def append(self, example: Example) -> None:
        """Add an example, before the first one is read."""
        self._file.write(np.array((example.input_ids, example.labels), dtype=np.int32).tobytes())
        self._ends.append(self._ends[-1] + len(example.input_ids))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if self._tokens is None:
            self._file.flush()
            self._tokens = np.memmap(self._file, dtype=np.int32, mode="r")
        number = range(len(self))[index]
        start, end = 2 * self._ends[number], 2 * self._ends[number + 1]
        input_ids, labels = self._tokens[start:end].reshape(2, -1).tolist()
        return Example(tuple(input_ids), tuple(labels))

    @property
    def lengths(self) -> list[int]:
        """The tokens of each example, without reading it."""
        return [end - start for start, end in pairwise(self._ends)]


class Encoder:
    """Converts records to examples with a tokenizer and its chat template.

    Args:
        tokenizer: a PaddleNLP tokenizer.
        src_length: the maximum length of a question, in tokens.
        max_length: the maximum length of a conversation, in tokens.
    """

    def __init__(self, tokenizer: Any, src_length: int, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._src_length = src_length
        self._max_length = max_length

    def encode_all(self, records: Iterable[Record], folder: Path | None = None) -> Encoded:
        """Return the examples of all records.

        Args:
            records: in their order.
            folder: where a file has the examples' tokens; None to keep them in memory.

        Raises:
            RequestError: records cannot be tokenized; one problem for each kind of fault.
        """
        examples: list[Example] | ExampleFile = ExampleFile(folder) if folder else []
        cut = dropped = 0
        faults = FaultReport()
        for record in records:
            try:
                example, shortened = self.encode(record)
            except RequestError as error:
                path, _, place = record.where.rpartition(":")
                for problem in error.problems:
                    faults.add(replace(problem, where=path), place)
                continue
            cut += shortened
            if any(label != IGNORED for label in example.labels):
                examples.append(example)
            else:
                dropped += 1
        if faults.count:
            raise RequestError(faults.problems("records"))
        return Encoded(tuple(examples) if isinstance(examples, list) else examples, cut, dropped)

    def encode(self, record: Record) -> tuple[Example, bool]:
        """Return the example of a record, and whether it was truncated.

        Raises:
            RequestError: the record has several turns or a system message, but the tokenizer
                has no chat template; or the template does not support the record.
        """
        if record.system is None and (system_message := record.context.get("system")):
            record = replace(record, system=str(system_message))
        system: list[int] = []
        if self._tokenizer.chat_template is None:
            turns, shortened = self._plain(record)
        else:
            system, turns = self._chat(record)
            turns, shortened = self._fitting(system, turns)
            count = len(turns)
            if record.system is not None and count < len(record.src):
                # The template may put the system message into the first turn: render it
                # again, in front of the turns that are left.
                rest = replace(record, src=record.src[-count:], tgt=record.tgt[-count:])
                return self.encode(rest)[0], True
        ids, labels = list(system), [IGNORED] * len(system)
        for question, answer in turns:
            ids += question + answer
            labels += [IGNORED] * len(question) + answer
        return Example(tuple(ids[:-1]), tuple(labels[1:])), shortened

    def _plain(self, record: Record) -> tuple[list[_Turn], bool]:
        """Tokenize question and answer without a template; truncate the start and the end."""
        if len(record.src) > 1 or record.system is not None:
            feature = "several turns" if len(record.src) > 1 else "a system message"
            raise RequestError(
                f"the record has {feature}, but the model's tokenizer has no chat template",
                where=record.where,
                remedy='set "chat_template", or use single turns without system message',
            )
        question = list(self._tokenizer(record.src[0])["input_ids"])
        answer = self._ids(record.tgt[0])
        prompt = question[-self._src_length :]
        room = self._max_length - len(prompt)
        shortened = len(prompt) < len(question) or len(answer) > room
        if len(answer) < room:
            answer = [*answer, self._tokenizer.eos_token_id]
        return [(prompt, answer[:room])], shortened

    def _chat(self, record: Record) -> tuple[list[int], list[_Turn]]:
        template = self._tokenizer.chat_template
        if hasattr(template, "render_conversation"):  # PaddleNLP's chat_template.json
            context = dict(record.context)
            if record.system is not None:
                if "system" not in (template.system or ""):
                    raise _no_system(record)
                context["system"] = record.system
            encoded = self._tokenizer.encode_chat_inputs(
                [list(turn) for turn in zip(record.src, record.tgt, strict=True)],
                context_data={**context, "is_training": True},
            )
            turns = [(list(q), list(a)) for q, a in encoded["conversations"]]
            return list(encoded.get("system") or []), turns
        return [], self._jinja(record)

    def _jinja(self, record: Record) -> list[_Turn]:
        """Render the conversation turn by turn, and tokenize what each turn adds."""
        if extra := sorted(record.context.keys() - {"system"}):
            raise RequestError(
                f'"context" has "{extra[0]}", which this model\'s chat template cannot use',
                where=record.where,
                remedy='remove it: "context" is for a chat_template.json of PaddleNLP',
            )
        messages: list[dict[str, str]] = []
        if record.system is not None:
            messages.append({"role": "system", "content": record.system})
        turns, before = [], ""
        for question, answer in zip(record.src, record.tgt, strict=True):
            messages.append({"role": "user", "content": question})
            prompt = self._asked(messages, record)
            messages.append({"role": "assistant", "content": answer})
            answered = self._rendered(messages, record.where, add_generation_prompt=False)
            if not (prompt.startswith(before) and answered.startswith(prompt)):
                raise RequestError(
                    "the model's chat template rewrites earlier turns, "
                    "so answers cannot be separated from questions",
                    where=record.where,
                    remedy='set "chat_template" to a chat_template.json',
                )
            turns.append((self._ids(prompt[len(before) :]), self._ids(answered[len(prompt) :])))
            before = answered
        return turns

    def _asked(self, messages: Sequence[dict[str, str]], record: Record) -> str:
        """Return the rendered conversation up to the answer."""
        text = self._rendered(messages, record.where, add_generation_prompt=True)
        if record.system is not None and record.system.strip() not in text:
            raise _no_system(record)
        return text

    def _rendered(
        self, messages: Sequence[dict[str, str]], where: str, *, add_generation_prompt: bool
    ) -> str:
        try:
            text: str = self._tokenizer.chat_template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                **variables_of(self._tokenizer),
            )
        except ChatTemplateError as error:
            raise RequestError(
                f"the model's chat template rejects this record: {error}",
                where=where,
                remedy='change the record, or set "chat_template" to a chat_template.json',
            ) from None
        return text

    def _fitting(self, system: Sequence[int], turns: Sequence[_Turn]) -> tuple[list[_Turn], bool]:
        """Return the last turns that fit, and whether others were dropped.

        Earlier turns are dropped first. If the last one alone does not fit, its question is
        truncated to ``src_length`` and its answer to the rest of ``max_length``.
        """
        room = self._max_length - len(system)
        recent: list[_Turn] = []
        for question, answer in reversed(turns):
            if len(question) + len(answer) <= room:
                recent.insert(0, (question, answer))
                room -= len(question) + len(answer)
                continue
            if not recent:
                question = question[: max(0, self._src_length - len(system))]
                recent = [(question, answer[: max(0, room - len(question))])]
            return recent, True
        return recent, False

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _no_system(record: Record) -> RequestError:
    return RequestError(
        "the model's chat template does not support system messages",
        where=record.where,
        remedy="put its text into the first question",
    )
