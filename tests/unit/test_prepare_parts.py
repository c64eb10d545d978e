"""Reading, dividing and remembering of `prepare`, without an engine and without PaddleNLP."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
from array import array
from pathlib import Path

import pytest

from entrypoints.preparing import documents, journal, pair, reading, shape
from entrypoints.preparing.documents import Rules, without_repeats
from entrypoints.preparing.journal import Growing, State
from entrypoints.preparing.reading import Block, Position, Reader
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import corpus
from paddle_stacks.jobs.corpus import Source


def read(path: Path, document: str = "paragraph", start: Position | None = None) -> list[Block]:
    form = "jsonl" if ".jsonl" in path.name else "text"
    reader = Reader(Source(str(path), form), document)
    try:
        return list(reader.blocks(start or Position()))
    finally:
        reader.close()


def texts(path: Path, rules: Rules | None = None) -> tuple[list[str], dict[str, int]]:
    rules = rules or Rules()
    form = "jsonl" if ".jsonl" in path.name else "text"
    found: list[str] = []
    reasons: dict[str, int] = {}
    for block in read(path, rules.document):
        made = documents.documents(block, form, rules)
        found += made.texts
        for reason, count in made.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return found, reasons


@pytest.mark.parametrize("size", [1, 3, 7, 64, 1 << 18])
def test_blocks_do_not_decide_what_a_document_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    text = "one\ntwo\n\nthree\r\n \r\n\n\nfour 水\n  \nfive"
    (tmp_path / "a.txt").write_bytes(text.encode())
    monkeypatch.setattr(reading, "BLOCK", size)
    wanted = ["one\ntwo", "three", "four 水", "five"]
    assert texts(tmp_path / "a.txt") == (wanted, {})
    assert b"".join(block.data for block in read(tmp_path / "a.txt")) == text.encode()
    lines = ["one", "two", "three", "four 水", "five"]
    assert texts(tmp_path / "a.txt", Rules(document="line")) == (lines, {})
    assert texts(tmp_path / "a.txt", Rules(document="file")) == ([text], {})


@pytest.mark.parametrize("size", [1, 5, 1 << 18])
def test_a_bad_record_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n\nnot\n{"text": "b"}\n{"x": 1}\n{"text": "\xff"}')
    monkeypatch.setattr(reading, "BLOCK", size)
    bad = [
        entry for block in read(path) for entry in documents.documents(block, "jsonl", Rules()).bad
    ]
    assert [line for line, _ in bad] == [3, 5, 6]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"not", "not JSON: Expecting value (column 1)"),
        (b'{"text": "a"', "not JSON: Expecting ',' delimiter (column 13)"),
        (b'{"text": "a"} {"text": "b"}', "not JSON: Extra data (column 15)"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON: a number has too many digits"),
        (b'["a"]', "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"txt": "a"}', 'no key "text"; it has: txt'),
        (b"{}", 'no key "text"; it has: none'),
        (b'{"text": 1}', '"text" is not a string'),
        (b'{"text": null}', '"text" is not a string'),
        (b'{"text": ["a"]}', '"text" is not a string'),
        (b'{"text": ""}', "empty"),
        (b'{"text": " \\n\\t "}', "empty"),
        (b'{"text": "\\ud800"}', "an unpaired surrogate"),
        (b'{"text": "\xff"}', "not UTF-8: byte 0xff"),
        ('{"text": "a"}'.encode("utf-16"), "not UTF-8: byte 0xff"),
        ('{"text": "é"}'.encode("latin-1"), "not UTF-8: byte 0xe9"),
    ],
)
def test_bad_records(line: bytes, why: str) -> None:
    found = documents.documents(Block(line, 7, Position()), "jsonl", Rules())
    assert (found.texts, found.bad) == ([], [(7, why)])
    assert sum(found.reasons.values()) == 1


def test_a_byte_order_mark_and_surrogate_pairs_are_no_fault() -> None:
    line = b'\xef\xbb\xbf{"text": "\\ud83d\\ude00"}'
    assert documents.documents(Block(line, 1, Position()), "jsonl", Rules()).texts == ["😀"]


@pytest.mark.parametrize("size", [16, 100, 1 << 18])
def test_a_document_that_is_too_long_is_counted_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(reading, "BLOCK", size)
    monkeypatch.setattr(reading, "LONGEST", 500)
    monkeypatch.setattr(reading, "_TAIL", 8)
    path = tmp_path / "a.jsonl"
    rows = [json.dumps({"text": text}) for text in ("a", "b" * 5000, "c", "d" * 501, "e")]
    path.write_text("\n".join(rows) + "\n")
    assert texts(path, Rules(longest_repeat=9000)) == (["a", "c", "e"], {"longer than 0 MiB": 2})
    text = tmp_path / "a.txt"
    text.write_text("a\n\n" + "b b\n" * 2000 + " \nc\n\nd")
    assert texts(text) == (["a", "c", "d"], {"longer than 0 MiB": 1})


def test_reading_goes_on_from_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 50)
    path = tmp_path / "a.jsonl.gz"
    lines = [json.dumps({"text": f"text {number}"}) for number in range(60)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    blocks = read(path)
    assert len(blocks) > 10
    for number, block in enumerate(blocks):
        rest = b"".join(b.data for b in read(path, start=block.end))
        assert rest == b"".join(b.data for b in blocks[number + 1 :])
        assert block.end.line == block.line + block.data.count(b"\n")


def test_another_file_is_noticed_when_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 10)
    end = read(path)[0].end
    for other in ('{"text": "b"}\n' * 10, '{"text": "a"}\n'):
        path.write_text(other)
        with pytest.raises(RequestError, match="the file has changed"):
            read(path, start=end)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(random.Random(1).randbytes(9000), mtime=0)[:-20], "read completely"),
        (gzip.compress(b"a" * 9000, mtime=0)[:30] + b"xxxxxxxxxxxxx", "read completely"),
        (b"BZh9", "the compression bzip2"),
        (b"PK\x03\x04", "the compression zip"),
        (b"\xfd7zXZ", "the compression xz"),
        (b"PAR1", "the compression Parquet"),
    ],
)
def test_what_cannot_be_unpacked(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=what):
        read(path)


def test_the_hash_is_of_the_file_as_stored(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n') + b"\0" * 100)
    reader = Reader(Source(str(path), "jsonl"), "line")
    assert [block.data for block in reader.blocks(Position())] == [b'{"text": "a"}\n']
    assert reader.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    reader.close()


@pytest.mark.parametrize("longest", [1, 2, 5, 9, 10, 100])
def test_repeats_are_upstreams_rule(longest: int) -> None:
    pick = random.Random(longest)
    for _ in range(300):
        runs = [pick.choice("ab\n ") * pick.choice([1, 2, longest, longest + 1, 3 * longest])
                for _ in range(pick.randint(1, 12))]  # fmt: skip
        text = "".join(runs)
        assert without_repeats(text, longest) == re.sub(rf"(.)\1{{{longest},}}", r"\1", text)


# ------------------------------------------------------------------------------- inputs


def test_inputs_in_order(tmp_path: Path) -> None:
    for name in ("d/b.jsonl", "d/a/z.txt.gz", "d/.hidden.txt", "d/c.md", "e.json", "f.ndjson.zst"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    found = corpus.sources(["e.json", "d", "*.zst"], here=tmp_path)
    assert [(s.path, s.format) for s in found] == [
        ("e.json", "jsonl"), ("d/a/z.txt.gz", "text"), ("d/b.jsonl", "jsonl"),
        ("f.ndjson.zst", "jsonl"),
    ]  # fmt: skip
    assert [s.path for s in corpus.sources(["d"], "text", tmp_path)][-1] == "d/c.md"
    assert corpus.sources(["-"], "text") == (Source("-", "text"),)


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (["gone.jsonl"], "no such file or folder"),
        (["*.parquet"], "no file matches the pattern"),
        (["empty"], "the folder has no text"),
        (["a.md"], "the file's format is unknown"),
        (["a.jsonl", "./a.jsonl"], "the file is an input twice"),
        (["a.jsonl", "link.jsonl"], "the file is an input twice"),
        (["-", "a.jsonl"], "standard input cannot be combined with other inputs"),
        (["pipe.jsonl"], "neither a file nor a folder"),
        ([], "--input is required"),
    ],
)
def test_inputs_that_cannot_be_read(tmp_path: Path, inputs: list[str], what: str) -> None:
    import os

    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(RequestError, match=re.escape(what)) as caught:
        corpus.sources(inputs, here=tmp_path)
    assert all(problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize("output", ["data/", ".", "", "x.bin", "x.idx"])
def test_outputs_that_are_none(output: str) -> None:
    with pytest.raises(RequestError):
        corpus.prefix_of(output)


# ------------------------------------------------------------------- split, blend, index


@pytest.mark.parametrize("split", ["949,50,1", "1", "8/1/1", "0.5,0.5", "0,0,1", "98,1,1"])
@pytest.mark.parametrize("count", [0, 1, 3, 10, 999, 12345])
def test_the_split_is_upstreams(split: str, count: int) -> None:
    numbers = [float(word) for word in re.split("[,/]", split)]
    numbers = ([*numbers, 0.0, 0.0])[:3]
    places = [0]
    for number in numbers:
        places.append(places[-1] + round(number / sum(numbers) * float(count)))
    over = places[-1] - count
    wanted = tuple([0] + [position - over for position in places[1:]])
    assert corpus.bounds(split, count) == wanted


@pytest.mark.parametrize("split", ["", "a", "1,2,3,4", "0,0,0", "-1,2", "nan", "inf,1", "1;2"])
def test_a_wrong_split(split: str) -> None:
    with pytest.raises(RequestError, match="not a split"):
        corpus.shares(split)


def write_pair(prefix: Path, *sizes: int) -> None:
    (prefix.parent / "sizes").write_bytes(array("i", sizes).tobytes())
    corpus.tokens_path(prefix).write_bytes(array("H", range(sum(sizes))).tobytes())
    pair.write_index(corpus.index_path(prefix), prefix.parent / "sizes", 8)


def test_a_pair_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_pair(tmp_path / "c.x", 3, 1, 5)
    found = corpus.look(tmp_path / "c.x")
    assert (found.documents, found.tokens, found.code) == (3, 9, 8)
    assert pair.lengths(found).tolist() == [3, 1, 5]
    assert pair.tokens(found, 2, 3) == [4, 5, 6]
    assert shape.histogram(pair.lengths(found)) == [(1, 1), (2, 1), (4, 1)]
    assert "documents 3   tokens 9" in shape.lines(pair.lengths(found), "1,1,1")[0]


def test_many_documents_are_indexed_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [number % 7 + 1 for number in range(50)]
    write_pair(tmp_path / "a", *sizes)
    monkeypatch.setattr(pair, "_CHUNK", 8)
    write_pair(tmp_path / "b", *sizes)
    assert (tmp_path / "a.idx").read_bytes() == (tmp_path / "b.idx").read_bytes()


@pytest.mark.parametrize("damage", ["bin", "idx", "short", "cut", "magic", "version"])
def test_a_damaged_pair(tmp_path: Path, damage: str) -> None:
    write_pair(tmp_path / "c", 3, 1, 5)
    index, tokens = tmp_path / "c.idx", tmp_path / "c.bin"
    content = index.read_bytes()
    if damage in ("bin", "idx"):
        (tmp_path / f"c.{damage}").unlink()
    elif damage == "short":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    else:
        index.write_bytes({
            "cut": content[:-1], "magic": b"TNTIDX" + content[6:],
            "version": content[:9] + b"\2" + content[10:],
        }[damage])  # fmt: skip
    with pytest.raises(RequestError):
        corpus.look(tmp_path / "c")


def test_a_blend(tmp_path: Path) -> None:
    write_pair(tmp_path / "a", 1)
    write_pair(tmp_path / "b", 1, 1)
    found = corpus.parts("3 a 1 b", tmp_path)
    assert [(p.weight, p.pair.prefix.name, p.pair.documents) for p in found] == [
        (0.75, "a", 1), (0.25, "b", 2),
    ]  # fmt: skip
    assert [p.weight for p in corpus.parts(".", tmp_path)] == [0.5, 0.5]
    assert corpus.parts("a.idx", tmp_path)[0].pair.prefix.name == "a"


@pytest.mark.parametrize(
    ("text", "faults"),
    [("a b", 1), ("0.3 a 0.7", 1), ("0 a 1 b", 1), ("-1 a x b 1 gone", 3), ("nan a inf b", 2),
     ("gone", 1), ("empty", 1), ("", 1)],
)  # fmt: skip
def test_a_wrong_blend(tmp_path: Path, text: str, faults: int) -> None:
    write_pair(tmp_path / "a", 1)
    write_pair(tmp_path / "b", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError) as caught:
        corpus.parts(text, tmp_path / "empty" if not text else tmp_path)
    assert len(caught.value.problems) == faults


# ------------------------------------------------------------------------------ journal


def test_the_journal_comes_back(tmp_path: Path) -> None:
    state = State({"a": 1}, 2, Position(5, 6, 7, 8), Growing(3, 4), Growing(1, 2), 9,
                  {"empty": 1}, (("a:1", "empty"),), ("ff",), True)  # fmt: skip
    journal.write(tmp_path, state)
    assert journal.read(tmp_path) == state


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"request": {}, "new": 1}'])
def test_a_damaged_journal_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "journal.json").write_text(content)
    assert journal.read(tmp_path) is None


def test_what_was_written_is_verified(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    grown = Growing().longer_by(b"abc").longer_by(b"def")
    assert Growing().is_in(path) and not grown.is_in(path)
    for content, right in ((b"abcdef", True), (b"abcdefgh", True), (b"abcde", False), (b"abcdeX", False)):  # fmt: skip # noqa: E501
        path.write_bytes(content)
        assert grown.is_in(path) is right


def test_standard_input_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b'{"text": "a"}\n'))
    monkeypatch.setattr("sys.stdin", stdin)
    reader = Reader(Source("-", "jsonl"), "line")
    assert [block.data for block in reader.blocks(Position())] == [b'{"text": "a"}\n']


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sizes": (-1, 5)}, "negative length"),
        ({"places": (0, 8)}, "does not follow the previous one"),
        ({"documents": (0, 2, 1)}, "not in the order"),
        ({"documents": (0, 1, 9)}, "not in the order"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(
    change: dict[str, tuple[int, ...]], said: str, tmp_path: Path
) -> None:
    """Its last entry fits, so that its files belong together as far as their sizes tell."""
    parts = {"sizes": (1, 2), "places": (0, 4), "documents": (0, 1, 2)} | change
    head = corpus.HEADER.pack(corpus.MAGIC, 1, 4, 2, 3)
    body = struct.pack("<2i2q3q", *parts["sizes"], *parts["places"], *parts["documents"])
    end = parts["places"][-1] + parts["sizes"][-1] * corpus.ITEMS[4]
    (tmp_path / "c.idx").write_bytes(head + body)
    (tmp_path / "c.bin").write_bytes(bytes(end))
    found = corpus.look(tmp_path / "c")
    with pytest.raises(RequestError, match=said):
        pair.check(found)
