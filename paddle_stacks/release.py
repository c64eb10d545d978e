"""A release: the checks before it, images built and verified, notes, and at the very end the tag.

Nothing is pushed, and nothing is half done: the tag, which is what makes a release, is set
when all else has succeeded, on the commit that all of it was about. Whatever goes wrong
before, there is no tag and there are no notes.
"""

from __future__ import annotations

import datetime
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from paddle_stacks import changelog, verify
from paddle_stacks.errors import JobError, MachineError, Problem, RequestError
from paddle_stacks.jobs.files import replacing_file

__all__ = ["BRANCH", "Release", "carry_out", "check", "notes"]

BRANCH = "main"
"""The branch that releases are made of."""

_FOLDER = Path(".cache", "release")
_VERSION_FILE = Path("paddle_stacks", "__init__.py")

Build = Callable[[str], None]
"""Builds all images of a platform; raises a BuildError."""

Verify = Callable[[str], Mapping[str, Any]]
"""Tests the images of a platform; returns the report, as :func:`verify.report` makes it."""


@dataclass(frozen=True)
class Release:
    """A release that may be made.

    Args:
        version: ``1.2.0``.
        commit: the 40 digits of the commit that it is of.
        changes: what changed, from the changelog.
        tests: what the tests of this commit found, a line for each folder of them.
    """

    version: str
    commit: str
    changes: str
    tests: tuple[str, ...]

    @property
    def tag(self) -> str:
        """The tag's name."""
        return f"v{self.version}"


def check(
    root: Path, version: str, version_here: str, suites: Mapping[str, Sequence[str]]
) -> Release:
    """Return the release, if everything that it needs is there.

    Args:
        root: the repository's root.
        version: what is to be released.
        version_here: the version that the checkout says it has.
        suites: the folders of tests that must have passed, for each platform.

    Raises:
        RequestError: something is missing or wrong; all of it at once.
        MachineError: there is no git.
    """
    problems = _version_problems(root, version, version_here)
    problems += _checkout_problems(root)
    section, faults = _section(root, version)
    problems += faults
    commit = _git(root, "rev-parse", "HEAD")
    tests = []
    for backend, folders in suites.items():
        for folder in folders:
            record = verify.read_record(root, backend, folder)
            problems += _record_problems(record, backend, folder, commit)
            tests.append(f"`{folder}` on {backend}: {record.result}" if record else "")
    if problems:
        raise RequestError(problems)
    return Release(version, commit, section, tuple(tests))


def carry_out(
    release: Release, root: Path, backends: Sequence[str], build: Build, verified: Verify
) -> Path:
    """Build and verify the images, write the notes, and tag the commit; return the notes.

    Args:
        release: as :func:`check` returned it.
        root: the repository's root.
        backends: the platforms whose images are part of it.
        build: builds those of one.
        verified: tests those of one.

    Raises:
        BuildError: an image cannot be built.
        JobError: an image is not what was released, or failed its tests.
        RequestError: the checkout was changed in the meantime, or the tag cannot be set.
    """
    reports = []
    for backend in backends:
        build(backend)
        report = verified(backend)
        _check_report(report, release)
        reports.append(report)
    problems = _checkout_problems(root)
    if _git(root, "rev-parse", "HEAD") != release.commit:
        remedy = "release again, and leave the checkout alone until it is done"
        problems.append(Problem("another commit is checked out now", str(root), remedy))
    if problems:
        raise RequestError(problems)
    path = root / _FOLDER / f"{release.tag}.md"
    with replacing_file(path) as stream:
        stream.write(notes(release, reports))
    try:
        _tag(root, release, path)
    except BaseException:
        path.unlink()
        raise
    return path


def notes(release: Release, reports: Sequence[Mapping[str, Any]]) -> str:
    """Return the notes: what changed, the images by their ids, and what the tests found."""
    lines = [f"# paddle-stacks {release.version}", "", release.changes, "", "## Images", ""]
    lines += ["| image | id | tests of the image |", "|---|---|---|"]
    for report in reports:
        for image in report["images"]:
            name = f"{image['name'].rpartition(':')[0]}:{release.version}-{report['backend']}"
            lines.append(f"| `{name}` | `{image['id']}` | {report['result']} |")
    lines += ["", "## Tests", "", f"Of the commit `{release.commit}`:", ""]
    lines += [f"* {line}" for line in release.tests]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ checks


