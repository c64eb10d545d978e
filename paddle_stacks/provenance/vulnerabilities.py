"""Known vulnerabilities of an image's packages, from advisories that are on this machine.

Advisories are in the OSV format [1]; OSV.dev has all of an ecosystem in one archive,
``all.zip``. A version is compared as the format's own evaluation says [2]: by the list of
versions, then by the ranges. PyPI's order is PEP 440's; Debian's is dpkg's, and its advisories
name source packages.

[1] https://ossf.github.io/osv-schema/
[2] https://ossf.github.io/osv-schema/#evaluation
"""

from __future__ import annotations

import datetime
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from debian.debian_support import Version as DebianVersion
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion
from packaging.version import Version as PythonVersion

from paddle_stacks import toml
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.provenance.contents import Contents, Package

__all__ = [
    "DOWNLOAD",
    "Accepted",
    "Finding",
    "Report",
    "advisories",
    "affected",
    "is_python",
    "load_policy",
    "scan",
    "show",
    "summary",
]

DOWNLOAD = "https://osv-vulnerabilities.storage.googleapis.com"
"""The folder of OSV.dev with an archive for each ecosystem."""

# An advisory is some kilobytes; what is larger is none, and would only fill the memory.
_LONGEST_ADVISORY = 16 * 2**20
# Builds of another package's source, under a name that no advisory has.
_SAME_SOURCE = {"paddlepaddle-dcu": "paddlepaddle"}
_POLICY_KEYS = ("id", "package", "reason", "expires")


@dataclass(frozen=True)
class Accepted:
    """An exception: a finding that was looked at, and accepted until a day.

    Args:
        id: the advisory's, or one of its aliases.
        package: the one that it is accepted in.
        reason: why.
        expires: the last day on which it is.
        where: the line of the policy.
    """

    id: str
    package: str
    reason: str
    expires: datetime.date
    where: str


@dataclass(frozen=True)
class Finding:
    """A package for which there is an advisory.

    Args:
        id: the advisory's.
        aliases: its other names.
        ecosystem: ``PyPI`` or ``Debian:12``.
        package: its name there.
        version: that is in the image.
        installed: the packages of the image that it was found in.
        fixed: the versions that have it no more, as far as the advisory knows any.
        summary: a line.
        accepted: the reason of an exception; empty where there is none.
    """

    id: str
    aliases: tuple[str, ...]
    ecosystem: str
    package: str
    version: str
    installed: tuple[str, ...]
    fixed: tuple[str, ...]
    summary: str
    accepted: str = ""


