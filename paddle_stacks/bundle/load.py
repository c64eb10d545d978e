"""Make a bundle into images in the engine and a project that works, with no network.

Every step looks at what is there first, so that the same command goes on after an
interruption, at whatever moment: a file takes its name when it is whole, a folder of a
model when all its files are, an image when the engine has all of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from paddle_stacks.bundle import check, images, signature
from paddle_stacks.bundle.contents import (
    SUMS,
    File,
    Manifest,
    check_name,
    open_joined,
    telling_of_room,
)
from paddle_stacks.errors import JobError, MachineError, Problem, RequestError
from paddle_stacks.jobs.files import CHUNK, digest_of, remove_unfinished, replacing_file, sync_tree
from paddle_stacks.revision import revision

__all__ = ["CARRIED", "PROJECT", "load"]

CARRIED = ".bundle"
"""The project's folder for what it was loaded from: packages, sources, the state of this."""

PROJECT = "project/paddle-stacks.tar"
_SETTINGS = "paddle-stacks.toml"
_HEAD = "# Written when the bundle was loaded: what a build takes instead of a network.\n"
# Besides the files: what is unpacked of wheels into .venv, as a multiple of them.
_UNPACKED = 4
_ENGINE_MARGIN = 2  # docker load keeps a copy of a layer while it unpacks it


@dataclass
class _State:
    """What was done before, in a file of the project's.

    Args:
        path: the file.
        bundle: the sum of the bundle's sums.
        project: whether the project was laid down.
        whole: the bundle's files that were compared with their sums.
    """

    path: Path
    bundle: str
    project: bool = False
    whole: dict[str, check.Stamp] = field(default_factory=dict)

    def save(self) -> None:
        """Write it, so that it is whole at any moment."""
        document = {"bundle": self.bundle, "project": self.project, "whole": self.whole}
        _write(io.BytesIO(json.dumps(document).encode()), self.path)

    def found_whole(self, path: str, stamp: check.Stamp) -> None:
        """Keep that a file is whole; large ones are worth a write of their own."""
        self.whole[path] = stamp
        if stamp[0] >= CHUNK:
            self.save()


def load(
    folder: Path,
    to: Path,
    say: Callable[[str], None],
    *,
    allowed_signers: Path | None = None,
    verify: bool = True,
) -> Manifest:
    """Load a bundle and return its manifest.

    Args:
        folder: the bundle.
        to: the project's folder: a new one, one that this bundle was being loaded into,
            or a checkout of the same revision.
        say: told of each step.
        allowed_signers: whose signature is wanted, as ``ssh-keygen`` knows it; None: sums do.
        verify: whether the images are tested in the end, by ``./inv verify``.

    Raises:
        RequestError: the bundle is not whole, or ``to`` is something else.
        MachineError: no engine, no room, no Python that fits.
        JobError: a step failed; the same command goes on from there.
    """
    with telling_of_room(to):
        return _load(folder, to, say, allowed_signers, verify)


def _load(
    folder: Path,
    to: Path,
    say: Callable[[str], None],
    allowed_signers: Path | None,
    verify: bool,
) -> Manifest:
    root = images.require_engine()
    if allowed_signers:
        say(f"signed by {signature.check(folder, allowed_signers)}")
    state = _claim(folder, to)
    _require_python(check.read(folder)[0], to)
    manifest = check.verify(folder, say, state.whole, state.found_whole)
    _require_room(manifest, to, root)
    state.save()
    images.load_all(folder, manifest, say)
    if not state.project:
        say(f"project: revision {manifest.revision[:12]}, into {to}")
        _unpack(folder, manifest, to)
        state.project = True
        state.save()
    for name, target in _folders(manifest, to).items():
        _lay(folder, manifest.below(name), name, target, say)
    _write_settings(manifest, to, say)
    say("environment: .venv, from the wheels of the bundle")
    _inv(to, "--list", quiet=True)
    if verify:
        say("testing the images")
        _inv(to, "verify", "--backend", manifest.backend)
    return manifest


