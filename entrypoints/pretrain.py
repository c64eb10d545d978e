"""The ``pretrain`` job: a language model trained on a corpus, from a JSON configuration."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from entrypoints.pretraining.request import Request
from entrypoints.runtime import launcher
from entrypoints.runtime.arguments import parse
from entrypoints.runtime.console import note, phase
from entrypoints.runtime.disk import writing_below
from entrypoints.runtime.lock import locked
from entrypoints.runtime.logging import libraries_log_to
from entrypoints.runtime.stop import StopSignal
from entrypoints.runtime.stubs import install_stubs
from entrypoints.training import processes, resume
from entrypoints.training.request import LIBRARY_LOG, RESULT
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import backends, corpus, pretraining, schema, workspace
from paddle_stacks.jobs.files import update_digest
from paddle_stacks.jobs.options import PretrainOptions

__all__ = ["main"]

# With another number of processes a step is divided differently; its number of sequences is
# checked.
_MAY_CHANGE = resume.MAY_CHANGE | {"gradient_accumulation_steps", "per_device_train_batch_size"}


def main(argv: list[str]) -> int:
    """Run the job; print the folder of the model."""
    arguments = parse(PretrainOptions, argv)
    nodes = launcher.Nodes.of(arguments, os.environ)
    world = arguments.ranks * nodes.count
    config = schema.load(
        arguments.config, arguments.set, job="pretrain", backend=backends.current(), world=world
    )
    for text in config.notes:
        note(text)
    run = workspace.run_folder(arguments.name, arguments.config, config["output_dir"])
    phase("check the corpus")
    base, tokenizer, parts = _parts(config)
    if config["continue_training"]:
        workspace.check_weights(base, arguments.allow_pickle)
    pretraining.check(config, base, parts, world)
    owner = nodes.rank in (0, None)
    # The nodes of a run share its folder, and each has its own lock.
    with (
        writing_below(run),
        locked(run, f".lock{nodes.name}"),
        StopSignal(arguments.grace) as stop,
    ):
        batch = pretraining.sequences_of_a_step(config, world)
        fingerprints = {"train": _fingerprint(parts), "batch": str(batch)}
        choice = resume.resume_choice(arguments.resume, config)
        start = resume.begin(config, run, fingerprints, choice, _MAY_CHANGE, owner=owner)
        if start.finished:
            print(json.loads((run / RESULT).read_text(encoding="utf-8"))["output"])
            return 0
        request = Request(
            config=config,
            changes=tuple(arguments.set),
            world=world,
            run=run,
            base=base,
            tokenizer=tokenizer,
            corpus=_as_upstream(parts),
            fingerprints=fingerprints,
            resume=start.resume,
            peak_tflops=arguments.peak_tflops,
            grace=arguments.grace,
        )
        phase("start PaddlePaddle")
        if launcher.is_launched(arguments.ranks, nodes):
            processes.run(
                "pretrain",
                request.to_json(),
                ranks=arguments.ranks,
                nodes=nodes,
                folder=run,
            )
            print(run / workspace.MODEL)
            return 0
        install_stubs()
        libraries_log_to(run / LIBRARY_LOG)
        from entrypoints.pretraining.run import train

        print(train(request, stop))
    return 0


def _parts(config: schema.Config) -> tuple[Path, Path, tuple[corpus.Part, ...]]:
    """Return the folders of model and tokenizer and the corpora, all of which must exist."""
    faults: list[Problem] = []
    folders: dict[str, Path] = {}
    for key in ("model_name_or_path", "tokenizer_name_or_path"):
        name = config[key] or config["model_name_or_path"]
        try:
            folders[key] = workspace.find_model(name)
        except RequestError as error:
            faults += error.problems if config[key] else []
    parts: Sequence[corpus.Part] = ()
    try:
        parts = corpus.parts(config["input_dir"])
        from entrypoints.preparing import pair

        for part in parts:
            pair.check(part.pair)
    except RequestError as error:
        faults += error.problems
    if faults:
        raise RequestError(faults)
    return folders["model_name_or_path"], folders["tokenizer_name_or_path"], tuple(parts)


def _as_upstream(parts: Sequence[corpus.Part]) -> tuple[str, ...]:
    """Return the corpora in the format of upstream's ``data_prefix``."""
    if len(parts) == 1:
        return (str(parts[0].pair.prefix),)
    return tuple(word for part in parts for word in (str(part.weight), str(part.pair.prefix)))


def _fingerprint(parts: Sequence[corpus.Part]) -> str:
    """Return the SHA-256 of the corpora's indexes and shares, in hexadecimal.

    An index has the length of every document; reading all tokens at each start would take too
    long.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.weight!r} {part.pair.tokens}\n".encode())
        update_digest(digest, corpus.index_path(part.pair.prefix))
    return digest.hexdigest()