@dataclass(frozen=True)
class Report:
    """What a scan found.

    Args:
        image: the image's reference.
        image_id: its id.
        findings: all of them, those that were accepted too.
        expired: exceptions whose day is over.
        unused: exceptions that nothing was found for.
        advisories: how many were compared, by ecosystem.
        newest: when the newest of them was changed; as old as that is the knowledge.
        unscanned: packages that no advisory can be about, and why.
    """

    image: str
    image_id: str
    findings: tuple[Finding, ...]
    expired: tuple[Accepted, ...]
    unused: tuple[Accepted, ...]
    advisories: Mapping[str, int]
    newest: str
    unscanned: tuple[str, ...]

    def faults(self, *, fixable: bool = False) -> list[str]:
        """Return what makes the scan fail, a line each.

        Args:
            fixable: whether only what has a fixed version counts.
        """
        lines = [
            f"{finding.id}: {finding.package} {finding.version}"
            for finding in self.findings
            if not finding.accepted and (finding.fixed or not fixable)
        ]
        return lines + [f"{e.where}: the exception for {e.id} has expired" for e in self.expired]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-serializable values."""
        found = asdict(self)
        for exceptions in (found["expired"], found["unused"]):
            for exception in exceptions:
                exception["expires"] = exception["expires"].isoformat()
        return found


def load_policy(path: Path) -> list[Accepted]:
    """Return the exceptions in a file.

    Raises:
        RequestError: keys are unknown or missing, or their values are of no use; all at once.
    """
    table = toml.read(path)
    problems = toml.unknown_keys(path, table, ("exception",))
    rows = table.get("exception", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(
            '"exception" is no list of tables', where=str(path), remedy="[[exception]]"
        )
    lines = [
        number
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.match(r"\s*\[\[\s*exception\s*\]\]", line)
    ]
    found = []
    for number, row in enumerate(rows):
        where = f"{path}:{lines[number]}" if number < len(lines) else str(path)
        faults = list(_faults(row, where))
        problems += faults
        if not faults:
            found.append(Accepted(**{key: row[key] for key in _POLICY_KEYS}, where=where))
    if problems:
        raise RequestError(problems)
    return found


def _faults(row: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for key in row.keys() - set(_POLICY_KEYS):
        yield Problem(f'unknown key "{key}"', where, f"known keys: {', '.join(_POLICY_KEYS)}")
    for key in ("id", "package", "reason"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            yield Problem(f'an exception has no "{key}"', where, f'{key} = "…"')
    expires = row.get("expires")
    if not isinstance(expires, datetime.date) or isinstance(expires, datetime.datetime):
        yield Problem('an exception has no "expires"', where, "expires = 2026-12-31")


def scan(
    images: Sequence[Contents],
    database: Path,
    policy: Sequence[Accepted],
    today: datetime.date,
    only: Collection[str] = (),
) -> list[Report]:
    """Return what the advisories know of the packages of images, a report for each.

    Args:
        images: what is in them.
        database: a file with an advisory, an archive of them, or a folder with either.
        policy: the exceptions.
        today: on which an exception has expired or not.
        only: the ecosystems to look at; empty for all that an image has packages of.

    Raises:
        RequestError: the database cannot be read, or knows nothing of an ecosystem of an image.
    """
    wanted = [_by_name(image, only) for image in images]
    counts = dict.fromkeys(sorted({ecosystem for names in wanted for ecosystem, _ in names}), 0)
    findings: list[dict[tuple[str, str, str], Finding]] = [{} for _ in images]
    newest = ""
    for advisory in advisories(database):
        for ecosystem in {_package_of(a)[0] for a in advisory.get("affected", [])} & counts.keys():
            counts[ecosystem] += 1
            newest = max(newest, str(advisory.get("modified", "")))
        for names, found in zip(wanted, findings, strict=True):
            found |= {(f.id, f.package, f.version): f for f in _findings(advisory, names)}
    _check_complete(counts, database)
    return [
        _report(image, sorted(found.items()), policy, today, counts, newest, only)
        for image, found in zip(images, findings, strict=True)
    ]


def _check_complete(counts: Mapping[str, int], database: Path) -> None:
    """Raise a RequestError where nothing can be found because nothing is known."""
    problems = [
        Problem(
            f"the database has no advisory for {ecosystem}: nothing would be found",
            str(database),
            f"{DOWNLOAD}/{ecosystem}/all.zip has them",
        )
        for ecosystem, count in counts.items()
        if not count
    ]
    if problems:
        raise RequestError(problems)


def _report(
    image: Contents,
    findings: Sequence[tuple[tuple[str, str, str], Finding]],
    policy: Sequence[Accepted],
    today: datetime.date,
    counts: Mapping[str, int],
    newest: str,
    only: Collection[str],
) -> Report:
    told: list[Finding] = []
    used: set[Accepted] = set()
    for _, finding in findings:
        exception = _exception(finding, policy)
        if exception:
            used.add(exception)
        if exception and exception.expires >= today:
            finding = replace(finding, accepted=exception.reason)
        told.append(finding)
    return Report(
        image.reference,
        image.id,
        tuple(told),
        tuple(e for e in policy if e.expires < today),
        tuple(e for e in policy if e not in used),
        counts,
        newest,
        _unscanned(image, only),
    )


def affected(entry: Mapping[str, Any], version: str, later: Callable[[str, str], bool]) -> bool:
    """Return whether a version is among those that an advisory's entry names.

    Args:
        entry: an element of the advisory's ``affected``.
        version: the one that is installed.
        later: whether its first argument is later than, or the same version as its second.
    """
    if version in entry.get("versions", []):
        return True
    # GIT ranges are about commits, which no package has.
    ranges = [r for r in entry.get("ranges", []) if r.get("type") in ("ECOSYSTEM", "SEMVER")]
    return any(_in_range(found.get("events", []), version, later) for found in ranges)


def _in_range(
    events: Sequence[Mapping[str, str]], version: str, later: Callable[[str, str], bool]
) -> bool:
    def at_least(bound: str) -> bool:
        return bound == "0" or later(version, bound)

    limits = [event["limit"] for event in events if "limit" in event]
    if limits and not any(limit == "*" or not at_least(limit) for limit in limits):
        return False
    inside = False
    for kind, bound in _sorted(events, later):
        if not at_least(bound):
            continue
        # A version that is the last affected one is affected.
        inside = kind == "introduced" or (
            inside and kind == "last_affected" and later(bound, version)
        )
    return inside


def _sorted(
    events: Iterable[Mapping[str, str]], later: Callable[[str, str], bool]
) -> list[tuple[str, str]]:
    pairs = [(kind, bound) for event in events for kind, bound in event.items() if kind != "limit"]
    done: list[tuple[str, str]] = []
    for pair in pairs:
        # Insertion, stable: there are a few events, and only an order between two versions.
        at = len(done)
        while at and pair[1] != done[at - 1][1] and _before(pair[1], done[at - 1][1], later):
            at -= 1
        done.insert(at, pair)
    return done


def _before(one: str, other: str, later: Callable[[str, str], bool]) -> bool:
    return other != "0" and (one == "0" or not later(one, other))


def is_python(entry: Mapping[str, Any], version: str) -> bool:
    """Return whether a version of a Python package is among those that an entry names."""
    try:
        return affected(entry, version, _later_python)
    except InvalidVersion:
        return False


def _later_python(one: str, other: str) -> bool:
    return PythonVersion(one) >= PythonVersion(other)


def _later_debian(one: str, other: str) -> bool:
    return DebianVersion(one) >= DebianVersion(other)


def _findings(
    advisory: Mapping[str, Any], wanted: Mapping[tuple[str, str], Sequence[Package]]
) -> Iterator[Finding]:
    if "withdrawn" in advisory:
        return
    for entry in advisory.get("affected", []):
        ecosystem, name = key = _package_of(entry)
        later = _later_python if ecosystem == "PyPI" else _later_debian
        by_version: dict[str, list[str]] = {}
        for package in wanted.get(key, ()):
            version = package.source_version or package.version
            by_version.setdefault(version, []).append(package.name)
        for version, installed in by_version.items():
            try:
                hit = affected(entry, version, later)
            except (InvalidVersion, ValueError):
                # A version that its ecosystem's order does not know: told rather than left out.
                hit = True
            if hit:
                yield Finding(
                    str(advisory["id"]),
                    tuple(advisory.get("aliases", ())),
                    ecosystem,
                    name,
                    version,
                    tuple(sorted(set(installed))),
                    _fixes(entry),
                    summary(advisory),
                )


def _fixes(entry: Mapping[str, Any]) -> tuple[str, ...]:
    ranges = (r for r in entry.get("ranges", []) if r.get("type") != "GIT")
    events = (event for found in ranges for event in found.get("events", []))
    return tuple(dict.fromkeys(event["fixed"] for event in events if "fixed" in event))


def summary(advisory: Mapping[str, Any]) -> str:
    """Return what an advisory is about, in a line."""
    text = str(advisory.get("summary") or advisory.get("details") or "").strip()
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= 120 else f"{line[:119]}…"


def _exception(finding: Finding, policy: Sequence[Accepted]) -> Accepted | None:
    """Return the exception for a finding, the one that lasts longest."""
    names = {finding.id, *finding.aliases}
    packages = {finding.package, *finding.installed}
    fitting = [e for e in policy if e.id in names and e.package in packages]
    return max(fitting, key=lambda e: e.expires, default=None)


def _by_name(image: Contents, only: Collection[str]) -> dict[tuple[str, str], list[Package]]:
    """Return the packages of an image by ecosystem and the name that advisories have."""
    found: dict[tuple[str, str], list[Package]] = {}
    name, _, version = image.os.partition(" ")
    for package in image.packages:
        if package.kind == "pypi":
            python_name = str(canonicalize_name(package.name))
            key = ("PyPI", _SAME_SOURCE.get(python_name, python_name))
        elif name == "debian":
            key = (f"Debian:{version.partition('.')[0]}", package.source)
        else:
            continue
        if not only or key[0] in only:
            found.setdefault(key, []).append(package)
    return found


def _unscanned(image: Contents, only: Collection[str]) -> tuple[str, ...]:
    lines = [f"{path}: its packages are not read" for path in image.unread]
    left = sorted({key[0] for key in _by_name(image, ()) if only and key[0] not in only})
    lines += [f"the packages of {name}: these advisories are not about them" for name in left]
    if not image.os.startswith("debian ") and any(p.kind == "deb" for p in image.packages):
        lines.append(f"the packages of {image.os}: only Debian's advisories are known here")
    return tuple(lines)


def _package_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    package = entry.get("package", {})
    ecosystem, name = str(package.get("ecosystem", "")), str(package.get("name", ""))
    return ecosystem, canonicalize_name(name) if ecosystem == "PyPI" else name


def advisories(database: Path) -> Iterator[dict[str, Any]]:
    """Yield every advisory of a database, one at a time.

    Args:
        database: a file with an advisory or a list of them, an archive, or a folder of these.

    Raises:
        RequestError: it cannot be read.
    """
    if database.is_dir():
        paths = sorted(p for p in database.rglob("*") if p.suffix in (".json", ".zip"))
    else:
        paths = [database]
    if not paths or not paths[0].exists():
        what = "there is no database of advisories" if not paths[0:] else "there is no such file"
        remedy = f"download {DOWNLOAD}/PyPI/all.zip and …/Debian:12/all.zip into a folder"
        raise RequestError(what, where=str(database), remedy=remedy)
    for path in paths:
        if path.suffix == ".zip":
            yield from _from_archive(path)
        else:
            with path.open("rb") as stream:
                yield from _from_file(stream.read(_LONGEST_ADVISORY + 1), str(path))


def _from_file(content: bytes, where: str) -> Iterator[dict[str, Any]]:
    """Yield the advisory of a file, or those of a snapshot (provenance/advisories.py)."""
    try:
        values = json.loads(content) if len(content) <= _LONGEST_ADVISORY else None
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict) and isinstance(values.get("advisories"), list):
        yield from (_checked(each, where) for each in values["advisories"])
    else:
        yield _advisory(content, where)


def _from_archive(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".json"):
                    with archive.open(member) as stream:
                        content = stream.read(_LONGEST_ADVISORY + 1)
                    yield _advisory(content, f"{path}:{member.filename}")
    except (
        *(zipfile.BadZipFile, zlib.error, OSError, EOFError),
        *(RuntimeError, NotImplementedError),  # a password, a way to compress
    ) as error:
        raise RequestError(
            f"the archive of advisories is damaged: {error}",
            where=str(path),
            remedy="download it again",
        ) from error


def _advisory(content: bytes, where: str) -> dict[str, Any]:
    if len(content) > _LONGEST_ADVISORY:
        what = f"an advisory has more than {_LONGEST_ADVISORY >> 20} MiB"
        raise RequestError(what, where=where, remedy="it is no advisory: remove it")
    try:
        return _checked(json.loads(content), where)
    except (ValueError, RecursionError) as error:
        raise _no_advisory(where, error) from error


def _checked(found: Any, where: str) -> dict[str, Any]:
    try:
        if not isinstance(found["id"], str) or not isinstance(found.get("affected", []), list):
            raise TypeError('"id" is no text, or "affected" no list')
    except (KeyError, TypeError) as error:
        raise _no_advisory(where, error) from error
    advisory: dict[str, Any] = found
    return advisory


def _no_advisory(where: str, error: Exception) -> RequestError:
    return RequestError(
        f"this is no advisory in the OSV format: {error}",
        where=where,
        remedy="remove it, or download the database again",
    )


def show(report: Report, *, fixable: bool = False) -> None:
    """Print the report for a person."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("advisory", "package", "version", "fixed in", "what"):
        table.add_column(heading, overflow="fold")
    for finding in report.findings:
        what = f"accepted: {finding.accepted}" if finding.accepted else finding.summary
        name = next((a for a in finding.aliases if a.startswith("CVE-")), finding.id)
        fixed = ", ".join(finding.fixed) or "-"
        table.add_row(name, finding.package, finding.version, fixed, what)
    if report.findings:
        console.print(table)
    counts = ", ".join(f"{count} for {name}" for name, count in report.advisories.items())
    lines = [f"compared with {counts} advisories, the newest of {report.newest or 'no date'}"]
    lines += [f"expired on {e.expires}: {e.id} in {e.package}, {e.where}" for e in report.expired]
    lines += [f"found nothing for: {e.id} in {e.package}, {e.where}" for e in report.unused]
    lines += [f"not scanned: {text}" for text in report.unscanned]
    accepted = sum(bool(finding.accepted) for finding in report.findings)
    unfixed = sum(not (f.fixed or f.accepted) for f in report.findings) if fixable else 0
    rest = f", {unfixed} without a fix and not counted" if fixable else ""
    lines.append(
        f"{report.image}: {len(report.findings)} found, {accepted} accepted{rest},"
        f" {len(report.faults(fixable=fixable))} to act on"
    )
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
