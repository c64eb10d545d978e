"""Known vulnerabilities of an image's packages, from advisories on this machine.

Advisories are in the OSV format [1]; OSV.dev has one archive per ecosystem, ``all.zip``. Versions
are matched by the format's evaluation rule [2]: first the list of versions, then the ranges. PyPI's
versions are ordered by PEP 440 and Debian's by dpkg. Debian's advisories name source packages.

[1] https://ossf.github.io/osv-schema/
[2] https://ossf.github.io/osv-schema/#evaluation
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from debian.debian_support import Version as DebianVersion
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion
from packaging.version import Version as PythonVersion

from paddle_stacks import toml
from paddle_stacks.errors import JobError, Problem, RequestError
from paddle_stacks.provenance.contents import Contents, Package

__all__ = [
    "DOWNLOAD",
    "POLICY",
    "Accepted",
    "Finding",
    "Report",
    "advisories",
    "affected",
    "is_python",
    "load_policy",
    "require_no_faults",
    "scan",
    "show",
    "summary",
]

POLICY = Path("configs", "vulnerabilities.toml")
"""The project's exceptions."""

DOWNLOAD = "https://osv-vulnerabilities.storage.googleapis.com"
"""OSV.dev's folder with one archive per ecosystem."""

# Advisories have a few kilobytes. A larger file is rejected before it fills the memory.
_LONGEST_ADVISORY = 16 * 2**20
# Packages that are built from another package's source; advisories only have the other name.
_SAME_SOURCE = {"paddlepaddle-dcu": "paddlepaddle"}
_POLICY_KEYS = ("id", "package", "reason", "expires")


@dataclass(frozen=True)
class Accepted:
    """An exception: a vulnerability that is accepted until a date.

    Args:
        id: of the advisory, or one of its aliases.
        package: the package that it is accepted for.
        reason: why.
        expires: the last day of the exception.
        where: the line of the policy.
    """

    id: str
    package: str
    reason: str
    expires: datetime.date
    where: str


