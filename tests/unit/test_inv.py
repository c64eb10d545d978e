"""``./inv`` runs the checkout's code, whatever the caller's folder and variables hold."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What Python and invoke would look for there: modules, tasks, and what makes environments.
NAMES = ("argparse", "json", "invoke", "tasks", "venv", "ensurepip", "pip", "paddle_stacks")
HIJACKED = 'import os\nos.write(2, b"hijacked\\n")\n'


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(HIJACKED)
    (tmp_path / "sitecustomize.py").write_text(HIJACKED)
    return tmp_path


def inv(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "inv"), *words],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", [("--list",), ("explain", "--help"), ("keys", "finetune")])
def test_the_callers_folder_and_path_are_not_imported_from(
    words: tuple[str, ...], hostile: Path
) -> None:
    expected = inv(*words, cwd=ROOT)
    for path in ("", ":", ".", str(hostile), f":{hostile}:"):
        done = inv(*words, cwd=hostile, PYTHONPATH=path)
        assert "hijacked" not in done.stderr, path
        assert (done.returncode, done.stdout) == (expected.returncode, expected.stdout)


def test_an_environment_is_made_of_no_module_of_the_callers_folder(
    hostile: Path, tmp_path: Path
) -> None:
    """The script is tried in a checkout of its own, with an index that does not answer."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "inv").write_bytes((ROOT / "inv").read_bytes())
    (checkout / "requirements.lock").write_text("")
    done = subprocess.run(
        ["sh", str(checkout / "inv"), "--list"],
        cwd=hostile,
        env={**os.environ, "PYTHONPATH": str(hostile), "PIP_INDEX_URL": "http://127.0.0.1:9/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "hijacked" not in done.stderr, done.stderr
    assert "making .venv" in done.stderr


def test_the_same_folder_is_imported_from_where_nothing_keeps_it_from_it(hostile: Path) -> None:
    """Without this one, the others could pass with files that do nothing."""
    done = subprocess.run(
        ["python3", "-m", "json"], cwd=hostile, capture_output=True, text=True, check=False
    )
    assert "hijacked" in done.stderr
