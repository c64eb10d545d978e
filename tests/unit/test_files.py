"""Files and folders that are whole or not there, whenever the process that writes them dies."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from paddle_stacks.jobs import files
from paddle_stacks.jobs.files import remove_unfinished, replacing_file, replacing_folder


class Died(BaseException):
    """What stands in for a kill: nothing catches it, and nothing is cleared after it."""


def replace(path: Path, content: str) -> None:
    with replacing_folder(path) as part:
        (part / "file").write_text(content)


def dying_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Die before the rename or the exchange of that number; what is after it does nothing."""
    left = iter(range(number))

    def counted(real):
        def run(*arguments: object):
            if next(left, None) is None:
                monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
                raise Died
            return real(*arguments)

        return run

    for name in ("rename", "replace"):
        monkeypatch.setattr(files.os, name, counted(getattr(os, name)))
    monkeypatch.setattr(files, "_change_places", counted(files._change_places))


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_folder_that_is_replaced_is_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, exchanges: bool
) -> None:
    path = tmp_path / "x"
    replace(path, "old")
    if not exchanges:  # as on NFS
        monkeypatch.setattr(files, "_change_places", lambda one, other: False)
    with monkeypatch.context() as dying:
        dying_at(dying, number)
        lived = False
        with contextlib.suppress(Died):
            replace(path, "new")
            lived = True
    wanted = "new" if lived else "old"
    if exchanges:
        assert (path / "file").read_text() == wanted
    remove_unfinished(path)
    assert (path / "file").read_text() == wanted
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_two_folders_change_places_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "other"):
        replace(tmp_path / name, name)
    assert files._change_places(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "file").read_text() == "other"
    assert (tmp_path / "other" / "file").read_text() == "one"
    with pytest.raises(FileNotFoundError) as raised:
        files._change_places(tmp_path / "one", tmp_path / "gone")
    assert raised.value.errno == errno.ENOENT


def test_what_others_are_writing_stays(tmp_path: Path) -> None:
    mine = [".x.abcd1234.part", ".x.abcd_234.old"]
    others = [".x.y.abcd1234.part", ".y.abcd1234.part", "x.part", ".x.part", ".x.abc.part"]
    for name in (*mine, *others):
        (tmp_path / name).mkdir()
    (tmp_path / ".x.abcd5678.part").write_text("of a file")
    (tmp_path / "x").mkdir()
    remove_unfinished(tmp_path / "x")
    assert {p.name for p in tmp_path.iterdir()} == {"x", *others}


def test_a_name_with_a_pattern_in_it(tmp_path: Path) -> None:
    (tmp_path / ".[x].abcd1234.part").mkdir()
    (tmp_path / ".x.abcd1234.part").mkdir()
    remove_unfinished(tmp_path / "[x]")
    assert [p.name for p in tmp_path.iterdir()] == [".x.abcd1234.part"]


def test_a_file_that_is_not_written_to_its_end_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing_file(path) as stream:
        stream.write("new")
        raise RuntimeError
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


def test_a_link_in_the_place_of_a_folder_is_replaced_and_what_it_leads_to_is_not(
    tmp_path: Path,
) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "output"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    path.symlink_to(elsewhere)
    for content in ("one", "two"):
        remove_unfinished(path)
        with replacing_folder(path) as part:
            (part / "made").write_text(content)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["elsewhere", "output"]
    assert (path / "made").read_text() == "two" and not path.is_symlink()
    assert (elsewhere / "kept").read_text() == "kept"


@pytest.mark.parametrize("suffix", [".part", ".old"])
def test_a_link_that_was_left_is_removed(tmp_path: Path, suffix: str) -> None:
    path, left = tmp_path / "output", tmp_path / f".output.12345678{suffix}"
    path.mkdir()
    left.symlink_to(tmp_path)
    remove_unfinished(path)
    assert [found.name for found in tmp_path.iterdir()] == ["output"]
