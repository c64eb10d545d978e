"""Training data: what is a record, and what is said about what is not."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

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
        ("[", ["a record must be on one line"]),
        ('["a"]', ["not a JSON object"]),
        ('{"src": "a"}', ['"tgt" is missing']),
        ("{}", ['"src" and "tgt" are missing', "see docs/data-formats.md"]),
        ('{"source": "a", "tgt": "b"}', ['"src" is missing']),
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
        (b"", ["the file contains no record", "one JSON object a line"]),
        (b"\n \n", ["the file contains no record"]),
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
    assert text.count("the data set does not exist") == 1
    assert 'did you mean "demo"?' in text


def test_equal_faults_are_reported_once_with_a_count(tmp_path: Path) -> None:
    text = complaint(folder_with(tmp_path, "x\n" * 50, "y\n"))
    assert text.count("not JSON") == 2  # one for each file
    assert "train.json:1 and 49 more places: 2, 3, 4, 5, 6, …" in text
    assert "dev.json:1\n" in text


def test_faults_that_differ_in_numbers_only_are_equal(tmp_path: Path) -> None:
    lines = [json.dumps({"src": ["a"] * n, "tgt": ["b"]}) for n in range(2, 40)]
    text = complaint(folder_with(tmp_path, "\n".join(lines)))
    assert text.count("error:") == 1
    assert "train.json:1 and 37 more places" in text


def test_twenty_kinds_of_faults_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    lines = [json.dumps({"src": "a", "tgt": "b", "context": n}) for n in range(5)]
    lines += [f'{{"messages": [{{"role": "{"r" * n}", "content": "a"}}]}}' for n in range(1, 31)]
    text = complaint(folder_with(tmp_path, "\n".join(lines)))
    assert text.count("error:") == 21
    assert "and 11 more bad records" in text  # of 30 unknown roles


def test_a_file_that_cannot_be_read_is_one_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_with(tmp_path, GOOD)
    opened = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "train.json":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    text = complaint(tmp_path)
    assert text.count("error:") == 1
    assert "the data cannot be read: Permission denied" in text


@pytest.mark.parametrize(
    ("entry", "src", "tgt", "system"),
    [
        ({"src": "a", "tgt": "b", "system": "s"}, ("a",), ("b",), "s"),
        ({"src": "a", "tgt": "b", "system": " "}, ("a",), ("b",), None),
        ({"src": "c", "tgt": "d", "history": [["a", "b"]]}, ("a", "c"), ("b", "d"), None),
        ({"instruction": "a", "output": "b"}, ("a",), ("b",), None),
        (
            {"instruction": "a", "input": "x", "output": "b", "system": "s", "history": []},
            ("a\nx",),
            ("b",),
            "s",
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            ("a",),
            ("b",),
            None,
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "c"},
                    {"role": "assistant", "content": "d"},
                ],
                "tools": None,
            },
            ("a", "c"),
            ("b", "d"),
            "s",
        ),
    ],
)
def test_formats(
    tmp_path: Path,
    entry: dict[str, Any],
    src: tuple[str, ...],
    tgt: tuple[str, ...],
    system: str | None,
) -> None:
    folder_with(tmp_path, json.dumps(entry))
    assert records.check(tmp_path) == records.Counts(1, 1)
    (record,) = records.read(tmp_path, "train")
    assert (record.src, record.tgt, record.system) == (src, tgt, system)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"src": "a", "tgt": "b", "sytem": "s"}, ['unknown key "sytem"', '"system"']),
        ({"src": "a", "tgt": "b", "system": 1}, ['"system" must be a string']),
        ({"src": "a", "tgt": "b", "input": "c"}, ['"input" is not supported beside "src"']),
        ({"src": "a", "tgt": "b", "tools": [1]}, ['"tools" is not supported']),
        ({"src": "a", "tgt": "b", "weight": 0}, ['"weight" is not supported']),
        ({"src": "a", "tgt": "b", "history": ["a"]}, ['"history" must be a list of pairs']),
        ({"src": "a", "tgt": "b", "messages": []}, ["keys of different formats"]),
        ({"instruction": "a", "output": ""}, ['"output" is empty']),
        ({"instruction": "a"}, ['"output" is missing']),
        ({"messages": []}, ['"messages" must be a list of messages']),
        ({"messages": [{"role": "tool", "content": "a"}]}, ['"tool" is not a supported role']),
        ({"messages": [{"role": "user", "content": "a"}]}, ["must alternate"]),
        (
            {"messages": [{"role": "user", "content": "a", "weight": 0}]},
            ['"weight" of a message is not supported'],
        ),
        (
            {"conversations": [{"from": "gpt", "value": "b"}, {"from": "human", "value": "a"}]},
            ["must alternate"],
        ),
        ({"prompt": "a", "completion": "b"}, ['"src" and "tgt" are missing']),
    ],
)
def test_what_would_be_lost_is_refused(
    tmp_path: Path, entry: dict[str, Any], words: list[str]
) -> None:
    text = complaint(folder_with(tmp_path, json.dumps(entry)))
    for word in words:
        assert word in text


def test_keys_without_an_effect_are_counted(tmp_path: Path) -> None:
    line = '{"src": "a", "tgt": "b", "id": 1, "tools": []}\n'
    counts = records.check(folder_with(tmp_path, line * 3))
    assert counts.ignored == {"id": 3, "tools": 3}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_read(tmp_path: Path, indent: int | None) -> None:
    entries = [{"src": f"q{n}", "tgt": "é" * 5000} for n in range(500)]  # more than a chunk
    folder_with(tmp_path, json.dumps(entries, indent=indent, ensure_ascii=False))
    assert records.check(tmp_path).train == 500
    found = list(records.read(tmp_path, "train"))
    assert [record.src[0] for record in found] == [f"q{n}" for n in range(500)]
    line = 1 if indent is None else 6
    assert found[1].where.endswith(f"train.json:{line} (record 2)")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"src": "a", "tgt": "b"}', ["ends before its closing bracket"]),
        (b'[{"src": "a", "tgt": "b"},\n{"src": "a', ["not JSON: Unterminated", "train.json:2"]),
        (b'[{"src": "a", "tgt": "b"} 5]', ['expected "," or "]"']),
        (b'[{"src": "a", "tgt": "b"}]\n{}', ["text after the array's closing bracket"]),
        (b'[{"src": "a", "tgt": ""}]', ["is empty", "train.json:1 (record 1)"]),
        (b'[{"src": "\xff", "tgt": "a"}]', ["not UTF-8: byte 0xff"]),
        (b'["a"]', ["not a JSON object"]),
        (b"[" * 100_000, ["nested too deeply"]),
        (b"[]", ["contains no record"]),
        (b"[1" + b"0" * 5000 + b"]", ["too many digits"]),
    ],
)
def test_an_array_that_is_not_data(tmp_path: Path, content: bytes, words: list[str]) -> None:
    text = complaint(folder_with(tmp_path, content))
    assert text.count("error:") == 1
    for word in words:
        assert word in text


@pytest.mark.slow
def test_an_array_is_not_kept_in_memory(tmp_path: Path) -> None:
    entry = json.dumps({"src": "a" * 1000, "tgt": "b"})
    folder_with(tmp_path, "[" + ",".join([entry] * 20_000) + "]")
    tracemalloc.start()
    assert records.check(tmp_path).train == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000  # of 20,000,000


def test_json_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.json").write_text(GOOD)
    (tmp_path / "train" / "b.jsonl").write_text(GOOD * 2)
    (tmp_path / "dev.jsonl").write_text(GOOD)
    assert records.check(tmp_path) == records.Counts(3, 1)
    (tmp_path / "dev.json").write_text(GOOD)
    assert "dev.json and dev.jsonl are both there" in complaint(tmp_path)


def test_files_that_would_be_left_out_are_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.json").write_text(GOOD)
    (tmp_path / "train" / "b.xlsx").write_text("x")
    text = complaint(tmp_path, dev=False)
    assert "b.xlsx would not be read" in text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.jsonl", GOOD, "reads only *.json"),
        ("train.json", f"[{GOOD}]", "does not read a JSON array"),
        ("train.json", '{"src": "a", "tgt": "b", "system": "s"}', 'does not read "system"'),
        ("train.json", '{"instruction": "a", "output": "b"}', 'does not read "instruction"'),
    ],
)
def test_upstreams_own_program_reads_less(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content)
    records.check(tmp_path, dev=False)
    with pytest.raises(RequestError) as caught:
        records.check(tmp_path, dev=False, upstream=True)
    assert words in render(caught.value)


def test_a_line_of_ten_megabytes_is_a_record_and_a_longer_one_is_not(tmp_path: Path) -> None:
    long = json.dumps({"src": "a" * 10_000_000, "tgt": "b"}) + "\n"
    assert records.check(folder_with(tmp_path, long), dev=False).train == 1
    longer = json.dumps({"src": "a" * records.LONGEST_LINE, "tgt": "b"}) + "\n"
    text = complaint(folder_with(tmp_path, longer * 2 + "x\n"), dev=False)
    assert "the line is longer than 16 MiB" in text
    assert "train.json:1 and 1 more place: 2" in text
    assert "train.json:3" in text  # what comes after is still numbered rightly


@pytest.mark.slow
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
