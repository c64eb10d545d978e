"""The ``fetch-data`` job: puts known data into ``data/``, checked, whole or not at all."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from entrypoints.fetching import checkpoint
from entrypoints.fetching.download import download, trust_bundle
from entrypoints.models.files import write_json
from entrypoints.runtime import console
from entrypoints.runtime.arguments import parse
from entrypoints.runtime.disk import writing_below
from entrypoints.runtime.lock import locked
from paddle_stacks import __version__
from paddle_stacks.errors import JobError, Problem, RequestError
from paddle_stacks.jobs import corpus, records, sample_data
from paddle_stacks.jobs.files import CHUNK, remove_unfinished, replacing_folder, sha256_of
from paddle_stacks.jobs.options import FetchDataOptions
from paddle_stacks.jobs.sample_data import DataFile, SampleData

__all__ = ["main"]

_DOWNLOADS = ".downloads"
_MOST_UNPACKED = 8 * 2**30  # bytes
_REPLACE = "--force replaces it, and --output FOLDER writes elsewhere"


def main(argv: list[str]) -> int:
    """Run the job; the data's folder goes to standard output."""
    arguments = parse(FetchDataOptions, argv)
    row = sample_data.find(arguments.data)
    target = Path(arguments.output or row.folder)
    local = sample_data.local_files(row, Path(arguments.source)) if arguments.source else None
    _check_target(target, local)
    with writing_below(target), locked(target.parent, f".{target.name}.lock"):
        remove_unfinished(target)
        if arguments.force or not _is_complete(row, target):
            _fetch(arguments, row, target, local)
    print(target)
    return 0


def _check_target(target: Path, local: dict[str, Path] | None) -> None:
    inside = {path.resolve() for path in (local or {}).values()}
    if target.resolve() in (Path.cwd(), *Path.cwd().parents) or any(
        target.resolve() in path.parents for path in inside
    ):
        raise RequestError(
            "the output would replace the workspace or its own source",
            where=str(target),
            remedy="name another folder: --output data/NAME",
        )
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RequestError("the output is not a folder", where=str(target), remedy=_REPLACE)


def _is_complete(row: SampleData, target: Path) -> bool:
    """Return whether the data is there, with the checksums of its manifest.

    Raises:
        RequestError: something else is there, or a file was changed.
    """
    if not target.exists():
        return False
    manifest = checkpoint.read_manifest(target)
    if manifest is None or manifest.model != row.name:
        source = "fetch-data did not write it" if manifest is None else f"it has {manifest.model}"
        raise RequestError(
            f"the folder already exists, and {source}", where=str(target), remedy=_REPLACE
        )
    console.phase("verify")
    if problems := checkpoint.problems_of(target, manifest):
        raise RequestError([Problem(each.what, each.where, _REPLACE) for each in problems])
    console.note(f"{target} is complete, fetched on {manifest.created}")
    return True


def _fetch(
    arguments: FetchDataOptions,
    row: SampleData,
    target: Path,
    local: dict[str, Path] | None,
) -> None:
    downloads = target.parent / _DOWNLOADS / row.name
    sums: dict[str, str] = {}
    with replacing_folder(target) as part:
        console.phase("check the files" if local else "download")
        if not local:
            trust_bundle()
        for each in row.files:
            path = local[each.name] if local else downloads / each.name
            sums[each.name] = _obtain(each, path, is_local=local is not None)
            if not each.sha256:
                console.note(
                    f"{each.name} has the sha256 {sums[each.name]}; no checksum is published to "
                    f"compare it with (sha256 in configs/datasets/{row.name}.toml sets one)"
                )
        console.phase("unpack")
        for each in row.files:
            path = local[each.name] if local else downloads / each.name
            if each.archive:
                _unpack(path, part)
            else:
                shutil.copyfile(path, part / each.name)
        console.phase("verify")
        _verify(row, part)
        _write_manifest(arguments, row, part, sums)
    shutil.rmtree(downloads, ignore_errors=True)
    console.report("result", output=str(target), files=len(row.files))


def _obtain(each: DataFile, path: Path, *, is_local: bool) -> str:
    """Have a file on the disk, and return its SHA-256."""
    if not is_local:
        try:
            download(each.url, path, sha256=each.sha256)
        except JobError as error:
            problem = error.problems[0]
            raise JobError(
                problem.what,
                where=problem.where,
                remedy=f"{problem.remedy}; without a network: download {each.url} elsewhere, and "
                "--from FOLDER",
            ) from error
    actual = sha256_of(path)
    if each.sha256 and actual != each.sha256:
        raise RequestError(
            f"expected the sha256 {each.sha256}, got {actual}",
            where=str(path),
            remedy="copy or download the file again",
        )
    return actual


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of a tar archive, without the folder that they are in.

    Raises:
        RequestError: it is damaged, or has members that are not plain files.
    """
    size = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if member.isdir() or name.startswith("."):
                    continue  # "._train.json" is a Mac's
                size += member.size
                if not member.isfile() or (folder / name).exists() or size > _MOST_UNPACKED:
                    raise tarfile.TarError(f"unexpected member {member.name!r}")
                content = tar.extractfile(member)
                if content is None:
                    raise tarfile.TarError(f"unreadable member {member.name!r}")
                with (folder / name).open("wb") as stream:
                    shutil.copyfileobj(content, stream)
            while tar.fileobj and tar.fileobj.read(CHUNK):
                pass  # the checksum of a compressed archive is at its end
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise RequestError(
            f"not a complete archive: {error}",
            where=str(archive),
            remedy="remove it, and download it again",
        ) from error


def _verify(row: SampleData, folder: Path) -> None:
    """Check that the folder has what its row says.

    Raises:
        RequestError: with one problem for each fault.
    """
    try:
        if row.kind == "records":
            counts = records.check(folder)
            console.note(f"{counts.train} records to train on, {counts.dev} to evaluate on")
        else:
            for part in corpus.parts(str(folder)):
                pair = part.pair
                console.note(f"{pair.documents} documents, {pair.tokens} tokens")
    except RequestError as error:
        remedy = "the source has other data than expected: download it again, or look into it"
        problems = [
            Problem(each.what, each.where.replace(str(folder), row.name), remedy)
            for each in error.problems
        ]
        raise RequestError(problems) from error


def _write_manifest(
    arguments: FetchDataOptions, row: SampleData, folder: Path, sums: dict[str, str]
) -> None:
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
    }
    source = arguments.source or " ".join(each.url for each in row.files)
    manifest = checkpoint.Manifest(
        row.name,
        source,
        " ".join(sums.values()),
        row.kind,
        __version__,
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        files,
    )
    write_json(folder / checkpoint.MANIFEST, asdict(manifest))
