"""Digests of a build's inputs: recorded by the first build, and compared from then on.

The project's digests are in ``configs/recorded.toml``. The first build with another input records
its digest in the checkout's ``.cache/recorded.json``. A record of the checkout takes precedence,
because only ``--record-hash`` replaces a digest of the project.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from paddle_stacks import toml
from paddle_stacks.errors import BuildError, Problem, RequestError
from paddle_stacks.jobs.files import replacing_file

__all__ = ["FILE", "LOCAL", "compare", "digests_of"]

FILE = Path("configs", "recorded.toml")
LOCAL = Path(".cache", "recorded.json")

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digests_of(root: Path, name: str) -> tuple[str, ...]:
    """Return the recorded digests of an input; () if there is no record.

    Args:
        root: the checkout.
        name: of an image, or ``PACKAGE==VERSION``.

    Raises:
        RequestError: a file of records cannot be read.
    """
    local = _local(root)
    return (local[name],) if name in local else _ours(root).get(name, ())


def compare(root: Path, name: str, digests: tuple[str, ...], *, record: bool = False) -> None:
    """Compare the digests of a build's input with the recorded ones, or record them.

    Args:
        root: the checkout.
        name: of an image, or ``PACKAGE==VERSION``.
        digests: of the input; one of them must be recorded. If empty, as for an image that was
            loaded from a file, nothing is compared.
        record: record the digest even if another one is recorded.

    Raises:
        BuildError: another digest is recorded.
        RequestError: a file of records cannot be read.
    """
    expected = digests_of(root, name)
    if not digests or set(digests) & set(expected):
        return
    if expected and not record:
        raise BuildError(
            f"{name} has the digest {digests[0]}, expected {' or '.join(expected)}",
            where=str(LOCAL if name in _local(root) else FILE),
            remedy="find out what changed; to accept it, run ./inv build --record-hash with the"
            " same options",
        )
    path = root / LOCAL
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as stream:
        json.dump({**_local(root), name: digests[0]}, stream, indent=1)
        stream.write("\n")
    print(f"recorded: {name} {digests[0]}, in {LOCAL}", file=sys.stderr)


def _local(root: Path) -> dict[str, str]:
    path = root / LOCAL
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if all(_DIGEST.fullmatch(digest) for digest in values.values()):
            return dict(values)
        message = "a digest must be sha256: and 64 digits"
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        message = str(error)
    remedy = "remove the file: the next build records the digests again"
    raise RequestError(f"not a list of digests: {message}", where=str(path), remedy=remedy)


def _ours(root: Path) -> Mapping[str, tuple[str, ...]]:
    path = root / FILE
    if not path.is_file():
        return {}
    problems = []
    records: dict[str, tuple[str, ...]] = {}
    for name, entry in toml.read(path).items():
        digests = entry.get("digests") if isinstance(entry, dict) else None
        if not isinstance(digests, list) or not all(
            isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests
        ):
            message = f'["{name}"] requires "digests", a list of sha256:…'
            problems.append(Problem(message, str(path), 'digests = ["sha256:…"]'))
            continue
        records[name] = tuple(digests)
    if problems:
        raise RequestError(problems)
    return records
