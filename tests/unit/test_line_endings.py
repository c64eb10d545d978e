"""A clone with core.autocrlf=true works: no file of text gets CRLF."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def git(folder: Path, *arguments: str) -> str:
    options = ("-c", "core.autocrlf=true", "-c", "user.name=t", "-c", "user.email=t@t")
    return subprocess.run(
        ["git", *options, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout of the work tree's scripts, as a clone on Windows makes it."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a checkout")
    source = tmp_path_factory.mktemp("source")
    for name in git(ROOT, "ls-files", "-z").split("\0"):
        path = ROOT / name
        if path.is_file() and (name == ".gitattributes" or path.read_bytes()[:2] == b"#!"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, source / name)
    git(source, "init", "--quiet")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "x")
    target = tmp_path_factory.mktemp("clone") / "x"
    git(source, "clone", "--quiet", str(source), str(target))
    return target


def scripts(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.read_bytes()[:2] == b"#!"]


def test_no_script_has_crlf(clone: Path) -> None:
    assert len(scripts(clone)) > 10
    assert [str(path) for path in scripts(clone) if b"\r" in path.read_bytes()] == []


def test_the_shell_scripts_can_be_parsed(clone: Path) -> None:
    parsed = 0
    for path in scripts(clone):
        interpreter = path.read_text().splitlines()[0].rpartition("/")[2].split()[-1]
        if interpreter in ("sh", "bash"):
            done = subprocess.run([interpreter, "-n", path], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), path
            parsed += 1
    assert parsed > 5
