"""What ``docker-bake.hcl`` is told: versions, revision, dates, the OS image, and secrets."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from paddle_stacks import __version__
from paddle_stacks.build import recorded
from paddle_stacks.build.os_image import OsImage
from paddle_stacks.errors import BuildError, RequestError
from paddle_stacks.plan.backend import Backend, load
from paddle_stacks.revision import commit_seconds, revision
from paddle_stacks.settings import Settings, without_password

__all__ = [
    "check_request",
    "lock_hash",
    "locked_version",
    "paddle_dcu",
    "paddle_version",
    "secrets",
    "variables",
]

# The third is for what only a DCU has kernels for.
_LOCKS = ("framework/requirements", "train/requirements", "train/quantize", "infer/requirements")


def variables(
    settings: Settings, os_image: OsImage, dtk_image: OsImage | None = None
) -> dict[str, str]:
    """Return the bake variables of this checkout, but for the secrets.

    Args:
        settings: the backend, and what is built from where.
        os_image: Debian's.
        dtk_image: the DTK's, which a DCU's images start from; None for other images.

    Raises:
        BuildError: a lock is missing or does not name Paddle or PaddleNLP.
        RequestError: the source of the operators is not there.
    """
    root, backend = settings.root, settings.backend
    platform = load(backend, root)
    start = dtk_image or os_image
    source = _source(settings, platform)
    seconds = commit_seconds(root)
    created = datetime.fromtimestamp(seconds, timezone.utc)
    return {
        "BACKEND": backend,
        "LOCK": platform.lock,
        "DTK_IMAGE": dtk_image.reference if dtk_image else "",
        "GFX_ARCHS": _architectures(settings, platform),
        "PADDLENLP_SRC": source,
        "PADDLENLP_SOURCE": _source_label(root, source),
        "PACKAGES": str(settings.packages or ""),
        "WHEELS": str(settings.wheels or ""),
        "HEADERS": str(settings.headers or ""),
        "VERSION": __version__,
        "REVISION": revision(root),
        "SOURCE_DATE_EPOCH": str(seconds),
        "CREATED": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "OS_IMAGE": os_image.reference,
        "OS_NAME": start.reference,
        "OS_DIGEST": start.digest,
        "OS_SOURCE": start.source,
        "LOCK_HASH": lock_hash(root, platform),
        "PADDLE_VERSION": paddle_version(root),
        "PADDLENLP_VERSION": locked_version(root, platform.lock, "paddlenlp"),
    }


def check_request(settings: Settings) -> None:
    """Check what a build is asked for, before anything is pulled.

    Raises:
        RequestError: no such backend or architecture, or a source that is none.
    """
    platform = load(settings.backend, settings.root)
    _architectures(settings, platform)
    _source(settings, platform)


def _architectures(settings: Settings, platform: Backend) -> str:
    """Return what operators are compiled for; empty where there are none."""
    if not platform.architectures:
        return ""
    given = [name for name in re.split(r"[;,\s]+", settings.gfx_archs) if name]
    for name in given:
        if not re.fullmatch(r"gfx[0-9a-f]{3,4}", name):
            raise RequestError(
                f'"{name}" is no architecture of a DCU',
                where="gfx_archs",
                remedy="a list such as gfx928;gfx936: configs/dcu/cards.toml has the cards' own",
            )
    return ";".join(given or platform.architectures)


def _source(settings: Settings, platform: Backend) -> str:
    """Return PaddleNLP's source: a URL as it is, a folder by its absolute path."""
    if not platform.architectures:
        return ""
    given = settings.paddlenlp_src or platform.paddlenlp
    if "://" in given:
        return given
    folder = (settings.root / given).resolve()
    if not (folder / "csrc").is_dir():
        raise RequestError(
            f"{folder} is not PaddleNLP's source: it has no csrc/",
            where="paddlenlp_src",
            remedy="name the folder of a checkout, or a git URL with #COMMIT",
        )
    return str(folder)


def _source_label(root: Path, source: str) -> str:
    """Return what an image says of its operators' source: not where somebody keeps it."""
    if not source or "://" in source:
        return without_password(source)
    folder = Path(source)
    if folder.is_relative_to(root):
        return str(folder.relative_to(root))
    return f"{folder.name}@{revision(folder)}"


def paddle_version(root: Path) -> str:
    """Return the version of Paddle, which is the same on all backends."""
    path = root / "images" / "framework" / "requirements.in"
    found = re.search(r"^paddlepaddle==(\S+)", path.read_text(), re.MULTILINE)
    if not found:
        raise BuildError(
            "no paddlepaddle==…",
            where=str(path),
            remedy="pin it there, as images/framework/requirements.in has it in git",
        )
    return found.group(1)


def lock_hash(root: Path, platform: Backend) -> str:
    """Return ``sha256:…`` over the locks of a backend's images, in the order of the images."""
    names = _LOCKS if platform.architectures else _LOCKS[:-1]
    digest = hashlib.sha256()
    for name in names:
        digest.update(_lock(root, platform.lock, name).read_bytes())
    return f"sha256:{digest.hexdigest()}"


def locked_version(root: Path, backend: str, package: str) -> str:
    """Return the version of a package in the framework's lock."""
    lock = _lock(root, backend, "framework/requirements")
    found = re.search(rf"^{re.escape(package)}==(\S+)", lock.read_text(), re.MULTILINE)
    if not found:
        raise BuildError(f"{package} is not in the lock", where=str(lock), remedy="./inv lock")
    return found.group(1)


def paddle_dcu(root: Path) -> str:
    """Return the name by which the hash of a DCU's Paddle is recorded."""
    return f"paddlepaddle-dcu=={paddle_version(root)}"


@contextmanager
def secrets(settings: Settings, *, record: bool = False) -> Iterator[dict[str, str]]:
    """Yield the bake variables that name secret files, which exist for the block.

    ``NETWORK`` is a file only the caller can read, with the proxies and the
    mirrors (they may hold passwords); ``images/base/with-network`` reads it. For a DCU it
    has the hashes of Paddle that are recorded: here they do not change a step's cache.

    Args:
        settings: the backend, mirrors, proxies, the CA bundle.
        record: whether any hash is accepted, to be recorded.
    """
    keys = ("http_proxy", "https_proxy", "no_proxy", "index_url", "dcu_index_url", "apt_mirror")
    lines = [f"{key}={getattr(settings, key)}\n" for key in keys if getattr(settings, key)]
    if settings.backend == "dcu" and not record:
        hashes = recorded.known(settings.root, paddle_dcu(settings.root))
        right = ",".join(digest.removeprefix("sha256:") for digest in hashes)
        lines += [f"paddle_dcu_sha256={right}\n"] if right else []
    with tempfile.NamedTemporaryFile("w", prefix="network-", encoding="utf-8") as network:
        network.writelines(lines)
        network.flush()
        bundle = settings.ca_bundle or Path(os.devnull)
        yield {"CA_BUNDLE": str(bundle), "NETWORK": network.name}


def _lock(root: Path, backend: str, name: str) -> Path:
    path = root / "images" / f"{name}.{backend}.lock"
    if not path.is_file():
        raise BuildError(
            f"no lock {name} for the backend {backend}",
            where=str(path),
            remedy=f"make it: ./inv lock --backend {backend}",
        )
    return path
