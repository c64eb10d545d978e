"""Loading of a bundle: images into the engine, the project into a folder, without a network.

Each step skips what exists, so that the same command continues after any interruption: a file is
renamed when it is complete, a model's folder when all its files are, and an image is listed when
the engine has all of it.
"""

from __future__ import annotations

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
    digits,
    disk_full_as_error,
    not_a_bundle,
    open_joined,
)
from paddle_stacks.errors import JobError, MachineError, Problem, RequestError
from paddle_stacks.jobs.files import CHUNK, remove_unfinished, replacing_file, sha256_of, sync_tree
from paddle_stacks.revision import revision

__all__ = ["LOADED", "PROJECT", "load"]

LOADED = ".bundle"
"""The project's folder for the bundle's packages and sources, and for the state of loading."""

PROJECT = "project/paddle-stacks.tar"
_SETTINGS = "paddle-stacks.toml"
_HEAD = "# Written when the bundle was loaded: the sources of a build without a network.\n"
_UNPACKED = 4  # size of .venv as a multiple of its wheels
_ENGINE_MARGIN = 2  # docker load stores a copy of a layer while it unpacks it


@dataclass
class _State:
    """The state of loading, in a file of the project.

    Args:
        path: the file.
        bundle: the hash of the bundle's ``SHA256SUMS``.
        project: whether the project's files are installed.
        verified: the bundle's files that were compared with their checksums.
    """

    path: Path
    bundle: str
    project: bool = False
    verified: dict[str, check.Stamp] = field(default_factory=dict)

    def save(self) -> None:
        """Replace the file."""
        document = {"bundle": self.bundle, "project": self.project, "whole": self.verified}
        _write(io.BytesIO(json.dumps(document).encode()), self.path)

    def add(self, path: str, stamp: check.Stamp) -> None:
        """Add a verified file; save at once if the file is large."""
        self.verified[path] = stamp
        if stamp[0] >= CHUNK:
            self.save()


def load(
    folder: Path,
    to: Path,
    log: Callable[[str], None],
    *,
    allowed_signers: Path | None = None,
    verify: bool = True,
) -> Manifest:
    """Load a bundle and return its manifest.

    Args:
        folder: the bundle.
        to: the project's folder: a new one, one that this bundle was being loaded into,
            or a checkout of the same revision.
        log: called with a line for each step.
        allowed_signers: file of trusted keys (ALLOWED SIGNERS of ``ssh-keygen``) of which one
            must have signed the bundle; None to check the checksums only.
        verify: test the images with ``./inv verify`` at the end.

    Raises:
        RequestError: the bundle is incomplete or damaged, or ``to`` holds something else.
        MachineError: no engine, not enough disk space, or no supported Python.
        JobError: a step failed; the same command continues from there.
    """
    with disk_full_as_error(to):
        return _load(folder, to, log, allowed_signers, verify)


def _load(
    folder: Path,
    to: Path,
    log: Callable[[str], None],
    allowed_signers: Path | None,
    verify: bool,
) -> Manifest:
    engine_folder = images.require_engine()
    if allowed_signers:
        log(f"signed by {signature.check(folder, allowed_signers)}")
    state = _start(folder, to)
    _require_python(check.read(folder)[0], to)
    manifest = check.verify(folder, log, state.verified, state.add)
    _require_space(manifest, to, engine_folder)
    state.save()
    images.load_all(folder, manifest, log)
    if not state.project:
        log(f"project: revision {manifest.revision[:12]}, into {to}")
        _unpack(folder, manifest, to)
        state.project = True
        state.save()
    for name, target in _folders(manifest, to).items():
        _copy_folder(folder, manifest.below(name), name, target, log)
    _write_settings(manifest, to, log)
    log("environment: .venv, from the wheels of the bundle")
    _inv(to, "--list", quiet=True)
    if verify:
        log("testing the images")
        _inv(to, "verify", "--backend", manifest.backend)
    return manifest


def _start(folder: Path, to: Path) -> _State:
    """Return the state of loading a bundle into a folder.

    Raises:
        RequestError: the folder holds something else.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise not_a_bundle(folder, f"it has no {SUMS}")
    state = _State(to / LOADED / "state.json", sha256_of(sums))
    if state.path.is_file():
        previous = _read_state(state.path)
        if previous.get("bundle") == state.bundle:
            state.project = previous.get("project") is True
            state.verified = {path: tuple(stamp) for path, stamp in previous["whole"].items()}
            return state
    if to.exists() and not to.is_dir():
        raise RequestError("not a folder", where=str(to), remedy="name a new folder with --to")
    if to.is_dir() and any(path.name != LOADED for path in to.iterdir()):
        actual, expected = revision(to), check.read(folder)[0].revision
        if actual != expected:
            content = "something else" if actual == "unknown" else f"the project at {actual[:12]}"
            raise RequestError(
                f"the folder has {content}, and the bundle has the project at {expected[:12]}",
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


def _require_python(manifest: Manifest, to: Path) -> None:
    """Raise a MachineError if the bundle has no wheels for this Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version not in manifest.pythons and not (to / ".venv").is_dir():
        raise MachineError(
            f"the bundle has packages for Python {', '.join(manifest.pythons)}, not for {version}",
            where=sys.executable,
            remedy=f"use another Python: python{manifest.pythons[0]} bundle.pyz load; or create"
            f" the bundle for this one: ./inv bundle.create --python {version}",
        )


