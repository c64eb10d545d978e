"""A release: refused for every fault, and tagged when all else has succeeded, never before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks import changelog, release, verify
from paddle_stacks.cli import release as command
from paddle_stacks.errors import BuildError, JobError, RequestError
from paddle_stacks.testing import suites
from paddle_stacks.verify import Outcome

ROOT = Path(__file__).parents[2]
SUITES = {"cpu": ["tests/unit", "tests/jobs"]}
PASSED = [Outcome("tests.unit.test_a::test_b", "passed"), Outcome("tests.jobs.test_c::d", "passed")]
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-01-31\n\n### Added\n\n- A wheel.\n"


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(root: Path, subject: str) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", subject)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout of which 0.2.0 can be released."""
    # Nobody's own settings of git: names, signatures, hooks.
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A. Tester")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "tester@example.com")
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    (root / ".gitignore").write_text("/.cache/\n")
    (root / "CHANGELOG.md").write_text(CHANGELOG)
    commit(root, "Release 0.2.0")
    were_run(root)
    return root


def were_run(root: Path, found: list[Outcome] = PASSED, status: int = 0) -> None:
    verify.write_records(root, "cpu", SUITES["cpu"], status, found)


def image(root: Path, **differs: Any) -> dict[str, Any]:
    revision = differs.pop("revision", git(root, "rev-parse", "HEAD"))
    labels = {"org.opencontainers.image.revision": revision}
    return {"name": "paddle-stacks/train:cpu", "id": "sha256:1234", "labels": labels, **differs}


class Stand:
    """Stands in for building and verifying images, and notes that it was asked to."""

    def __init__(self, root: Path, *, verified: bool = True, **differs: Any) -> None:
        self.root, self.verified, self.differs = root, verified, differs
        self.done: list[str] = []

    def build(self, backend: str) -> None:
        self.done.append(f"build {backend}")

    def verify(self, backend: str) -> dict[str, Any]:
        self.done.append(f"verify {backend}")
        made = {"backend": backend, "verified": self.verified, "result": "7 passed"}
        return {**made, "images": [image(self.root, **self.differs)]}


def run(root: Path, stand: Stand | None = None, backends: tuple[str, ...] = ("cpu",)) -> Path:
    made = release.check(root, "0.2.0", "0.2.0", SUITES)
    stand = stand or Stand(root)
    return release.carry_out(made, root, backends, stand.build, stand.verify)


def nothing_is_left(root: Path) -> bool:
    return git(root, "tag") == "" and not [*root.glob(".cache/release/*")]


def test_it_builds_verifies_writes_notes_and_tags(checkout: Path) -> None:
    stand = Stand(checkout)
    notes = run(checkout, stand, ("cpu", "dcu-sim"))
    assert stand.done == ["build cpu", "verify cpu", "build dcu-sim", "verify dcu-sim"]
    text = notes.read_text()
    assert text.startswith("# paddle-stacks 0.2.0\n\n### Added\n\n- A wheel.\n")
    assert "| `paddle-stacks/train:0.2.0-cpu` | `sha256:1234` | 7 passed |" in text
    assert "| `paddle-stacks/train:0.2.0-dcu-sim` |" in text
    assert "* `tests/unit` on cpu: 1 passed" in text
    assert git(checkout, "rev-parse", "v0.2.0^{commit}") == git(checkout, "rev-parse", "HEAD")
    assert git(checkout, "cat-file", "-t", "v0.2.0") == "tag"
    # Headings too, which git takes for comments unless it is told not to.
    assert git(checkout, "tag", "--list", "--format=%(contents)", "v0.2.0") == text.strip()
    assert git(checkout, "status", "--porcelain") == ""


