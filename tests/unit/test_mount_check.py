"""What a container that sees parts of a workspace says of paths that it does not see."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrypoints.runtime import mount_check
from paddle_stacks.errors import RequestError

LINE = ["--output", "data/x", "--model", "m", "--input"]


@pytest.fixture(autouse=True)
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace whose folders are mounts of their own."""
    for name in ("models", "data", "runs"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(mount_check, "_WORKSPACE", tmp_path)
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "runs")


@pytest.mark.parametrize("source", ["text:python-stdlib", "data/a.jsonl", "-"])
def test_a_source_that_the_container_has(source: str) -> None:
    mount_check.check("prepare", [*LINE, source])


def test_a_file_that_is_not_mounted() -> None:
    with pytest.raises(RequestError, match=r"raw\.jsonl is not in the container"):
        mount_check.check("prepare", [*LINE, "raw.jsonl"])