def _claim(folder: Path, to: Path) -> _State:
    """Return the state of a folder that a bundle may be loaded into.

    Raises:
        RequestError: it holds something else.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise RequestError(
            "this is no bundle: it has no SHA256SUMS",
            where=str(folder),
            remedy="name the folder that bundle.create made, with SHA256SUMS in it",
        )
    state = _State(to / CARRIED / "state.json", hashlib.sha256(sums.read_bytes()).hexdigest())
    if state.path.is_file():
        before = _read_state(state.path)
        if before.get("bundle") == state.bundle:
            state.project = before.get("project") is True
            state.whole = {path: tuple(stamp) for path, stamp in before["whole"].items()}
            return state
    if to.exists() and not to.is_dir():
        raise RequestError("this is no folder", where=str(to), remedy="name a new folder with --to")
    if to.is_dir() and any(path.name != CARRIED for path in to.iterdir()):
        here, there = revision(to), check.read(folder)[0].revision
        if here != there:
            raise RequestError(
                f"this folder holds {_what(to, here)}, and the bundle's project is {there[:12]}",
                where=str(to),
                remedy="name a new folder with --to; models and runs can be moved there",
            )
        state.project = True
    state.save()
    return state


def _read_state(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _what(to: Path, here: str) -> str:
    return "something else" if here == "unknown" else f"the project at {here[:12]}"


def _require_python(manifest: Manifest, to: Path) -> None:
    """Raise a MachineError where the bundle has no wheels for this Python."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here not in manifest.pythons and not (to / ".venv").is_dir():
        raise MachineError(
            f"this is Python {here}, and the bundle has packages for {', '.join(manifest.pythons)}",
            where=sys.executable,
            remedy=f"start it with another: python{manifest.pythons[0]} bundle.pyz load; or have"
            f" the bundle made for this one: ./inv bundle.create --python {here}",
        )


def _require_room(manifest: Manifest, to: Path, engine: Path) -> None:
    """Raise a MachineError where the disks have no room, as far as is known before."""
    blobs = {Path(file.path).name: file.size for file in manifest.below(images.BLOBS)}
    layers = {layer for image in images.missing(manifest) for layer in image.layers}
    wanted = {to: _missing(manifest, to)}
    if not (to / ".venv").is_dir():
        wanted[to] += _UNPACKED * sum(file.size for file in manifest.below("environment"))
    if engine.is_dir():  # it may run elsewhere
        wanted[engine] = _ENGINE_MARGIN * sum(blobs[name.partition(":")[2]] for name in layers)
    problems = []
    for place in wanted:
        disk = place.stat().st_dev
        needed = sum(count for path, count in wanted.items() if path.stat().st_dev == disk)
        free = shutil.disk_usage(place).free
        if free < needed:
            what = f"no room: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free"
            remedy = "make room, then start again: what is there is not loaded twice"
            problems.append(Problem(what, str(place), remedy))
    if problems:
        raise MachineError(problems)


def _folders(manifest: Manifest, to: Path) -> dict[str, Path]:
    """Return where each folder of the bundle's goes in the project."""
    whole = ("environment", "packages", "sources")
    named = [f"models/{name}" for name in manifest.models]
    named += [f"data/{name}" for name in manifest.data]
    return {name: to / name for name in named} | {name: to / CARRIED / name for name in whole}


def _part(target: Path) -> Path:
    """Return where a folder grows; the same the next time, which goes on with what is there."""
    return target.with_name(f".{target.name}.part")


def _missing(manifest: Manifest, to: Path) -> int:
    """Return the bytes that are still to be laid into the project."""
    missing = sum(file.size for file in manifest.below("project"))
    for name, target in _folders(manifest, to).items():
        for file in manifest.below(name):
            inside = file.path.removeprefix(f"{name}/")
            if not any((place / inside).is_file() for place in (target, _part(target))):
                missing += file.size
    return missing


