"""A release: checks, building and verifying images, notes, and finally the tag.

Nothing is pushed. The tag is created last, on the commit that was checked, built and verified.
If anything fails before, there is neither a tag nor notes.
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
"""The branch of releases."""

_FOLDER = Path(".cache", "release")
_VERSION_FILE = Path("paddle_stacks", "__init__.py")

Build = Callable[[str], None]
"""Builds all images of a backend; raises a BuildError."""

Verify = Callable[[str], Mapping[str, Any]]
"""Tests the images of a backend; returns the report of :func:`verify.report`."""


@dataclass(frozen=True)
class Release:
    """A release that passed its checks.

    Args:
        version: ``1.2.0``.
        commit: the commit's 40 digits.
        changes: its section of the changelog.
        tests: the results of the tests of this commit, one line per folder.
    """

    version: str
    commit: str
    changes: str
    tests: tuple[str, ...]

    @property
    def tag(self) -> str:
        """Name of the tag."""
        return f"v{self.version}"


def check(
    root: Path, version: str, version_here: str, suites: Mapping[str, Sequence[str]]
) -> Release:
    """Return the release, after all checks.

    Args:
        root: the repository's root.
        version: the version to release.
        version_here: the version of the checkout.
        suites: the folders of tests that must have passed, by backend.

    Raises:
        RequestError: something is missing or wrong. Reports all faults.
        MachineError: git is not installed.
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
        backends: the backends of its images.
        build: builds the images of a backend.
        verified: tests the images of a backend.

    Raises:
        BuildError: an image cannot be built.
        JobError: an image is of another commit, or failed its tests.
        RequestError: the checkout changed in the meantime, or the tag cannot be created.
    """
    reports = []
    for backend in backends:
        build(backend)
        report = verified(backend)
        _check_report(report, release)
        reports.append(report)
    problems = _checkout_problems(root)
    if _git(root, "rev-parse", "HEAD") != release.commit:
        remedy = "release again, and do not change the checkout meanwhile"
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
    """Return the notes: changes, images with their ids, and test results."""
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
        remedy = "such as 0.2.0 or 0.2.0rc1"
        return [Problem(f'"{version}" is not a version', where, remedy)]
    problems = []
    if version != version_here:
        remedy = f'commit __version__ = "{version}"'
        message = f"the checkout has version {version_here}"
        problems.append(Problem(message, str(_VERSION_FILE), remedy))
    tags = _git(root, "tag", "--list", "v*").split()
    if f"v{version}" in tags:
        remedy = "choose the next version, because releases do not change"
        problems.append(Problem(f"{version} is released already", f"tag v{version}", remedy))
    newer = [tag for tag in tags if _is_newer(tag, parsed)]
    if newer:
        remedy = "choose a greater version"
        problems.append(
            Problem(f"{newer[-1]}, a newer version, is released already", where, remedy)
        )
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
        problems.append(Problem(f"the branch is {branch}", "git", f"git switch {BRANCH}"))
    if changed := _git(root, "status", "--porcelain"):
        first = changed.splitlines()[0].split()[-1]
        message = "the checkout has uncommitted changes"
        problems.append(Problem(message, first, "commit them, or git stash"))
    return problems


def _section(root: Path, version: str) -> tuple[str, list[Problem]]:
    sections = changelog.read(root)
    where = changelog.NAME
    heading = f"## [{version}] - {datetime.date.today().isoformat()}"
    section = sections.get(version)
    if section is None:
        remedy = f"move the entries of [{changelog.UNRELEASED}] below a heading {heading}"
        return "", [Problem(f"the changelog has no section for {version}", where, remedy)]
    problems = []
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", section.date):
        problems.append(Problem(f"the section of {version} has no date", where, heading))
    if not section.body:
        problems.append(
            Problem(f"the section of {version} is empty", where, "list the changes for users")
        )
    unreleased = sections.get(changelog.UNRELEASED)
    if unreleased and unreleased.body:
        message = f"[{changelog.UNRELEASED}] has entries"
        problems.append(Problem(message, where, f"move them to the section of {version}"))
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
        commit = image["labels"].get("org.opencontainers.image.revision", "unknown")
        if commit != release.commit:
            raise JobError(
                f"{image['name']} is of commit {commit}, expected {release.commit}",
                where=f"./inv build --backend {backend}",
                remedy="build it again and release again; nothing was tagged",
            )


# ------------------------------------------------------------------ git


def _tag(root: Path, release: Release, path: Path) -> None:
    # Verbatim, because git would remove headings, which begin with #, as comments.
    how = ("--annotate", "--cleanup=verbatim", "--file", str(path))
    done = _run(root, "tag", *how, release.tag, release.commit)
    if done.returncode:
        raise RequestError(
            f"the tag cannot be created: {done.stderr.strip()}",
            where=release.tag,
            remedy="fix git's error (git config user.name, user.email), and release again",
        )


def _git(root: Path, *arguments: str) -> str:
    """Return the output of git.

    Raises:
        MachineError: git is not installed.
        RequestError: the folder is not a checkout.
    """
    done = _run(root, *arguments)
    if done.returncode:
        raise RequestError(
            f"this is not a git checkout: {done.stderr.strip()}",
            where=str(root),
            remedy="release from a clone of the repository",
        )
    return done.stdout.strip()


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MachineError("git is not installed", where="git", remedy="install git") from error
