"""Data sets: files and folders of every format, columns, held-out records and mixtures."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from paddle_stacks.errors import RequestError, render
from paddle_stacks.jobs import data_files, records
from paddle_stacks.jobs.datasets import Dataset, Source, columns_of

PAIR = '{"src": "q0", "tgt": "a0"}\n'


def lines(count: int, prefix: str = "q") -> str:
    pairs = ({"src": f"{prefix}{n}", "tgt": f"a{n}"} for n in range(count))
    return "".join(json.dumps(pair) + "\n" for pair in pairs)


def dataset_of(path: Path, content: str | bytes, columns: str = "", ratio: float = 0.0) -> Dataset:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Dataset((Source(path),), columns_of(columns), ratio)


def turns(dataset: Dataset, split: str = "train") -> list[tuple[str, str]]:
    return [(record.src[0], record.tgt[0]) for record in records.read(dataset, split)]


def complaint(dataset: Dataset, *, dev: bool = False) -> str:
    with pytest.raises(RequestError) as caught:
        records.check(dataset, dev=dev)
    assert caught.value.status == 2
    return render(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("d.jsonl", PAIR, ""),
        ("d.ndjson", PAIR, ""),
        ("d.json", f"[{PAIR}]", ""),
        ("d.jsonl.gz", gzip.compress(PAIR.encode(), mtime=0), ""),
        ("d.csv", "src,tgt\nq0,a0\n", ""),
        ("d.csv", "\ufefftgt;src\r\na0;q0\r\n", ""),  # as Excel writes it in Europe
        ("d.csv.gz", gzip.compress(b"src,tgt\nq0,a0\n", mtime=0), ""),
        ("d.tsv", "id\tsrc\ttgt\n7\tq0\ta0\n", ""),
        ("d.csv", "instruction,input,output\nq0,,a0\n", ""),
        ("d.csv", "question,answer,id\nq0,a0,7\n", "question:answer"),
        ("d.jsonl", '{"Frage": "q0", "Antwort": "a0", "prompt": "x"}', "Frage:Antwort"),
    ],
)
def test_formats_of_files(tmp_path: Path, name: str, content: str | bytes, columns: str) -> None:
    dataset = dataset_of(tmp_path / name, content, columns)
    assert records.check(dataset, dev=False).train == 1
    assert turns(dataset) == [("q0", "a0")]


def test_fields_with_separators_quotes_and_line_breaks(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "d.csv", 'src,tgt\n"a, ""b""\nc",x\n\nd,y\n')
    assert turns(dataset) == [('a, "b"\nc', "x"), ("d", "y")]
    assert [record.where.rpartition(":")[2] for record in records.read(dataset, "train")] == [
        "2",
        "5",
    ]


def test_a_third_column_is_the_system_message(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "d.csv", "q,a,s\nq0,a0,brief\nq1,a1,\n", "q:a:s")
    assert [record.system for record in records.read(dataset, "train")] == ["brief", None]


@pytest.mark.parametrize(
    ("name", "content", "columns", "words"),
    [
        ("d.csv", "", "", ["contains no record"]),
        ("d.csv", "src,tgt\n", "", ["contains no record"]),
        ("d.csv", "question,answer\nq,a\n", "", ["--set data_columns=question:answer", "d.csv:2"]),
        ("d.csv", "a,b\n1,2\n", "", ["--set data_columns=QUESTION:ANSWER", "has a, b"]),
        ("d.csv", "src,tgt\na,b,c\n", "", ["3 fields, and the header has 2", "d.csv:2"]),
        ("d.csv", "src,tgt\na\n", "", ["1 fields, and the header has 2"]),
        ("d.csv", 'src,tgt\n"a,b\nc,d\n', "", ["not CSV", "unexpected end of data"]),
        ("d.csv", 'src,tgt\n"a"b,c\n', "", ["not CSV", "d.csv:2"]),
        ("d.csv", "src,src\na,b\n", "", ['the header has "src" twice']),
        ("d.csv", "src\na\n", "", ["one column", "commas or semicolons"]),
        ("d.tsv", "src,tgt\na,b\n", "", ["one column", "tabs"]),
        ("d.csv", "src,tgt\na,\n", "", ['"tgt" is empty']),
        ("d.csv", "q,a\nx,y\n", "q:b", ['"b" of data_columns is missing']),
        ("d.csv", "question,a\nx,y\n", "qestion:a", ['did you mean "question"?']),
        ("d.jsonl", '{"q": "x", "a": 5}', "q:a", ['"a" must be a string']),
        ("d.jsonl", '{"q": "x", "a": null}', "q:a", ['"a" of data_columns is missing']),
        ("d.csv", "src,tgt\nx,\x00\n", "", ["null byte", "d.csv:2"]),
        ("d.csv", "src,tgt\nx,é\n".encode("latin-1"), "", ["not UTF-8", "d.csv:2"]),
        ("d.csv", b"PK\x03\x04rest", "", ["Excel workbook"]),
        ("d.json", b"PAR1rest", "", ["is Parquet"]),
        ("d.json", gzip.compress(PAIR.encode(), mtime=0), "", ["compressed", "mv "]),
        ("d.json.gz", PAIR, "", ["is not compressed", "mv "]),
        (
            "d.json.gz",
            gzip.compress(PAIR.encode() * 999, mtime=0)[:-20],
            "",
            ["to its end", "gzip -t"],
        ),
        (
            "d.json.gz",
            gzip.compress(b"x" * 257 + b"ustar" + b"x" * 300, mtime=0),
            "",
            ["tar archive"],
        ),
        ("d.txt", PAIR, "", ["its name tells no known format"]),
        ("d.xlsx", PAIR, "", ["its name tells no known format", "*.csv"]),
        ("d.parquet.gz", PAIR, "", ["its name tells no known format"]),
    ],
)
def test_a_file_that_is_not_data(
    tmp_path: Path, name: str, content: str | bytes, columns: str, words: list[str]
) -> None:
    text = complaint(dataset_of(tmp_path / name, content, columns))
    assert text.count("error:") == 1
    for word in words:
        assert word in text


@pytest.mark.parametrize("text", ["q", "q:", ":a", "q:a:s:x", "q:q"])
def test_columns_that_are_not_two_or_three(text: str) -> None:
    with pytest.raises(RequestError, match="two or three different names"):
        columns_of(text)


def test_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text("src,tgt\nq,a\n")
    (tmp_path / "more.jsonl").write_text(PAIR)
    (tmp_path / "validation.jsonl").write_text(PAIR * 2)
    (tmp_path / "test.jsonl").write_text(PAIR)
    (tmp_path / "README.md").write_text("about")
    assert records.check(tmp_path) == records.Counts(2, 2)
    (tmp_path / "train.json").write_text(PAIR * 3)
    assert records.check(tmp_path) == records.Counts(3, 2)
    (tmp_path / "dev.json").write_text(PAIR)
    assert "dev.json and validation.jsonl are both there" in complaint(
        Dataset.of(tmp_path), dev=True
    )


# ------------------------------------------------------------------ held-out records


def test_a_file_is_split_by_the_seed(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "d.jsonl", lines(200), ratio=0.1)
    counts = records.check(dataset)
    assert (counts.train, counts.dev) == (180, 20)
    assert counts.notes(42)[0].startswith(f"{tmp_path / 'd.jsonl'} has no data for evaluation: 20")
    train, dev = turns(dataset), turns(dataset, "dev")
    assert sorted(train + dev) == sorted((f"q{n}", f"a{n}") for n in range(200))
    assert turns(dataset) == train
    other = Dataset(dataset.sources, (), 0.1, seed=1)
    assert set(turns(other, "dev")) != set(dev)
    assert records.fingerprint(dataset, "dev") == records.fingerprint(dataset, "train")


def test_equal_records_are_on_one_side(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "d.jsonl", lines(20) * 3, ratio=0.2)
    assert not set(turns(dataset)) & set(turns(dataset, "dev"))
    counts = records.check(dataset)
    assert counts.train + counts.dev == 60
    assert counts.dev >= 12


def test_a_folder_without_dev_is_split_and_one_with_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(lines(10))
    dataset = Dataset((Source(tmp_path),), (), 0.1)
    assert records.check(dataset) == records.Counts(9, 1)
    assert records.check(Dataset.of(tmp_path), dev=False) == records.Counts(10, 0)
    (tmp_path / "dev.json").write_text(PAIR)
    assert records.check(dataset) == records.Counts(10, 1)
    assert len(turns(dataset)) == 10


@pytest.mark.parametrize(
    ("content", "words"), [(PAIR, "has one record"), (PAIR * 5, "has 5 equal records")]
)
def test_what_cannot_be_split(tmp_path: Path, content: str, words: str) -> None:
    text = complaint(dataset_of(tmp_path / "d.jsonl", content, ratio=0.1), dev=True)
    assert words in text
    assert "--set do_eval=false" in text
    assert "add dev.json" in text


def test_nothing_is_held_out_without_a_ratio(tmp_path: Path) -> None:
    text = complaint(dataset_of(tmp_path / "d.jsonl", lines(9)), dev=True)
    assert "without records for dev" in text
    assert "dev_ratio=0.05" in text


# ------------------------------------------------------------------ mixtures


def test_sources_are_mixed_by_their_weights(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(10, "a"))
    (tmp_path / "b.jsonl").write_text(lines(90, "b"))
    sources = Dataset.parse_sources("3 a.jsonl 1 b.jsonl", tmp_path)
    dataset = Dataset(sources)
    counts = records.check(dataset, dev=False)
    assert counts.train == 100
    assert "75 records per epoch, of 10" in "\n".join(counts.notes(42))
    questions = [question for question, _ in turns(dataset)]
    of_a = [question for question in questions if question.startswith("a")]
    assert len(of_a) == 75
    assert {of_a.count(f"a{n}") for n in range(10)} == {7, 8}
    assert len(set(questions)) == 10 + 25
    assert turns(dataset) == turns(dataset)


def test_each_source_of_a_mixture_is_split_if_it_has_to_be(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(20, "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.json").write_text(lines(20, "b"))
    (tmp_path / "b" / "dev.json").write_text(lines(3, "c"))
    dataset = Dataset(Dataset.parse_sources("1 a.jsonl 1 b", tmp_path), (), 0.1)
    assert records.check(dataset) == records.Counts(38, 5)
    dev = {question[0] for question, _ in turns(dataset, "dev")}
    assert dev == {"a", "c"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.5 a.jsonl 0.5", "expected weights and paths in turn"),
        ("0.5 a.jsonl x b.jsonl", '"x" is not a weight'),
        ("0 a.jsonl 1 b.jsonl", '"0" is not a weight'),
        ("-1 a.jsonl 1 b.jsonl", '"-1" is not a weight'),
        ("1 a.jsonl 1 a.jsonl", "a.jsonl is named twice"),
    ],
)
def test_mixtures_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        Dataset.parse_sources(text, tmp_path)
    assert words in render(caught.value)


def test_a_name_with_spaces_is_one_path(tmp_path: Path) -> None:
    (tmp_path / "7 days of data.csv").write_text("src,tgt\na,b\n")
    sources = Dataset.parse_sources("7 days of data.csv", tmp_path)
    assert sources == (Source(tmp_path / "7 days of data.csv"),)


def test_a_file_that_needs_a_library_is_left_to_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d.parquet").write_bytes(b"x")
    monkeypatch.setattr(data_files, "is_readable", lambda path: False)
    assert records.check(Dataset((Source(tmp_path / "d.parquet"),)), dev=False).train == 0


def test_demo_data_that_is_missing_can_be_fetched(tmp_path: Path) -> None:
    dataset = Dataset((Source(tmp_path / "data" / "alpaca"),))
    assert "./inv fetch-data alpaca-demo" in complaint(dataset)