def _unpack(folder: Path, manifest: Manifest, to: Path) -> None:
    """Lay the project down; again from the start if it was interrupted."""
    (file,) = manifest.below("project")
    with (
        tempfile.TemporaryFile(dir=to / CARRIED) as copy,
        open_joined(folder, file.pieces) as stream,
    ):
        # Of a copy that nobody else can open, since what is unpacked first is run last.
        shutil.copyfileobj(stream, copy, CHUNK)
        copy.seek(0)
        _unpack_archive(copy, file, to)


def _unpack_archive(stream: IO[bytes], file: File, to: Path) -> None:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            target = to / check_name(member.name)
            content = archive.extractfile(member) if member.isfile() else None
            if content is None:
                raise RequestError(
                    f"{member.name} is no file",
                    where=file.path,
                    remedy="do not load this bundle: ours has files alone",
                )
            _write(content, target)
            if member.mode & 0o100:
                rights = target.stat().st_mode
                target.chmod(rights | (rights & 0o444) >> 2)  # by whom it may be read


def _write(content: IO[bytes], target: Path) -> None:
    """Write a file that is whole under its name, and clear what a killed run left beside it."""
    remove_unfinished(target)
    with replacing_file(target, "wb") as stream:
        shutil.copyfileobj(content, stream, CHUNK)


def _lay(
    folder: Path,
    files: Sequence[File],
    name: str,
    target: Path,
    say: Callable[[str], None],
) -> None:
    """Copy a folder of the bundle to its place, where it appears when it is whole."""
    if not files:
        return
    if target.exists():
        _compare(files, name, target)
        say(f"{name}: is there")
        return
    say(f"{name}: {len(files)} files, {sum(file.size for file in files) / 1e6:.1f} MB")
    part = _part(target)
    for file in files:
        into = part / file.path.removeprefix(f"{name}/")
        if into.is_file() and into.stat().st_size == file.size:
            continue
        with open_joined(folder, file.pieces) as stream:
            _write(stream, into)
    _compare(files, name, part)
    sync_tree(part)
    part.rename(target)


def _compare(files: Sequence[File], name: str, target: Path) -> None:
    """Raise a RequestError where a folder is not what the bundle has under its name."""
    for file in files:
        path = target / file.path.removeprefix(f"{name}/")
        if path.is_file():
            with path.open("rb") as stream:
                if digest_of(stream) == (file.size, file.sha256):
                    continue
        raise RequestError(
            f"another {name} is there: {path.name} is not the bundle's",
            where=str(path),
            remedy="move it away, then start again",
        )


def _write_settings(manifest: Manifest, to: Path, say: Callable[[str], None]) -> None:
    """Tell the project where its builds find packages and sources."""
    lines = [
        f'{key} = "{CARRIED}/{folder}"\n'
        for key, folder in (
            ("packages", "packages"),
            ("paddlenlp_src", "sources/paddlenlp"),
            ("headers", "sources/headers"),
        )
        if manifest.below(folder)
    ]
    path = to / _SETTINGS
    if not lines:
        return
    if path.is_file() and not path.read_text(encoding="utf-8").startswith(_HEAD):
        say(f"{_SETTINGS} is kept; a build with no network needs in it: {''.join(lines).strip()}")
        return
    _write(io.BytesIO("".join([_HEAD, *lines]).encode()), path)


def _inv(to: Path, *arguments: str, quiet: bool = False) -> None:
    command = [str(to / "inv"), *arguments]
    output = subprocess.DEVNULL if quiet else None
    environment = dict(os.environ)
    if sys.prefix == sys.base_prefix:  # or it is the very environment that may have to be made
        environment["PADDLE_STACKS_PYTHON"] = sys.executable
    status = subprocess.run(command, cwd=to, stdout=output, env=environment, check=False).returncode
    if status:
        raise JobError(
            f"{' '.join(['./inv', *arguments])} ended with {status}",
            where=str(to),
            remedy="see above; all else is loaded, and the same command goes on from here",
        )
