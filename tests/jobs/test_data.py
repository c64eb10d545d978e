"""Data sets in files of every kind, as the data and finetune jobs read them in containers."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from tests.jobs.test_finetune import configure, finetune, ready
from tests.support.training import losses

__all__ = ["ready"]

PAIRS = [(f"{n} ka lo", f"lo ka {n}") for n in range(40)]
COMPRESS = """
import json, pyarrow, pyarrow.parquet
rows = [json.loads(line) for line in open("data/d.jsonl")]
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "data/d.parquet")
with pyarrow.CompressedOutputStream("data/d.jsonl.zst", "zstd") as stream:
    stream.write(open("data/d.jsonl", "rb").read())
whole = open("data/d.jsonl.zst", "rb").read()
open("data/cut.jsonl.zst", "wb").write(whole[:-3])
whole = open("data/d.parquet", "rb").read()
open("data/cut.parquet", "wb").write(whole[:-50])
"""


@pytest.fixture
def files(job, ready: Path) -> Path:
    """The same conversations in files of every kind below ``data/``."""
    entries = [
        {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in PAIRS
    ]
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (ready / "data" / "d.jsonl").write_text(text)
    (ready / "data" / "d.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    with (ready / "tickets.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("question", "answer"), *PAIRS])
    (ready / "compress.py").write_text(COMPRESS)
    done = job(["python", "compress.py"], ready)
    assert done.status == 0, done.stderr
    return ready


def convert(job, workspace: Path, name: str, *options: str) -> bytes:
    done = job(["data", name, "--convert", "data/out", "--force", *options], workspace)
    assert (done.status, done.stdout) == (0, "data/out\n"), done.stderr
    parts = [workspace / "data" / "out" / f"{split}.json" for split in ("train", "dev")]
    return b"".join(part.read_bytes() for part in parts)


def test_every_kind_of_file_is_read(job, files: Path) -> None:
    first = convert(job, files, "data/d.jsonl")
    assert first.count(b"\n") == 40
    for name in ("data/d.jsonl.gz", "data/d.jsonl.zst", "data/d.parquet"):
        assert convert(job, files, name) == first
    table = convert(job, files, "tickets.csv", "--set", "data_columns=question:answer")
    assert table == first
    for name, words in (("d.jsonl.zst", "to its end"), ("d.parquet", "not a complete Parquet")):
        done = job(["data", f"data/cut.{name.partition('.')[2]}"], files)
        assert done.status == 2
        assert words in done.stderr


def test_a_table_is_learned_as_its_conversion_is(job, files: Path) -> None:
    configure(files, max_steps=4, evaluation_strategy="steps", eval_steps=4)
    change = ("--set", "dataset_name_or_path=tickets.csv")
    columns = ("--set", "data_columns=question:answer")
    done = finetune(job, files, "--name", "table", *change, *columns)
    assert done.status == 0, done.stderr
    assert "38 records to train on, 2 to evaluate on" in done.stderr
    assert "tickets.csv has no data for evaluation: 2 of its records are held out" in done.stderr
    convert(job, files, "tickets.csv", *columns)
    other = finetune(job, files, "--name", "folder", "--set", "dataset_name_or_path=data/out")
    assert other.status == 0, other.stderr
    results = [
        json.loads((files / "runs" / name / "result.json").read_text())["eval_loss"]
        for name in ("table", "folder")
    ]
    assert results[0] == results[1]
    assert losses(files / "runs" / "table") == losses(files / "runs" / "folder")
    refused = finetune(job, files, "--name", "refused", *change)
    assert refused.status == 2
    assert "--set data_columns=question:answer" in refused.stderr


def test_the_report_marks_what_is_learned(job, files: Path) -> None:
    line = ["data", "tickets.csv", "--set", "data_columns=question:answer", "--samples", "1"]
    done = job([*line, "--model", "tiny-fast"], files)
    assert done.status == 0, done.stderr
    assert "<s>user: 0 ka lo</s><s>assistant: ⟦lo ka 0</s>⟧" in done.stdout
    assert "length in tokens" in done.stdout
    assert "0 records would be cut (src_length 1024, max_length 2048)" in done.stdout
    short = job(
        [*line, "--model", "tiny-fast", "--set", "src_length=4", "--set", "max_length=8"], files
    )
    assert "38 records would be cut (src_length 4, max_length 8)" in short.stdout
    plain = job([*line, "--model", "tiny-fast", "--set", "chat_template=none"], files)
    assert "⟦" in plain.stdout
    assert "assistant:" not in plain.stdout
