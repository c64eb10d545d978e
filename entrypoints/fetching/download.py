"""Resumable downloads with checksums."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from entrypoints.runtime import console
from entrypoints.runtime.progress import in_mib
from paddle_stacks.errors import JobError, MachineError, RequestError, without_login
from paddle_stacks.jobs.files import sha256_of

if TYPE_CHECKING:
    import httpx

__all__ = ["LIMIT", "TEXT_LIMIT", "NotFoundError", "download", "trust_bundle"]

TEXT_LIMIT = 64 * 2**20
"""The maximum size of a configuration, a tokenizer's file or an index without checksum."""

LIMIT = 256 * 2**30
"""The maximum size of a weight file without checksum and size."""

_ATTEMPTS = 5
_PASSING = (429, 500, 502, 503, 504)  # a server is busy or restarting
_BUNDLE = Path("/run/secrets/ca_bundle")
_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")


class NotFoundError(JobError):
    """The file does not exist on the server."""


class _CutOff(Exception):
    """The connection ended before the file was complete."""


def trust_bundle() -> None:
    """Make httpx, requests and pip use one CA bundle.

    Each of them reads another variable. Unset variables get the value of the first one that is
    set, or the path of the bundle that is mounted as a secret.
    """
    configured = next((os.environ[name] for name in _BUNDLE_VARIABLES if os.environ.get(name)), "")
    if not configured and _BUNDLE.is_file():
        configured = str(_BUNDLE)
    if configured:
        for name in _BUNDLE_VARIABLES:
            os.environ.setdefault(name, configured)


def download(
    url: str,
    target: Path,
    *,
    sha256: str = "",
    limit: int = LIMIT,
    token: str = "",
    timeout: float = 60.0,
    attempts: int = _ATTEMPTS,
    pause: float = 1.0,
) -> None:
    """Download the file at ``url`` to ``target``, and verify it.

    It is written to ``<target>.part`` and renamed when it is complete, so an interrupted
    download resumes. The rest is requested only if the file has not changed (``If-Range``), or
    if its checksum is known.

    Args:
        url: http, https or file.
        target: the destination; an existing file with the right checksum is kept.
        sha256: the expected checksum; empty if it is unknown.
        limit: the maximum size, or the size if it is known.
        token: sent as bearer token, to the first host only.
        timeout: seconds without data until an attempt fails.
        attempts: the number of attempts when the connection breaks.
        pause: seconds before the second attempt; each further pause is longer by as much.

    Raises:
        RequestError: the checksum does not match; the file is removed.
        NotFoundError: the file does not exist on the server.
        JobError: the server rejects the request or cannot be reached.
        MachineError: the disk is full.
    """
    if target.is_file() and sha256 and sha256_of(target) == sha256:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _disk_errors(part):
        if urlsplit(url).scheme == "file":
            source = Path(unquote(urlsplit(url).path))
            _check_limit(source.stat().st_size, limit, url)
            shutil.copyfile(source, part)
        else:
            _resume(url, part, token, timeout, attempts, pause, bool(sha256), limit)
        _check(part, target, sha256, url)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(target)
    _validator_file(part).unlink(missing_ok=True)


def _resume(
    url: str,
    part: Path,
    token: str,
    timeout: float,
    attempts: int,
    pause: float,
    summed: bool,
    limit: int,
) -> None:
    import httpx

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(follow_redirects=True, timeout=timeout, headers=headers) as client:
        for attempt in range(1, attempts + 1):
            try:
                _attempt(client, url, part, summed, limit)
                return
            except (httpx.TransportError, httpx.TooManyRedirects, _CutOff) as error:
                reason = str(error) or type(error).__name__
                if attempt == attempts or isinstance(error, httpx.TooManyRedirects):
                    raise JobError(
                        f"cannot download: {reason}",
                        where=without_login(url),
                        remedy="check the network, the proxy and the certificates; run the "
                        "command again, which resumes the download",
                    ) from error
                console.note(f"the connection broke ({reason}): retrying")
                time.sleep(pause * attempt)


