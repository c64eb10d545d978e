"""Known vulnerabilities of the pinned packages, from a snapshot of advisories in the repository.

``configs/advisories.json`` has the advisories of the packages in the locks, in the OSV format,
reduced to the fields that the check reads. The check needs no network; :func:`update` renews
the snapshot.
"""

from __future__ import annotations

import datetime
import json
import re
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from paddle_stacks import locks
from paddle_stacks.build.variables import paddle_version
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs.files import replacing_file
from paddle_stacks.provenance import vulnerabilities
from paddle_stacks.provenance.contents import Contents, Package
from paddle_stacks.settings import Settings

__all__ = [
    "ECOSYSTEM",
    "SNAPSHOT",
    "URL",
    "Snapshot",
    "check",
    "lines",
    "lock_files",
    "read",
    "uncovered",
    "update",
]

SNAPSHOT = Path("configs", "advisories.json")
ECOSYSTEM = "PyPI"
URL = f"{vulnerabilities.DOWNLOAD}/{ECOSYSTEM}/all.zip"
"""The archive of OSV.dev with all advisories of the ecosystem."""

_TIMEOUT = 60
_LARGEST_DOWNLOAD = 2**30


@dataclass(frozen=True)
class Snapshot:
    """The advisories in the repository.

    Args:
        complete_until: the snapshot has all advisories up to this day.
        source: of the advisories.
        packages: the packages that were looked up, including those without advisories.
        advisories: in the OSV format.
    """

    complete_until: datetime.date
    source: str
    packages: tuple[str, ...]
    advisories: tuple[Mapping[str, Any], ...]


def lock_files(root: Path) -> list[Path]:
    """Return the files that pin packages with their hashes."""
    images = root / "images"
    constraints = images / "framework" / "build-constraints.txt"
    return [*sorted(images.glob("*/*.lock")), constraints, root / "requirements.lock"]


