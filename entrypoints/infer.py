"""The ``infer`` job: answers a prompt, a chat or a file of prompts."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from entrypoints.inference import exported
from entrypoints.inference.adapter import check_base
from entrypoints.inference.arguments import STANDARD_STREAM, Options, parse
from entrypoints.inference.batch_input import read_prompts
from entrypoints.inference.generation_config import repetition_penalty
from entrypoints.inference.protocols import LanguageModel
from entrypoints.runtime.console import phase, say
from entrypoints.runtime.logging import libraries_log_to
from paddle_stacks.errors import RequestError, Stopped
from paddle_stacks.jobs import prompts, workspace

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the job; see ``infer --help``."""
    start_time = time.perf_counter()
    options = parse(argv)
    model = workspace.find_trained(options.model)
    adapter = workspace.find_adapter(options.adapter) if options.adapter is not None else None
    if adapter is not None:
        check_base(adapter, model)
    if options.engine == "static":
        exported.check(model)
    options = options.with_repetition_penalty(repetition_penalty(model))
    # Requests are checked before Paddle is imported, which takes seconds.
    if options.input is not None:
        _answer_file(options, model, adapter, start_time)
    elif options.prompt is not None:
        _answer_prompt(options, model, adapter, start_time)
    elif options.benchmark:
        _measure(options, model, adapter)
    else:
        _chat(options, model, adapter, start_time)
    return 0


def _answer_file(options: Options, model: Path, adapter: Path | None, start_time: float) -> None:
    content, questions = read_prompts(options)
    _start(options)
    from entrypoints.inference.batch import answer_file

    answer_file(options, content, questions, model, adapter, _load_model, start_time)


def _answer_prompt(options: Options, model: Path, adapter: Path | None, start_time: float) -> None:
    question = options.prompt or ""
    if question == STANDARD_STREAM:
        question = _standard_input()
    prompt = prompts.question(question, options.system)
    _start(options)
    from entrypoints.inference.session import Session, open_text

    text = open_text(options, model)
    tokens = text.tokens(prompt)
    session = Session.open(options, text, model, adapter, _load_model, start_time)

    def listen(piece: str) -> bool:
        say(piece, end="")
        return True

    session.answer([tokens], [0], listen)
    print(flush=True)
    session.report()


def _measure(options: Options, model: Path, adapter: Path | None) -> None:
    _start(options)
    from entrypoints.inference import benchmark
    from entrypoints.inference.model import context_length, vocabulary_size

    benchmark.check_lengths(options, context_length(model))
    benchmark.run(options, lambda: _load_model(options, model, adapter), vocabulary_size(model))


def _load_model(options: Options, model: Path, adapter: Path | None) -> LanguageModel:
    """Return the model for the selected engine, with the adapter merged."""
    if options.engine == "static":
        from entrypoints.inference import static

        return static.load(model)
    if options.engine == "native":
        from entrypoints.native.model import load as load_native

        return load_native(model, adapter, options.precision)
    from entrypoints.inference.model import load

    return load(model, adapter, options.compute_dtype)


def _chat(options: Options, model: Path, adapter: Path | None, start_time: float) -> None:
    _start(options)
    from entrypoints.inference.chat import talk
    from entrypoints.inference.session import Session, open_text

    text = open_text(options, model)
    if not text.has_template:
        raise RequestError(
            "the model has no chat template, so it cannot chat",
            where=str(model),
            remedy=f"use --prompt TEXT, or add a template as {model / 'chat_template.jinja'}",
        )
    session = Session.open(options, text, model, adapter, _load_model, start_time)
    talk(session)
    session.report()


def _start(options: Options) -> None:
    """Prepare for the model; of the engines, only native does without Paddle."""
    if options.engine != "native":
        phase("start PaddlePaddle")
        libraries_log_to(None)
    signal.signal(signal.SIGTERM, _stop)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        where = f"standard input, byte {error.start}"
        raise RequestError(
            "the prompt is not UTF-8",
            where=where,
            remedy="encode it as UTF-8, or use a file: --input",
        ) from None


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    remedy = "run the same command again; with --output it resumes"
    raise Stopped(signum, "stopped", remedy)
