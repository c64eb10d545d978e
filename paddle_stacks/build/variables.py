"""Variables of ``docker-bake.hcl``: versions, revision, dates, the OS image, and secrets."""

from __future__ import annotations

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
from paddle_stacks.jobs.files import sha256_of
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

_LOCKS = ("framework/requirements", "train/requirements", "infer/requirements")
# Only a DCU has kernels for quantization.
_DCU_LOCKS = (*_LOCKS[:2], "train/quantize", *_LOCKS[2:])


def variables(
    settings: Settings, os_image: OsImage, dtk_image: OsImage | None = None
) -> dict[str, str]:
    """Return the bake variables of this checkout, without the secrets.

    Args:
        settings: the backend, and the sources of a build.
        os_image: the Debian image.
        dtk_image: the DTK image, the parent of a DCU's images; None for other backends.

    Raises:
        BuildError: a lock is missing or does not pin Paddle or PaddleNLP.
        RequestError: the source of the operators does not exist.
    """
    root = settings.root
    backend = load(settings.backend, root)
    parent = dtk_image or os_image
    source = _source(settings, backend)
    seconds = commit_seconds(root)
    created = datetime.fromtimestamp(seconds, timezone.utc)
    return {
        "BACKEND": settings.backend,
        "LOCK": backend.lock,
        "DTK_IMAGE": dtk_image.reference if dtk_image else "",
        "GFX_ARCHS": _architectures(settings, backend),
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
        "OS_NAME": parent.reference,
        "OS_DIGEST": parent.digest,
        "OS_SOURCE": parent.source,
        "LOCK_HASH": lock_hash(root, backend),
        "PADDLE_VERSION": paddle_version(root),
        "PADDLENLP_VERSION": locked_version(root, backend.lock, "paddlenlp"),
    }


def check_request(settings: Settings) -> None:
    """Check the settings of a build before anything is pulled.

    Raises:
        RequestError: an unknown backend, an invalid architecture or source.
    """
    backend = load(settings.backend, settings.root)
    _architectures(settings, backend)
    _source(settings, backend)


def _architectures(settings: Settings, backend: Backend) -> str:
    """Return the architectures to compile operators for; empty if the backend has none."""
    if not backend.architectures:
        return ""
    names = [name for name in re.split(r"[;,\s]+", settings.gfx_archs) if name]
    for name in names:
        if not re.fullmatch(r"gfx[0-9a-f]{3,4}", name):
            raise RequestError(
                f'"{name}" is not an architecture of a DCU',
                where="gfx_archs",
                remedy="set a list such as gfx928;gfx936; configs/dcu/cards.toml lists those of"
                " the cards",
            )
    return ";".join(names or backend.architectures)


def _source(settings: Settings, backend: Backend) -> str:
    """Return PaddleNLP's source: a URL, or the absolute path of a folder."""
    if not backend.architectures:
        return ""
    source = settings.paddlenlp_src or backend.paddlenlp
    if "://" in source:
        return source
    folder = (settings.root / source).resolve()
    if not (folder / "csrc").is_dir():
        raise RequestError(
            f"{folder} is not PaddleNLP's source: it has no csrc/",
            where="paddlenlp_src",
            remedy="name the folder of a checkout, or a git URL with #COMMIT",
        )
    return str(folder)


def _source_label(root: Path, source: str) -> str:
    """Return the image label for the operators' source, without the builder's private paths."""
    if not source or "://" in source:
        return without_password(source)
    folder = Path(source)
    if folder.is_relative_to(root):
        return str(folder.relative_to(root))
    return f"{folder.name}@{revision(folder)}"


def paddle_version(root: Path) -> str:
    """Return the version of Paddle, which is the same for all backends."""
    path = root / "images" / "framework" / "requirements.in"
    match = re.search(r"^paddlepaddle==(\S+)", path.read_text(), re.MULTILINE)
    if not match:
        raise BuildError(
            "no paddlepaddle==…",
            where=str(path),
            remedy=f"restore the file: git checkout {path}",
        )
    return match[1]


def lock_hash(root: Path, backend: Backend) -> str:
    """Return ``sha256:…`` over the locks of a backend's images, in the order of the images."""
    names = _DCU_LOCKS if backend.architectures else _LOCKS
    return f"sha256:{sha256_of(*(_lock(root, backend.lock, name) for name in names))}"


def locked_version(root: Path, backend: str, package: str) -> str:
    """Return the version of a package in the framework's lock."""
    lock = _lock(root, backend, "framework/requirements")
    match = re.search(rf"^{re.escape(package)}==(\S+)", lock.read_text(), re.MULTILINE)
    if not match:
        raise BuildError(f"{package} is not in the lock", where=str(lock), remedy="./inv lock")
    return match[1]


def paddle_dcu(root: Path) -> str:
    """Return the name under which the hash of a DCU's Paddle is recorded."""
    return f"paddlepaddle-dcu=={paddle_version(root)}"


@contextmanager
def secrets(settings: Settings, *, record: bool = False) -> Iterator[dict[str, str]]:
    """Yield the bake variables that name secret files; the files exist during the block.

    ``NETWORK`` is a file that only the caller can read, with the proxies and mirrors, which may
    contain passwords; ``images/steps/with-build-network`` reads it. For a DCU it also has the
    recorded hashes of Paddle: as a secret they are not part of a step's cache key.

    Args:
        settings: the backend, mirrors, proxies, the CA bundle.
        record: accept any hash, which is then recorded.
    """
    keys = ("http_proxy", "https_proxy", "no_proxy", "index_url", "dcu_index_url", "apt_mirror")
    lines = [f"{key}={getattr(settings, key)}\n" for key in keys if getattr(settings, key)]
    if settings.backend == "dcu" and not record:
        hashes = recorded.digests_of(settings.root, paddle_dcu(settings.root))
        accepted = ",".join(digest.removeprefix("sha256:") for digest in hashes)
        lines += [f"paddle_dcu_sha256={accepted}\n"] if accepted else []
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
            remedy=f"create it: ./inv lock --backend {backend}",
        )
    return path