def read(path: Path) -> Snapshot:
    """Return a snapshot.

    Raises:
        RequestError: it cannot be read, or is not a snapshot.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        until = datetime.date.fromisoformat(values["complete_until"])
        packages = tuple(map(str, values["packages"]))
        return Snapshot(until, str(values["source"]), packages, tuple(values["advisories"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(
            f"not a snapshot of advisories: {error}",
            where=str(path),
            remedy="./inv advisories.update writes one; it needs a network",
        ) from error


def check(
    root: Path,
    database: Path,
    policy: Sequence[vulnerabilities.Accepted],
    today: datetime.date,
) -> list[vulnerabilities.Report]:
    """Return the known vulnerabilities of the pinned packages, one report per lock file.

    Args:
        root: the checkout.
        database: the snapshot, or any database that a scan of images accepts.
        policy: the exceptions.
        today: decides which exceptions have expired.

    Raises:
        RequestError: the database cannot be read.
    """
    pinned = [_contents(root, path) for path in lock_files(root)]
    return vulnerabilities.scan(pinned, database, policy, today)


def lines(reports: Sequence[vulnerabilities.Report]) -> list[str]:
    """Return the result of a check as text, one line per vulnerable version of a package."""
    places: dict[vulnerabilities.Finding, list[str]] = {}
    for report in reports:
        for finding in report.findings:
            places.setdefault(finding, []).append(report.image)
    shown = []
    for finding, files in places.items():
        fixed = f"fixed in {', '.join(finding.fixed)}" if finding.fixed else "no fixed version"
        state = f"accepted: {finding.accepted}" if finding.accepted else finding.summary
        package = f"{finding.package} {finding.version}"
        shown.append(f"{finding.id}: {package}, {fixed}; {state} ({', '.join(files)})")
    unused = [set(report.unused) for report in reports]
    for exception in set.intersection(*unused) if unused else ():
        shown.append(f"unused exception: {exception.id} in {exception.package}")
    unaccepted = sum(not finding.accepted for finding in places)
    shown.append(f"{len(reports)} files: {len(places)} found, {unaccepted} to act on")
    return shown


def _contents(root: Path, path: Path) -> Contents:
    """Return the contents of an image that would have the packages of a lock."""
    packages = tuple(
        Package("pypi", match[1], match[2])
        for match in locks.PIN.finditer(path.read_text(encoding="utf-8"))
    )
    if path == root / "images" / "framework" / "requirements.dcu.lock":
        # It comes from its own index and is in no lock.
        packages += (Package("pypi", "paddlepaddle-dcu", paddle_version(root)),)
    return Contents(str(path.relative_to(root)), "", "", "", {}, {}, (), packages, {})


def update(root: Path, settings: Settings, database: Path | None = None) -> Snapshot:
    """Renew the snapshot and return it.

    Args:
        root: the checkout.
        settings: with the proxies and the CA bundle.
        database: advisories on this machine; None downloads those of OSV.dev.

    Raises:
        MachineError: the download fails.
        RequestError: the database cannot be read, or has no advisory for any of the packages.
    """
    if database is not None:
        return _write(root, database, database.name)
    with tempfile.TemporaryDirectory(prefix="advisories-") as scratch:
        archive = Path(scratch, "all.zip")
        _download(settings, archive)
        return _write(root, archive, URL)


def uncovered(root: Path, snapshot: Snapshot) -> list[str]:
    """Return the pinned packages that are not in the snapshot."""
    return sorted(_names(root) - set(snapshot.packages))


def _names(root: Path) -> set[str]:
    return {
        str(canonicalize_name(name))
        for path in lock_files(root)
        for name in locks.versions(path.read_text(encoding="utf-8"))
    }


def _write(root: Path, database: Path, source: str) -> Snapshot:
    names = _names(root)
    newest, chosen = "", {}
    for advisory in vulnerabilities.advisories(database):
        newest = max(newest, str(advisory.get("modified", "")))
        if reduced := _reduced(advisory, names):
            chosen[str(advisory["id"])] = reduced
    if not chosen or not re.match(r"\d{4}-\d\d-\d\d", newest):
        raise RequestError(
            "the database has no advisory for any package of the locks",
            where=str(database),
            remedy=f"download {URL}",
        )
    until = datetime.date.fromisoformat(newest[:10])
    ordered = tuple(chosen[key] for key in sorted(chosen))
    snapshot = Snapshot(until, source, tuple(sorted(names)), ordered)
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in snapshot.advisories)
    with replacing_file(root / SNAPSHOT) as stream:
        stream.write(f'{{\n"complete_until": "{until}",\n"source": {json.dumps(source)},\n')
        stream.write(f'"packages": {json.dumps(snapshot.packages)},\n')
        stream.write(f'"advisories": [\n{lines}\n]\n}}\n')
    return snapshot


def _reduced(advisory: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the fields of an advisory that a check reads; {} if none is affected."""
    affected = [
        _entry(entry)
        for entry in advisory.get("affected", [])
        if entry.get("package", {}).get("ecosystem") == ECOSYSTEM
        and canonicalize_name(str(entry["package"].get("name", ""))) in names
    ]
    if not affected or "withdrawn" in advisory:
        return {}
    head = {key: advisory[key] for key in ("id", "modified", "aliases") if key in advisory}
    return {**head, "summary": vulnerabilities.summary(advisory), "affected": affected}


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    ranges = [
        {"type": each["type"], "events": each.get("events", [])}
        for each in entry.get("ranges", [])
        if each.get("type") != "GIT"
    ]
    reduced: dict[str, Any] = {
        "package": {"ecosystem": ECOSYSTEM, "name": entry["package"]["name"]},
        "ranges": ranges,
    }
    # Most lists of versions only repeat the ranges.
    others = [v for v in entry.get("versions", []) if not vulnerabilities.is_python(reduced, v)]
    return {**reduced, "versions": others} if others else reduced


def _download(settings: Settings, archive: Path) -> None:
    proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
    bundle = str(settings.ca_bundle) if settings.ca_bundle else None
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({key: value for key, value in proxies.items() if value}),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=bundle)),
    )
    try:
        with opener.open(URL, timeout=_TIMEOUT) as answer, archive.open("wb") as stream:
            size = 0
            while block := answer.read(2**20):
                size += len(block)
                if size > _LARGEST_DOWNLOAD:
                    raise OSError(f"more than {_LARGEST_DOWNLOAD >> 30} GiB")
                stream.write(block)
    except (urllib.error.URLError, OSError) as error:
        raise MachineError(
            f"the advisories cannot be downloaded: {getattr(error, 'reason', None) or error}",
            where=URL,
            remedy="download it on a machine with a network; ./inv advisories.update --database"
            " FILE",
        ) from error