def _attempt(client: httpx.Client, url: str, part: Path, summed: bool, limit: int) -> None:
    import httpx

    have = part.stat().st_size if part.is_file() else 0
    validator = _validator(part, url) if have else None
    headers = {"Accept-Encoding": "identity"}  # ranges of compressed files do not work
    if validator or (validator is not None and summed):
        # Without validators of the server, the checksum detects another version.
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # complete: the process was killed just before the rename
            part.unlink(missing_ok=True)
            raise _CutOff("the partial download is longer than the file")
        if answer.status_code in _PASSING:
            raise _CutOff(f"the server responds with {answer.status_code} {answer.reason_phrase}")
        if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise _refusal(answer, url)
        if answer.status_code == httpx.codes.PARTIAL_CONTENT:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise JobError(
                    "the server sent another range than requested",
                    where=without_login(url),
                    remedy="try again; a proxy may have answered",
                )
        else:
            have = 0
        _store(answer, part, have, url, limit)


def _check_limit(size: int, limit: int, url: str) -> None:
    if size > limit:
        raise RequestError(
            f"the file is larger than the limit of {limit} bytes",
            where=without_login(url),
            remedy="use another source: the file is not the expected one",
        )


def _store(answer: httpx.Response, part: Path, have: int, url: str, limit: int) -> None:
    length = answer.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else 0
    _check_limit(max(total, have), limit, url)
    report = in_mib(Path(urlsplit(url).path).name, total)
    if have:
        console.note(f"resuming at byte {have} of {total or 'an unknown number'}")
    done = have
    with part.open("ab" if have else "wb") as stream:
        if not have:
            # Before the first byte, so that a partial file always has its validator, whenever the
            # process is killed.
            _remember(answer, part, url)
        for chunk in answer.iter_raw():  # unbuffered, because buffered data would be lost
            if done + len(chunk) > limit:
                stream.close()
                part.unlink()
                _check_limit(done + len(chunk), limit, url)
            stream.write(chunk)
            stream.flush()  # a slow connection fills a buffer for minutes, and a kill loses it
            done += len(chunk)
            report(done)
    if total and done != total:
        raise _CutOff(f"{done} of {total} bytes received")


def _refusal(answer: httpx.Response, url: str) -> JobError:
    message = f"the server responds with {answer.status_code} {answer.reason_phrase}"
    if answer.status_code in (404, 410):
        return NotFoundError(
            message,
            where=without_login(url),
            remedy="check the model's name and that it has this file",
        )
    remedy = "try again later"
    if answer.status_code in (401, 403):
        remedy = "use a token with access to it (HF_TOKEN, or the file /run/secrets/hub_token)"
    elif answer.status_code == 407:
        remedy = "the proxy requires a login: https_proxy=http://NAME:PASSWORD@HOST"
    return JobError(message, where=without_login(url), remedy=remedy)


def _check(part: Path, target: Path, sha256: str, url: str) -> None:
    if not sha256:
        return
    actual = sha256_of(part)
    if actual != sha256:
        part.unlink()
        _validator_file(part).unlink(missing_ok=True)
        raise RequestError(
            f"the SHA-256 of {target.name} is {actual}, expected {sha256}",
            where=without_login(url),
            remedy="the file was changed in transit or at its source, and was removed: "
            "fetch again, or check the source",
        )


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(answer: httpx.Response, part: Path, url: str) -> None:
    etag = answer.headers.get("ETag", "")
    # A weak ETag does not guarantee identical bytes.
    validator = etag if etag and not etag.startswith("W/") else ""
    validator = validator or answer.headers.get("Last-Modified", "")
    _validator_file(part).write_text(json.dumps({"url": url, "validator": validator}))


def _validator(part: Path, url: str) -> str | None:
    """Return the validator of the partial file; None if it belongs to another file."""
    try:
        body = json.loads(_validator_file(part).read_text(encoding="utf-8"))
        return str(body["validator"]) if body["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _disk_errors(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"cannot write the download: {error.strerror or error}",
            where=str(part),
            remedy="free some space or allow writing, and run the command again, which resumes it",
        ) from error