def test_what_is_missing_is_told_at_once(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("# Changelog\n")
    git(checkout, "switch", "--quiet", "--create", "topic")
    with pytest.raises(RequestError) as caught:
        release.check(checkout, "0.2.0", "0.1.0", {"cpu": ["tests/unit"], "dcu-sim": ["tests/x"]})
    said = [problem.what for problem in caught.value.problems]
    assert said == [
        "the checkout has version 0.1.0",
        "the branch is topic",
        "the checkout has uncommitted changes",
        "the changelog has no section for 0.2.0",
        "the tests were not run here",
    ]
    assert all(problem.remedy and problem.where for problem in caught.value.problems)


@pytest.mark.parametrize("version", ["", "1", "1.2", "v0.2.0", "0.2.0.0", "0.02.0", "next", "-1"])
def test_a_version_that_is_none_is_refused(checkout: Path, version: str) -> None:
    with pytest.raises(RequestError, match="is not a version"):
        release.check(checkout, version, version, SUITES)


def write_changelog(text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "CHANGELOG.md").write_text(text)
        commit(root, "Change the changelog")
        were_run(root)

    return change


FAILED = [*PASSED, Outcome("tests.unit.test_a::test_e", "failed", "no")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "x").touch(), "uncommitted changes"),
        (lambda root: git(root, "tag", "v0.2.0"), "0.2.0 is released already"),
        (lambda root: git(root, "tag", "v0.10.0"), "v0.10.0, a newer version, is released already"),
        (lambda root: git(root, "checkout", "--quiet", "--detach"), "the branch is HEAD"),
        (write_changelog(CHANGELOG.replace(" - 2026-01-31", "")), "has no date"),
        (write_changelog(CHANGELOG.replace("2026-01-31", "soon")), "has no date"),
        (write_changelog(CHANGELOG.split("###")[0]), "the section of 0.2.0 is empty"),
        (
            write_changelog(CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n- Another.\n")),
            "has entries",
        ),
        (lambda root: commit(root, "One more"), "the tests were run on"),
        (lambda root: were_run(root, FAILED, 1), "the tests failed: 1 failed, 1 passed"),
        (lambda root: were_run(root, PASSED, 2), "the tests failed"),
        (lambda root: were_run(root, PASSED[:1]), "the tests failed: no tests"),
        (
            lambda root: (root / ".cache/test/cpu-unit.json").write_text("{"),
            "the tests were not run here",
        ),
        (lambda root: shutil.rmtree(root / ".git"), "this is not a git checkout"),
    ],
)
def test_a_fault_is_refused_before_anything_is_built(
    checkout: Path, change: Callable[[Path], object], said: str
) -> None:
    change(checkout)
    stand = Stand(checkout)
    with pytest.raises(RequestError, match=said):
        run(checkout, stand)
    assert stand.done == []


def test_other_tags_do_not_matter(checkout: Path) -> None:
    for tag in ("v0.1.9", "v0.2.0rc1", "verified", "0.9.0"):
        git(checkout, "tag", tag)
    run(checkout)


def test_tests_that_were_run_on_edited_files_do_not_count(checkout: Path) -> None:
    (checkout / "x").touch()
    were_run(checkout)
    (checkout / "x").unlink()
    with pytest.raises(RequestError, match=r"the tests were run on .*-dirty"):
        run(checkout)


# ------------------------------------------------------------------ nothing is half done


def test_images_that_fail_are_not_released(checkout: Path) -> None:
    with pytest.raises(JobError, match="failed their tests") as caught:
        run(checkout, Stand(checkout, verified=False))
    assert caught.value.status == 5
    assert nothing_is_left(checkout)


def test_images_of_another_commit_are_not_released(checkout: Path) -> None:
    with pytest.raises(JobError, match="is of commit 0000-dirty"):
        run(checkout, Stand(checkout, revision="0000-dirty"))
    assert nothing_is_left(checkout)


