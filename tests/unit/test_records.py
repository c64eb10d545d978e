"""Training data: what is a record, and what is said about what is not."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from paddle_stacks.errors import RequestError, render
from paddle_stacks.jobs import records

GOOD = '{"src": "a", "tgt": "b"}\n'


def folder_with(folder: Path, train: bytes | str, dev: bytes | str = GOOD) -> Path:
    for name, content in (("train.json", train), ("dev.json", dev)):
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    return folder


def complaint(folder: Path, *, dev: bool = True) -> str:
    with pytest.raises(RequestError) as caught:
        records.check(folder, dev=dev)
    return render(caught.value)


def test_counts(tmp_path: Path) -> None:
    turns = '{"src": ["a", "c"], "tgt": ["b", "d"], "context": {"system": "s"}, "id": 7}\n'
    folder_with(tmp_path, GOOD + "\n" + turns)
    assert records.check(tmp_path) == records.Counts(2, 1)
    assert records.check(tmp_path, dev=False) == records.Counts(2, 0)
    found = list(records.read(tmp_path, "train"))
    assert found[1].src == ("a", "c")
    assert found[1].where == f"{tmp_path / 'train.json'}:3"
    assert found[1].context == {"system": "s"}


def test_folders_of_files(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.json").write_text(GOOD)
    (tmp_path / "train" / "2.json").write_text(GOOD * 2)
    assert records.check(tmp_path, dev=False).train == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"src": "a"', ["not JSON", "column"]),
        ("nothing", ["not JSON"]),
        ("[", ["no list around the records"]),
        ('["a"]', ["not a JSON object"]),
        ('{"src": "a"}', ['has no "tgt"']),
        ("{}", ['has no "src" and "tgt"']),
        ('{"source": "a", "tgt": "b"}', ['has no "src"']),
        ('{"src": "a", "tgt": 5}', ['"tgt" must be a string']),
        ('{"src": [], "tgt": []}', ['"src" must be a string, or a list']),
        ('{"src": ["a", 1], "tgt": ["b", "c"]}', ['"src" must be a string']),
        ('{"src": ["a"], "tgt": "b"}', ["both be strings, or both be lists"]),
        ('{"src": ["a"], "tgt": ["b", "c"]}', ['"src" has 1 turns and "tgt" has 2']),
        ('{"src": "a", "tgt": "  "}', ['"tgt" is empty']),
        ('{"src": ["a", "c"], "tgt": ["b", ""]}', ["empty in turn 2"]),
        ('{"src": "a", "tgt": "\\ud800"}', ["half of a surrogate pair"]),
        ('{"src": "a", "tgt": "b", "context": 1}', ['"context" must be an object']),
        ("{" * 1 + '"a":' + "[" * 100_000, ["nested too deeply"]),
    ],
)
def test_a_line_that_is_not_a_record(tmp_path: Path, line: str, words: list[str]) -> None:
    text = complaint(folder_with(tmp_path, GOOD + line + "\n"))
    assert "train.json:2" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["there is no record in it", "one JSON object a line"]),
        (b"\n \n", ["there is no record in it"]),
        (b"\xef\xbb\xbf" + GOOD.encode(), ["byte order mark"]),
        (GOOD.encode() + b'{"src": "\0", "tgt": "b"}', ["null byte", "train.json:2"]),
        (b'{"src": "\xff", "tgt": "b"}', ["not UTF-8: byte 0xff", "train.json:1"]),
    ],
)
def test_a_file_that_is_not_data(tmp_path: Path, content: bytes, words: list[str]) -> None:
    text = complaint(folder_with(tmp_path, content))
    for word in words:
        assert word in text


def test_both_files_are_looked_at(tmp_path: Path) -> None:
    text = complaint(folder_with(tmp_path, "x\n", "y\n"))
    assert "train.json:1" in text
    assert "dev.json:1" in text


def test_what_is_missing(tmp_path: Path) -> None:
    assert "has no train.json" in complaint(tmp_path)
    assert "has no dev.json" in complaint(tmp_path)
    (tmp_path / "demo").mkdir()
    text = complaint(tmp_path / "demmo")
    assert text.count("there is no such data folder") == 1
    assert 'did you mean "demo"?' in text


def test_twenty_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    text = complaint(folder_with(tmp_path, "x\n" * 50, "y\n"))
    assert text.count("not JSON") == records.SHOWN
    assert "51 bad lines; the first 20 are above" in text


def test_a_line_of_ten_megabytes_is_a_record_and_a_longer_one_is_not(tmp_path: Path) -> None:
    long = json.dumps({"src": "a" * 10_000_000, "tgt": "b"}) + "\n"
    assert records.check(folder_with(tmp_path, long), dev=False).train == 1
    longer = json.dumps({"src": "a" * records.LONGEST_LINE, "tgt": "b"}) + "\n"
    text = complaint(folder_with(tmp_path, longer * 2 + "x\n"), dev=False)
    assert text.count("longer than 16 MiB") == 2
    assert "train.json:3" in text  # what comes after is still numbered rightly


def test_checking_keeps_nothing(tmp_path: Path) -> None:
    line = json.dumps({"src": "a" * 1000, "tgt": "b"}) + "\n"
    folder_with(tmp_path, line * 20_000)
    tracemalloc.start()
    records.check(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000  # of 20,000,000


def test_a_fingerprint_tells_data_apart(tmp_path: Path) -> None:
    first = records.fingerprint(folder_with(tmp_path, GOOD), "train")
    assert first == records.fingerprint(tmp_path, "dev")
    assert first != records.fingerprint(folder_with(tmp_path, GOOD * 2), "train")
