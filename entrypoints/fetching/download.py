"""Downloads that go on where they were cut off, and are what they are meant to be."""

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

__all__ = ["LIMIT", "TEXT_LIMIT", "NotThere", "download", "trust_bundle"]

TEXT_LIMIT = 64 * 2**20
"""The most bytes of a configuration, a tokenizer's file or an index, of which no sum is known."""

LIMIT = 256 * 2**30
"""The most bytes of a file of weights, of which neither a sum nor a size is known."""

_ATTEMPTS = 5
_PASSING = (429, 500, 502, 503, 504)  # what a server says when it is busy or restarts
_BUNDLE = Path("/run/secrets/ca_bundle")
_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")


class NotThere(JobError):
    """The server has no such file."""


class _CutOff(Exception):
    """The connection ended before the file did."""


def trust_bundle() -> None:
    """Make httpx, requests and pip trust the one certificate bundle this machine was given.

    Each of them reads a variable of its own. What is set stays; the others follow
    the first that is set, or the bundle that is mounted as a secret.
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
    """Bring the file at ``url`` to ``target``, and be sure of it.

    It grows as ``<target>.part`` and is renamed when it is whole, so that a
    process killed in between goes on from there the next time. The server is
    asked for the rest only if it is still the same file (``If-Range``), or if
    the sum will tell.

    Args:
        url: http, https or file.
        target: where it goes; a whole file there that has the sum is kept.
        sha256: what it has to be; empty where that is not known.
        limit: the most bytes that are taken: its size where that is known. A server could send
            without end.
        token: sent as bearer, to the first host only.
        timeout: seconds without a byte after which an attempt is given up.
        attempts: how often to connect when the connection breaks.
        pause: seconds to wait before the second attempt; each wait is longer by as much.

    Raises:
        RequestError: it is not what it is meant to be; nothing of it is kept.
        NotThere: the server says that there is no such file.
        JobError: the server refuses, or cannot be reached.
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
                        "command again: it goes on where it stopped",
                    ) from error
                console.note(f"the connection broke ({reason}): trying again")
                time.sleep(pause * attempt)


def _attempt(client: httpx.Client, url: str, part: Path, summed: bool, limit: int) -> None:
    import httpx

    have = part.stat().st_size if part.is_file() else 0
    validator = _validator(part, url) if have else None
    headers = {"Accept-Encoding": "identity"}  # a range of a compressed file is no range of it
    if validator or (validator is not None and summed):
        # A server may say nothing to tell versions of a file by: the sum will tell.
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # whole already: the process was killed just before the rename
            part.unlink(missing_ok=True)
            raise _CutOff("the part on the disk is longer than the file")
        if answer.status_code in _PASSING:
            raise _CutOff(f"the server says {answer.status_code} {answer.reason_phrase}")
        if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise _refusal(answer, url)
        if answer.status_code == httpx.codes.PARTIAL_CONTENT:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise JobError(
                    "the server sent another part of the file than asked",
                    where=without_login(url),
                    remedy="try again; a proxy on the way may answer for it",
                )
        else:
            have = 0
        _store(answer, part, have, url, limit)


def _check_limit(size: int, limit: int, url: str) -> None:
    if size > limit:
        raise RequestError(
            f"the file is larger than {limit} bytes, which is the most that it may be",
            where=without_login(url),
            remedy="choose another source: what it has is not what it should be",
        )


def _store(answer: httpx.Response, part: Path, have: int, url: str, limit: int) -> None:
    length = answer.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else 0
    _check_limit(max(total, have), limit, url)
    report = in_mib(Path(urlsplit(url).path).name, total)
    if have:
        console.note(f"going on at byte {have} of {total or 'an unknown number'}")
    done = have
    with part.open("ab" if have else "wb") as stream:
        if not have:
            # Between the end of an older part and the first byte of this one: killed anywhere,
            # there is never a part beside what tells another version apart.
            _remember(answer, part, url)
        for chunk in answer.iter_raw():  # as it comes: what is gathered would be lost in a cut
            if done + len(chunk) > limit:
                stream.close()
                part.unlink()
                _check_limit(done + len(chunk), limit, url)
            stream.write(chunk)
            stream.flush()  # a slow line gathers a buffer for minutes, and a kill loses it
            done += len(chunk)
            report(done)
    if total and done != total:
        raise _CutOff(f"{done} of {total} bytes came")


def _refusal(answer: httpx.Response, url: str) -> JobError:
    message = f"the server says {answer.status_code} {answer.reason_phrase}"
    if answer.status_code in (404, 410):
        return NotThere(
            message,
            where=without_login(url),
            remedy="check the model's name, and that it has this file",
        )
    remedy = "try again later"
    if answer.status_code in (401, 403):
        remedy = "give a token (HF_TOKEN, or the file /run/secrets/hub_token) that may read it"
    elif answer.status_code == 407:
        remedy = "the proxy wants a name and a password: https_proxy=http://NAME:PASSWORD@HOST"
    return JobError(message, where=without_login(url), remedy=remedy)


def _check(part: Path, target: Path, sha256: str, url: str) -> None:
    if not sha256:
        return
    actual = sha256_of(part)
    if actual != sha256:
        part.unlink()
        _validator_file(part).unlink(missing_ok=True)
        raise RequestError(
            f"{target.name} has the sha256 {actual}, and {sha256} is wanted",
            where=without_login(url),
            remedy="the file was changed on its way or at its source, and was not kept: "
            "fetch again, or check where it comes from",
        )


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(answer: httpx.Response, part: Path, url: str) -> None:
    etag = answer.headers.get("ETag", "")
    # A weak ETag names files that are alike, not files that are the same.
    validator = etag if etag and not etag.startswith("W/") else ""
    validator = validator or answer.headers.get("Last-Modified", "")
    _validator_file(part).write_text(json.dumps({"url": url, "validator": validator}))


def _validator(part: Path, url: str) -> str | None:
    """Return what the server named the part's version by; None if the part is another file's."""
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
            remedy="make room or allow writing, and run the command again: it goes on from there",
        ) from error
