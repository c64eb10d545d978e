"""Search for secrets in an image's layers, configuration and history."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

# Where BuildKit puts secrets during a step. A layer has no such path, not even an empty file.
_MOUNTED = "run/secrets/"
_CERTIFICATE = re.compile(rb"-----BEGIN [A-Z ]*CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END")


@dataclass(frozen=True)
class Secrets:
    """Secrets that an image must not contain.

    Args:
        texts: looked for in every file, in the configuration and in the history.
        certificates: SHA-256 of certificates (see :func:`certificates`).
    """

    texts: tuple[bytes, ...] = field(repr=False)
    certificates: frozenset[str] = frozenset()


def certificates(content: bytes) -> frozenset[str]:
    """Return the SHA-256 of each PEM certificate in a file."""
    bodies = (b"".join(body.split()) for body in _CERTIFICATE.findall(content))
    return frozenset(
        hashlib.sha256(base64.b64decode(body)).hexdigest() for body in bodies if len(body) % 4 == 0
    )


def leaks(images: Sequence[str], secrets: Secrets) -> list[str]:
    """Return the places of secrets in images, one line each.

    Files that a later layer deletes are searched too, because everyone who has the image has all
    layers.

    Args:
        images: ids of images; a layer that they share is read once.
        secrets: what to look for.
    """
    lines: list[str] = []
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
        assert save.stdout is not None
        with tarfile.open(fileobj=save.stdout, mode="r|") as archive:
            # Each blob is a layer, or JSON: manifests, and a configuration with the history.
            for blob in archive:
                content = archive.extractfile(blob) if blob.isfile() else None
                if content is None:
                    continue
                head = content.peek(512)  # type: ignore[attr-defined]
                # Engines with containerd's image store save layers as they are, in gzip.
                if head[257:262] == b"ustar" or head.startswith(b"\x1f\x8b"):
                    lines += _in_layer(blob.name, content, secrets)
                else:
                    lines += [f"{blob.name}: {secret}" for secret in _held(content.read(), secrets)]
    assert save.returncode == 0, f"docker save ended with {save.returncode}"
    return lines


def _in_layer(layer: str, content: IO[bytes], secrets: Secrets) -> Iterator[str]:
    with tarfile.open(fileobj=content, mode="r|*") as members:
        for member in members:
            where = f"{layer}: /{member.name}"
            if f"{member.name.lstrip('./')}/".startswith(_MOUNTED):
                yield f"{where}: a secret's mount point"
            file = members.extractfile(member) if member.isfile() else None
            if file is not None:
                yield from (f"{where}: {secret}" for secret in _held(file.read(), secrets))


def _held(content: bytes, secrets: Secrets) -> Iterator[str]:
    for number, text in enumerate(secrets.texts):
        if text in content:
            yield f"text {number}"  # not the text itself: this is printed
    if b"CERTIFICATE-----" in content:
        for digest in sorted(certificates(content) & secrets.certificates):
            yield f"certificate {digest[:12]}"