def _require_space(manifest: Manifest, to: Path, engine_folder: Path) -> None:
    """Raise a MachineError if the disks are too small, as far as the sizes are known."""
    blobs = {Path(file.path).name: file.size for file in manifest.below(images.BLOBS)}
    layers = {layer for image in images.missing(manifest) for layer in image.layers}
    sizes = {to: _missing(manifest, to)}
    if not (to / ".venv").is_dir():
        sizes[to] += _UNPACKED * sum(file.size for file in manifest.below("environment"))
    if engine_folder.is_dir():  # the engine may run on another machine
        sizes[engine_folder] = _ENGINE_MARGIN * sum(blobs[digits(layer)] for layer in layers)
    problems = []
    for folder in sizes:
        disk = folder.stat().st_dev
        needed = sum(size for path, size in sizes.items() if path.stat().st_dev == disk)
        free = shutil.disk_usage(folder).free
        if free < needed:
            fault = f"not enough space: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
            remedy = "free space, then run it again; loaded files are not loaded twice"
            problems.append(Problem(fault, str(folder), remedy))
    if problems:
        raise MachineError(problems)


def _folders(manifest: Manifest, to: Path) -> dict[str, Path]:
    """Return the target of each folder of the bundle."""
    names = [f"models/{name}" for name in manifest.models]
    names += [f"data/{name}" for name in manifest.data]
    inputs = ("environment", "packages", "sources")
    return {name: to / name for name in names} | {name: to / LOADED / name for name in inputs}


def _part(target: Path) -> Path:
    """Return the folder for unfinished copies; it has a fixed name, so that loading continues."""
    return target.with_name(f".{target.name}.part")


def _missing(manifest: Manifest, to: Path) -> int:
    """Return the bytes that are still to be copied into the project."""
    missing = sum(file.size for file in manifest.below("project"))
    for name, target in _folders(manifest, to).items():
        for file in manifest.below(name):
            path = file.path.removeprefix(f"{name}/")
            if not any((parent / path).is_file() for parent in (target, _part(target))):
                missing += file.size
    return missing


def _unpack(folder: Path, manifest: Manifest, to: Path) -> None:
    """Unpack the project; from the start if it was interrupted."""
    (file,) = manifest.below("project")
    with (
        tempfile.TemporaryFile(dir=to / LOADED) as copy,
        open_joined(folder, file.stored) as stream,
    ):
        # From a private copy, which is verified as a whole before any of it is unpacked and run.
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
                    f"{member.name} is not a file",
                    where=file.path,
                    remedy="do not load this bundle: bundle.create only writes files",
                )
            _write(content, target)
            if member.mode & 0o100:
                mode = target.stat().st_mode
                target.chmod(mode | (mode & 0o444) >> 2)  # executable for all who can read it


def _write(content: IO[bytes], target: Path) -> None:
    """Replace a file, and remove temporary files of interrupted runs."""
    remove_unfinished(target)
    with replacing_file(target, "wb") as stream:
        shutil.copyfileobj(content, stream, CHUNK)


def _copy_folder(
    folder: Path,
    files: Sequence[File],
    name: str,
    target: Path,
    log: Callable[[str], None],
) -> None:
    """Copy a folder of the bundle; it gets its final name when it is complete."""
    if not files:
        return
    if target.exists():
        _compare(files, name, target)
        log(f"{name}: already loaded")
        return
    log(f"{name}: {len(files)} files, {sum(file.size for file in files) / 1e6:.1f} MB")
    part = _part(target)
    for file in files:
        path = part / file.path.removeprefix(f"{name}/")
        if path.is_file() and path.stat().st_size == file.size:
            continue
        with open_joined(folder, file.stored) as stream:
            _write(stream, path)
    _compare(files, name, part)
    sync_tree(part)
    part.rename(target)


def _compare(files: Sequence[File], name: str, target: Path) -> None:
    """Raise a RequestError if a folder differs from the bundle's."""
    for file in files:
        path = target / file.path.removeprefix(f"{name}/")
        if path.is_file() and sha256_of(path) == file.sha256:
            continue
        raise RequestError(
            f"a different {name} exists: {path.name} differs from the bundle's",
            where=str(path),
            remedy="move it away, then run it again",
        )


def _write_settings(manifest: Manifest, to: Path, log: Callable[[str], None]) -> None:
    """Write the settings that let the project build images from the bundle's packages."""
    lines = [
        f'{key} = "{LOADED}/{folder}"\n'
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
        log(f"{_SETTINGS} exists; to build without a network, add: {''.join(lines).strip()}")
        return
    _write(io.BytesIO("".join([_HEAD, *lines]).encode()), path)


def _inv(to: Path, *arguments: str, quiet: bool = False) -> None:
    command = [str(to / "inv"), *arguments]
    output = subprocess.DEVNULL if quiet else None
    environment = dict(os.environ)
    if sys.prefix == sys.base_prefix:  # otherwise this is the environment that inv may replace
        environment["PADDLE_STACKS_PYTHON"] = sys.executable
    status = subprocess.run(command, cwd=to, stdout=output, env=environment, check=False).returncode
    if status:
        raise JobError(
            f"{' '.join(['./inv', *arguments])} exited with {status}",
            where=str(to),
            remedy="see the output above; the same command continues from here",
        )