def _version_problems(root: Path, version: str, version_here: str) -> list[Problem]:
    where = f"--version {version}"
    try:
        parsed = Version(version)
    except InvalidVersion:
        parsed = None
    if parsed is None or str(parsed) != version or len(parsed.release) != 3:
        remedy = "for instance 0.2.0, or 0.2.0rc1"
        return [Problem(f'"{version}" is no version', where, remedy)]
    problems = []
    if version != version_here:
        remedy = f'__version__ = "{version}", in the commit that is to be released'
        what = f"this checkout says that it is {version_here}"
        problems.append(Problem(what, str(_VERSION_FILE), remedy))
    tags = _git(root, "tag", "--list", "v*").split()
    if f"v{version}" in tags:
        remedy = "choose the next version: what is released is not changed"
        problems.append(Problem(f"{version} is released already", f"tag v{version}", remedy))
    newer = [tag for tag in tags if _is_newer(tag, parsed)]
    if newer:
        remedy = "choose a version above it"
        problems.append(Problem(f"{newer[-1]} is released, which is newer", where, remedy))
    return problems


def _is_newer(tag: str, version: Version) -> bool:
    try:
        return Version(tag.removeprefix("v")) > version
    except InvalidVersion:
        return False  # another kind of tag


def _checkout_problems(root: Path) -> list[Problem]:
    problems = []
    branch = _git(root, "rev-parse", "--abbrev-ref", "HEAD")
    if branch != BRANCH:
        problems.append(
            Problem(
                f"the branch is {branch}", "git", f"git switch {BRANCH}, and release from there"
            )
        )
    if changed := _git(root, "status", "--porcelain"):
        first = changed.splitlines()[0].split()[-1]
        what = "there are changes that are not committed"
        problems.append(Problem(what, first, "commit them, or git stash"))
    return problems


def _section(root: Path, version: str) -> tuple[str, list[Problem]]:
    sections = changelog.read(root)
    where = changelog.NAME
    heading = f"## [{version}] - {datetime.date.today().isoformat()}"
    section = sections.get(version)
    if section is None:
        remedy = f"put what is under [{changelog.UNRELEASED}] below a heading {heading}"
        return "", [Problem(f"the changelog has no section for {version}", where, remedy)]
    problems = []
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", section.date):
        problems.append(Problem(f"the section of {version} has no date", where, heading))
    if not section.body:
        problems.append(
            Problem(f"the section of {version} is empty", where, "say what changed for users")
        )
    waiting = sections.get(changelog.UNRELEASED)
    if waiting and waiting.body:
        what = f"changes are waiting under [{changelog.UNRELEASED}]"
        problems.append(Problem(what, where, f"move them to the section of {version}"))
    return section.body, problems


def _record_problems(
    record: verify.Record | None, backend: str, folder: str, commit: str
) -> list[Problem]:
    where = f"{folder} on {backend}"
    again = "run ./inv test --all on this commit"
    if record is None:
        return [Problem("the tests were not run here", where, again)]
    if record.revision != commit:
        return [Problem(f"the tests were run on {record.revision}", where, again)]
    if not record.passed:
        return [
            Problem(f"the tests failed: {record.result}", where, "fix it, then ./inv test --all")
        ]
    return []


def _check_report(report: Mapping[str, Any], release: Release) -> None:
    backend = report["backend"]
    if not report["verified"]:
        raise JobError(
            f"the images of {backend} failed their tests: {report['result']}",
            where=f"./inv verify --backend {backend}",
            remedy="fix it on main, run ./inv test --all, and release again; nothing was tagged",
        )
    for image in report["images"]:
        found = image["labels"].get("org.opencontainers.image.revision", "unknown")
        if found != release.commit:
            raise JobError(
                f"{image['name']} is of the revision {found}, and not of {release.commit}",
                where=f"./inv build --backend {backend}",
                remedy="build it anew and release again; nothing was tagged",
            )


# ------------------------------------------------------------------ git


def _tag(root: Path, release: Release, path: Path) -> None:
    # Verbatim: git would take headings, which begin with #, for comments.
    how = ("--annotate", "--cleanup=verbatim", "--file", str(path))
    done = _run(root, "tag", *how, release.tag, release.commit)
    if done.returncode:
        raise RequestError(
            f"the tag cannot be set: {done.stderr.strip()}",
            where=release.tag,
            remedy="mend what git says (git config user.name, user.email), and release again",
        )


def _git(root: Path, *arguments: str) -> str:
    """Return what git says.

    Raises:
        MachineError: there is no git.
        RequestError: this is no checkout.
    """
    done = _run(root, *arguments)
    if done.returncode:
        raise RequestError(
            f"this is no checkout of git: {done.stderr.strip()}",
            where=str(root),
            remedy="release from a clone of the repository",
        )
    return done.stdout.strip()


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MachineError("there is no git", where="git", remedy="install git") from error