@dataclass(frozen=True)
class Finding:
    """A package with a known vulnerability.

    Args:
        id: of the advisory.
        aliases: other ids of the vulnerability, such as a CVE.
        ecosystem: ``PyPI`` or ``Debian:12``.
        package: its name in the ecosystem.
        version: in the image.
        installed: the affected packages in the image.
        fixed: the versions that fix it, as far as the advisory names them.
        summary: one line.
        accepted: the reason of an exception; empty if there is none.
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
    """The result of a scan.

    Args:
        image: the image's reference.
        image_id: its id.
        findings: all findings, including accepted ones.
        expired: exceptions that have expired.
        unused: exceptions without a finding.
        advisories: the number of advisories in the database, by ecosystem.
        newest: when the newest of them was modified.
        unscanned: packages that cannot be matched with advisories, and why.
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
        """Return the reasons why the scan fails, one line each.

        Args:
            fixable: count only vulnerabilities with a fixed version.
        """
        lines = [
            f"{finding.id}: {finding.package} {finding.version}"
            for finding in self.findings
            if not finding.accepted and (finding.fixed or not fixable)
        ]
        return lines + [f"{e.where}: the exception for {e.id} has expired" for e in self.expired]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-serializable values."""
        values = asdict(self)
        for exception in (*values["expired"], *values["unused"]):
            exception["expires"] = exception["expires"].isoformat()
        return values


def load_policy(path: Path) -> list[Accepted]:
    """Return the exceptions in a file.

    Raises:
        RequestError: keys are unknown, missing or invalid; lists all of them.
    """
    table = toml.read(path)
    problems = toml.unknown_keys(path, table, ("exception",))
    rows = table.get("exception", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(
            '"exception" must be a list of tables', where=str(path), remedy="[[exception]]"
        )
    lines = [
        number
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.match(r"\s*\[\[\s*exception\s*\]\]", line)
    ]
    places = [f"{path}:{line}" for line in lines] + [str(path)] * len(rows)
    entries = list(zip(rows, places, strict=False))
    problems += [fault for row, where in entries for fault in _faults(row, where)]
    if problems:
        raise RequestError(problems)
    return [Accepted(**row, where=where) for row, where in entries]


def _faults(row: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for key in row.keys() - set(_POLICY_KEYS):
        yield Problem(f'unknown key "{key}"', where, f"known keys: {', '.join(_POLICY_KEYS)}")
    for key in ("id", "package", "reason"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            yield Problem(f'an exception requires "{key}"', where, f'{key} = "…"')
    expires = row.get("expires")
    if not isinstance(expires, datetime.date) or isinstance(expires, datetime.datetime):
        yield Problem('an exception requires "expires"', where, "expires = 2026-12-31")


def scan(
    images: Sequence[Contents],
    database: Path,
    policy: Sequence[Accepted],
    today: datetime.date,
    only: Collection[str] = (),
) -> list[Report]:
    """Match the packages of images with advisories and return one report per image.

    Args:
        images: their contents.
        database: a file with an advisory, an archive of advisories, or a folder with either.
        policy: the exceptions.
        today: decides which exceptions have expired.
        only: the ecosystems to scan; empty for all that the images have packages of.

    Raises:
        RequestError: the database cannot be read, or has no advisory for an ecosystem.
    """
    installed = [_by_name(image, only) for image in images]
    counts = dict.fromkeys(sorted({ecosystem for names in installed for ecosystem, _ in names}), 0)
    findings: list[dict[tuple[str, str, str], Finding]] = [{} for _ in images]
    newest = ""
    for advisory in advisories(database):
        for ecosystem in {_package_of(a)[0] for a in advisory.get("affected", [])} & counts.keys():
            counts[ecosystem] += 1
            newest = max(newest, str(advisory.get("modified", "")))
        for names, matches in zip(installed, findings, strict=True):
            matches |= {(f.id, f.package, f.version): f for f in _findings(advisory, names)}
    _check_complete(counts, database)
    return [
        _report(
            image, [matches[key] for key in sorted(matches)], policy, today, counts, newest, only
        )
        for image, matches in zip(images, findings, strict=True)
    ]


def _check_complete(counts: Mapping[str, int], database: Path) -> None:
    """Raise a RequestError if the database has no advisories for an ecosystem."""
    problems = [
        Problem(
            f"the database has no advisory for {ecosystem}",
            str(database),
            f"download {DOWNLOAD}/{ecosystem}/all.zip",
        )
        for ecosystem, count in counts.items()
        if not count
    ]
    if problems:
        raise RequestError(problems)


def _report(
    image: Contents,
    findings: Sequence[Finding],
    policy: Sequence[Accepted],
    today: datetime.date,
    counts: Mapping[str, int],
    newest: str,
    only: Collection[str],
) -> Report:
    exceptions = [_exception(finding, policy) for finding in findings]
    return Report(
        image.reference,
        image.id,
        tuple(
            replace(finding, accepted=e.reason) if e and e.expires >= today else finding
            for finding, e in zip(findings, exceptions, strict=True)
        ),
        tuple(e for e in policy if e.expires < today),
        tuple(e for e in policy if e not in exceptions),
        counts,
        newest,
        _unscanned(image, only),
    )


def affected(entry: Mapping[str, Any], version: str, later: Callable[[str, str], bool]) -> bool:
    """Return whether an entry of an advisory affects a version.

    Args:
        entry: an element of the advisory's ``affected``.
        version: the installed version.
        later: returns whether its first argument is later than or the same as its second.
    """
    if version in entry.get("versions", []):
        return True
    # GIT ranges are ranges of commits, not of versions.
    ranges = [r for r in entry.get("ranges", []) if r.get("type") in ("ECOSYSTEM", "SEMVER")]
    return any(_in_range(each.get("events", []), version, later) for each in ranges)


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
    def compare(one: tuple[str, str], other: tuple[str, str]) -> int:
        if one[1] == other[1]:
            return 0
        before = one[1] == "0" or (other[1] != "0" and not later(one[1], other[1]))
        return -1 if before else 1

    pairs = [(kind, bound) for event in events for kind, bound in event.items() if kind != "limit"]
    return sorted(pairs, key=functools.cmp_to_key(compare))


def is_python(entry: Mapping[str, Any], version: str) -> bool:
    """Return whether an entry of an advisory affects a version of a Python package."""
    try:
        return affected(entry, version, _later_python)
    except InvalidVersion:
        return False


def _later_python(one: str, other: str) -> bool:
    return PythonVersion(one) >= PythonVersion(other)


def _later_debian(one: str, other: str) -> bool:
    return DebianVersion(one) >= DebianVersion(other)


def _findings(
    advisory: Mapping[str, Any], packages: Mapping[tuple[str, str], Sequence[Package]]
) -> Iterator[Finding]:
    if "withdrawn" in advisory:
        return
    for entry in advisory.get("affected", []):
        ecosystem, name = key = _package_of(entry)
        later = _later_python if ecosystem == "PyPI" else _later_debian
        by_version: dict[str, list[str]] = {}
        for package in packages.get(key, ()):
            version = package.source_version or package.version
            by_version.setdefault(version, []).append(package.name)
        for version, installed in by_version.items():
            try:
                hit = affected(entry, version, later)
            except (InvalidVersion, ValueError):
                # A version that cannot be compared is reported rather than left out.
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
    events = (event for each in ranges for event in each.get("events", []))
    return tuple(dict.fromkeys(event["fixed"] for event in events if "fixed" in event))


def summary(advisory: Mapping[str, Any]) -> str:
    """Return one line about an advisory."""
    text = str(advisory.get("summary") or advisory.get("details") or "").strip()
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= 120 else f"{line[:119]}…"


def _exception(finding: Finding, policy: Sequence[Accepted]) -> Accepted | None:
    """Return the exception for a finding that expires last."""
    names = {finding.id, *finding.aliases}
    packages = {finding.package, *finding.installed}
    matches = [e for e in policy if e.id in names and e.package in packages]
    return max(matches, key=lambda e: e.expires, default=None)


def _by_name(image: Contents, only: Collection[str]) -> dict[tuple[str, str], list[Package]]:
    """Return the packages of an image by ecosystem and name in advisories."""
    by_name: dict[tuple[str, str], list[Package]] = {}
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
            by_name.setdefault(key, []).append(package)
    return by_name


def _unscanned(image: Contents, only: Collection[str]) -> tuple[str, ...]:
    lines = [f"{path}: its packages are not read" for path in image.unread]
    others = sorted({key[0] for key in _by_name(image, ()) if only and key[0] not in only})
    lines += [f"packages of {name}: the database is not for them" for name in others]
    if not image.os.startswith("debian ") and any(p.kind == "deb" for p in image.packages):
        lines.append(f"packages of {image.os}: only Debian's advisories are supported")
    return tuple(lines)


def _package_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    package = entry.get("package", {})
    ecosystem, name = str(package.get("ecosystem", "")), str(package.get("name", ""))
    return ecosystem, canonicalize_name(name) if ecosystem == "PyPI" else name


def advisories(database: Path) -> Iterator[dict[str, Any]]:
    """Yield the advisories of a database.

    Args:
        database: a file with an advisory or a snapshot, an archive, or a folder of these.

    Raises:
        RequestError: it cannot be read.
    """
    if database.is_dir():
        paths = sorted(p for p in database.rglob("*") if p.suffix in (".json", ".zip"))
    else:
        paths = [database]
    if not paths or not paths[0].exists():
        raise RequestError(
            "the database of advisories does not exist" if not paths else "the file does not exist",
            where=str(database),
            remedy=f"download {DOWNLOAD}/PyPI/all.zip and …/Debian:12/all.zip into a folder",
        )
    for path in paths:
        if path.suffix == ".zip":
            yield from _from_archive(path)
        else:
            with path.open("rb") as stream:
                yield from _parse(stream, str(path))


def _from_archive(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".json"):
                    with archive.open(member) as stream:
                        yield from _parse(stream, f"{path}:{member.filename}")
    except (
        *(zipfile.BadZipFile, zlib.error, OSError, EOFError),
        *(RuntimeError, NotImplementedError),  # a password, an unknown compression
    ) as error:
        raise RequestError(
            f"the archive of advisories is damaged: {error}",
            where=str(path),
            remedy="download it again",
        ) from error


def _parse(stream: IO[bytes], where: str) -> list[dict[str, Any]]:
    """Return the advisory in a file, or those of a snapshot (provenance/advisories.py)."""
    content = stream.read(_LONGEST_ADVISORY + 1)
    try:
        if len(content) > _LONGEST_ADVISORY:
            raise ValueError(f"it has more than {_LONGEST_ADVISORY >> 20} MiB")
        values = json.loads(content)
        is_snapshot = isinstance(values, dict) and isinstance(values.get("advisories"), list)
        entries: list[dict[str, Any]] = values["advisories"] if is_snapshot else [values]
        for entry in entries:
            if not isinstance(entry["id"], str) or not isinstance(entry.get("affected", []), list):
                raise TypeError('"id" must be a string and "affected" a list')
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(
            f"not an advisory in the OSV format: {error}",
            where=where,
            remedy="remove it, or download the database again",
        ) from error
    return entries


def require_no_faults(reports: Sequence[Report], policy: Path, *, fixable: bool = False) -> None:
    """Raise a JobError if reports have vulnerabilities or expired exceptions.

    Args:
        reports: of a scan.
        policy: the file with the exceptions.
        fixable: count only vulnerabilities with a fixed version.
    """
    faults = sorted({line for report in reports for line in report.faults(fixable=fixable)})
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise JobError(
            f"{len(faults)} known vulnerabilities or expired exceptions: "
            f"{'; '.join(faults[:5])}{more}",
            where=str(policy),
            remedy="./inv lock --package NAME, or add an exception with a reason and a date",
        )


def show(report: Report, *, fixable: bool = False) -> None:
    """Print a report as a table.

    Args:
        report: the report.
        fixable: count only vulnerabilities with a fixed version.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("advisory", "package", "version", "fixed in", "summary"):
        table.add_column(heading, overflow="fold")
    for finding in report.findings:
        text = f"accepted: {finding.accepted}" if finding.accepted else finding.summary
        name = next((a for a in finding.aliases if a.startswith("CVE-")), finding.id)
        fixed = ", ".join(finding.fixed) or "-"
        table.add_row(name, finding.package, finding.version, fixed, text)
    if report.findings:
        console.print(table)
    counts = ", ".join(f"{count} for {name}" for name, count in report.advisories.items())
    lines = [f"advisories: {counts}; the newest of {report.newest or 'unknown date'}"]
    lines += [f"expired on {e.expires}: {e.id} in {e.package}, {e.where}" for e in report.expired]
    lines += [f"unused exception: {e.id} in {e.package}, {e.where}" for e in report.unused]
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