@pytest.mark.parametrize(
    "error", [BuildError("no", remedy="fix it"), KeyboardInterrupt(), OSError("disk full")]
)
def test_a_build_that_ends_early_leaves_nothing(checkout: Path, error: BaseException) -> None:
    stand = Stand(checkout)

    def fails(backend: str) -> None:
        raise error

    stand.build = fails  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        run(checkout, stand)
    assert nothing_is_left(checkout)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "x").touch(), "uncommitted"),
        (lambda root: commit(root, "One more"), "another commit is checked out now"),
    ],
)
def test_a_checkout_that_changes_while_it_is_built_is_not_released(
    checkout: Path, change: Callable[[Path], object], said: str
) -> None:
    stand = Stand(checkout, revision=git(checkout, "rev-parse", "HEAD"))
    stand.build = lambda backend: change(checkout)  # type: ignore[method-assign,assignment]
    with pytest.raises(RequestError, match=said):
        run(checkout, stand)
    assert nothing_is_left(checkout)


def test_notes_do_not_stay_without_their_tag(checkout: Path) -> None:
    # A folder of that name is in the way of git's own file.
    (checkout / ".git" / "refs" / "tags" / "v0.2.0" / "x").mkdir(parents=True)
    (checkout / ".git" / "refs" / "tags" / "v0.2.0" / "x" / "y").write_text(
        git(checkout, "rev-parse", "HEAD") + "\n"
    )
    with pytest.raises(RequestError, match="the tag cannot be created") as caught:
        run(checkout)
    assert caught.value.problems[0].remedy
    assert not [*checkout.glob(".cache/release/*")]


# ------------------------------------------------------------------ the project's own


def test_the_projects_changelog_is_read() -> None:
    sections = changelog.read(ROOT)
    assert next(iter(sections)) == changelog.UNRELEASED
    assert all(section.body or name == changelog.UNRELEASED for name, section in sections.items())


def test_every_suite_has_to_be_run_for_a_release() -> None:
    wanted = {folder for folders in suites.folders().values() for folder in folders}
    assert {"tests/unit", "tests/images", "tests/jobs", "tests/dcu_sim"} <= wanted


def test_the_task_refuses_and_says_what_to_do(checkout: Path) -> None:
    """Run it as it is typed, in a checkout that has the project's programs."""
    ignored = shutil.ignore_patterns("__pycache__", ".cache")
    for name in ("paddle_stacks", "entrypoints", "configs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    shutil.copy(ROOT / "tasks.py", checkout)
    commit(checkout, "Add the programs")
    done = subprocess.run(
        [sys.executable, "-m", "paddle_stacks.cli", "release", "9.9.9", "--dry-run"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "error: the changelog has no section for 9.9.9\n" in done.stderr
    assert "## [9.9.9] - " in done.stderr
    assert "error: the tests were" in done.stderr
    assert git(checkout, "tag") == ""


def test_a_dry_run_says_what_would_be_done(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from paddle_stacks.cli import release as command

    monkeypatch.setattr(command, "ROOT", checkout)
    monkeypatch.setattr(command, "__version__", "0.2.0")
    monkeypatch.setattr(command.suites, "folders", lambda: SUITES)
    command.release.body(None, "0.2.0", ["cpu", "dcu"], dry_run=True)
    said = capsys.readouterr().out
    assert "would build and verify the images of cpu, dcu, and tag" in said
    assert "- A wheel." in said
    assert git(checkout, "tag") == ""


def test_contributing_names_what_there_is() -> None:
    import re

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:paddle_stacks|tests|configs|entrypoints|images)/[\w./-]+)`", text)
    known = [name for name in named if "NAME" not in name and "VERSION" not in name]
    assert len(known) > 8
    assert [name for name in known if not (ROOT / name).exists()] == []


def test_images_whose_tests_ended_badly_are_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "write", lambda *_: None)
    for status in (0, 1):
        found = (status, {"verified": True})
        monkeypatch.setattr(verify, "check_images", lambda _, found=found: found)
        assert command._verify("cpu")["verified"] == (status == 0)
