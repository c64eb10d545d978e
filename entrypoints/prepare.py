"""The ``prepare`` job: tokenizes text into a corpus for pretraining."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from entrypoints.preparing.documents import Rules
from entrypoints.runtime.arguments import parse
from entrypoints.runtime.console import note, phase, report
from entrypoints.runtime.disk import writing_below
from entrypoints.runtime.lock import locked
from entrypoints.runtime.stop import StopSignal
from paddle_stacks.errors import RequestError, Stopped
from paddle_stacks.jobs import corpus, workspace
from paddle_stacks.jobs.corpus import STDIN, Source
from paddle_stacks.jobs.files import replacing_file, sync_folder
from paddle_stacks.jobs.options import PrepareOptions

__all__ = ["main"]

_INDEX, _MANIFEST = "index", "manifest"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def main(argv: list[str]) -> int:
    """Run the job; print the corpus's prefix."""
    arguments = parse(PrepareOptions, argv)
    corpus.shares(arguments.split)
    model = workspace.find_model(arguments.model)
    sources = corpus.sources(arguments.input, arguments.format)
    prefix = corpus.prefix_of(arguments.output)
    request = _request(arguments, model, sources)
    partial = corpus.partial_folder(prefix)
    with writing_below(prefix.parent):
        if not arguments.force and _is_complete(prefix, request):
            _remove_rest(partial, request)
            print(prefix)
            return 0
        with locked(partial), StopSignal() as stop:
            _prepare(arguments, model, sources, request, prefix, stop)
            shutil.rmtree(partial)
    print(prefix)
    return 0


def _prepare(
    arguments: PrepareOptions,
    model: Path,
    sources: tuple[Source, ...],
    request: dict[str, Any],
    prefix: Path,
    stop: StopSignal,
) -> None:
    phase("start the tokenizer")
    from entrypoints.runtime.logging import libraries_log_to

    libraries_log_to(None)
    from entrypoints.models.tokenizer import load as load_tokenizer
    from entrypoints.preparing import encoding, journal, pair, run

    tokenizer = load_tokenizer(model)
    if arguments.append_eos and tokenizer.eos_token_id is None:
        raise RequestError(
            "the tokenizer has no end token",
            where="--append-eos",
            remedy="omit --append-eos, or use a model whose tokenizer has one",
        )
    partial = corpus.partial_folder(prefix)
    state = None
    if not arguments.force and all(source.path != STDIN for source in sources):
        state = run.resumable(partial, request)
    if state is not None:
        note(f"resuming: {state.documents} documents exist, verified")
    in_the_way = corpus.tokens_path(prefix)
    if not arguments.force and in_the_way.exists() and not (state and state.complete):
        raise RequestError(
            "a file without its index already exists",
            where=str(in_the_way),
            remedy="--force replaces it",
        )
    task = run.Task(
        sources=sources,
        rules=_rules(arguments),
        model=model,
        append_eos=arguments.append_eos,
        fail=arguments.on_bad == "fail",
        workers=arguments.workers or len(os.sched_getaffinity(0)),
        save_seconds=arguments.save_every,
        request=request,
    )
    if state is None or not state.complete:
        phase("read and make tokens")
        stop.defer()
        state = run.prepare(task, partial, tokenizer, state or journal.State(request), stop)
        if stop.received is not None:
            raise Stopped(stop.received)
    for line in run.lines(state):
        note(line)
    if not state.documents:
        raise RequestError(
            "the input contains no documents",
            where=", ".join(arguments.input),
            remedy="see the counts above; --json-key KEY names the key of the text, and "
            "--on-bad fail ends at the first bad record",
        )
    phase("write the index")
    code = encoding.type_code(tokenizer)
    manifest = {
        "documents": state.documents,
        "tokens": state.tokens.size // corpus.ITEMS[code],
        "dtype": {8: "uint16", 4: "int32"}[code],
        "vocabulary": int(tokenizer.vocab_size),
        "end_token": tokenizer.eos_token_id if arguments.append_eos else None,
        "model": str(model),
        "inputs": [
            {"path": source.path, "bytes": source.size, "sha256": sha256}
            for source, sha256 in zip(sources, state.hashes, strict=True)
        ],
        "bad": {"by_reason": state.reasons, "first": [list(pair) for pair in state.bad]},
        "request": request,
    }
    if (partial / run.SIZES).is_file():
        pair.write_index(partial / _INDEX, partial / run.SIZES, code)
    _name(prefix, partial, run.TOKENS, manifest)
    corpus_size = corpus.look(prefix)
    report("result", output=str(prefix), documents=corpus_size.documents, tokens=corpus_size.tokens)
    first, second, third, last = corpus.bounds(arguments.split, corpus_size.documents)
    note(
        f"split {arguments.split}: {second - first} documents to train on, {third - second} to "
        f"evaluate on, {last - third} to test on"
    )


def _name(prefix: Path, partial: Path, tokens: str, manifest: Mapping[str, Any]) -> None:
    """Rename the finished files, the index last, so that a visible index means a complete corpus.

    If it is killed, the same command does the rest, because the journal is complete.
    """
    if (partial / tokens).is_file():
        corpus.index_path(prefix).unlink(missing_ok=True)
        (partial / tokens).replace(corpus.tokens_path(prefix))
    # Written there too, so that a killed job leaves no other files.
    with replacing_file(partial / _MANIFEST) as stream:
        json.dump(manifest, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    (partial / _MANIFEST).replace(corpus.manifest_path(prefix))
    (partial / _INDEX).replace(corpus.index_path(prefix))
    sync_folder(prefix.parent)


def _remove_rest(partial: Path, request: Mapping[str, Any]) -> None:
    """Remove the partial folder of a complete corpus, whose job was killed before."""
    from entrypoints.preparing import journal

    state = journal.read(partial)
    if not partial.is_dir() or (state and (not state.complete or state.request != request)):
        return  # it does not exist, or belongs to another corpus
    with contextlib.suppress(RequestError), locked(partial):
        shutil.rmtree(partial)


def _rules(arguments: PrepareOptions) -> Rules:
    return Rules(arguments.json_key, arguments.document, arguments.max_repeated_len)


def _request(arguments: PrepareOptions, model: Path, sources: tuple[Source, ...]) -> dict[str, Any]:
    """Return everything that determines the corpus."""
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        if (model / name).is_file():
            digest.update(name.encode() + b"\0" + (model / name).read_bytes())
    return {
        "inputs": [asdict(source) for source in sources],
        "tokenizer": digest.hexdigest(),
        "append_eos": arguments.append_eos,
        "on_bad": arguments.on_bad,
        **asdict(_rules(arguments)),
    }


def _is_complete(prefix: Path, request: Mapping[str, Any]) -> bool:
    """Return whether this corpus already exists and is complete.

    Raises:
        RequestError: another corpus exists.
    """
    if not corpus.index_path(prefix).exists():
        return False
    try:
        previous = json.loads(corpus.manifest_path(prefix).read_text(encoding="utf-8"))["request"]
    except (OSError, ValueError, KeyError, TypeError):
        previous = None
    readable = all(source["path"] != STDIN for source in request["inputs"])
    if previous != request or not readable:
        raise RequestError(
            "another corpus already exists" if previous != request else "a corpus already exists",
            where=str(corpus.index_path(prefix)),
            remedy="replace it with --force, or use another --output",
        )
    corpus.look(prefix)
    note(f"{prefix} already exists, complete, from the same inputs")
    return True
