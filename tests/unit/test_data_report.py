"""The data job: its report and its conversion, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entrypoints import data
from paddle_stacks.errors import RequestError, render
from paddle_stacks.jobs import records
from paddle_stacks.jobs.datasets import Dataset, Source

TICKETS = "id,question,answer\n" + "".join(f"{n},How {n % 30}?,Do {n}\n" for n in range(40))
COLUMNS = ("--set", "data_columns=question:answer")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tickets.csv").write_text(TICKETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_the_report_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["tickets.csv", *COLUMNS, "--set", "dev_ratio=0.25", "--samples", "2"]) == 0
    text = capsys.readouterr().out
    for line in (
        "format     CSV: columns by name",
        "columns    question (question), answer (answer)",
        "train      30 records",
        "dev        10 records",
        "10 of its records are held out (dev_ratio, seed 42)",
        'the key "id" of 40 records has no effect',
        "duplicates 0 of train, 0 of dev",
        "0 records of dev are in train",
        "length in characters: median 11, 95% up to 12, longest 12; 42% learned",
        "samples, with the learned part in ⟦⟧",
        "    user: How 0?\n    assistant: ⟦Do 0⟧\n",
    ):
        assert line in text
    assert text.count("assistant:") == 2


def test_duplicates_and_overlap(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "d").mkdir()
    pairs = [("q", "a"), ("q", "a"), ("r", "a"), ("s", "a")]
    for name, chosen in (("train", pairs), ("dev", [*pairs[2:], ("q", "b")])):
        lines = "".join(json.dumps({"src": q, "tgt": a}) + "\n" for q, a in chosen)
        (here / "d" / f"{name}.json").write_text(lines)
    assert data.main(["d"]) == 0
    text = capsys.readouterr().out
    assert "duplicates 1 of train, 0 of dev" in text
    assert "2 records of dev are in train; 1 more have a question of train" in text


def test_a_conversion_means_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": text} for role, text in turns]
    entries = [{"messages": messages}, *({"src": f"q{n}", "tgt": "é"} for n in range(9))]
    (here / "d.json").write_text(json.dumps(entries))
    assert data.main(["d.json", "--convert", "out", "--set", "dev_ratio=0.3"]) == 0
    assert capsys.readouterr().out == "out\n"
    source = Dataset((Source(Path("d.json")),), (), 0.3)
    for split in ("train", "dev"):
        pairs = zip(records.read(source, split), records.read(Path("out"), split), strict=True)
        for one, other in pairs:
            assert (one.src, one.tgt) == (other.src, other.tgt)
            assert one.system == other.context.get("system")
    assert records.check(Path("out"), upstream=True) == records.Counts(7, 3)
    assert json.loads((here / "out" / "train.json").read_text().splitlines()[-1])["tgt"] == "é"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["tickets.csv"], ["--set data_columns=question:answer", "tickets.csv:2"]),
        (["tickets"], ["does not exist", 'did you mean "tickets.csv"?']),
        (["tickets.csv", "--set", "data_columns=question"], ["two or three different names"]),
        (["tickets.csv", "--set", "data_colums=a:b"], ['did you mean "data_columns"?']),
        (["tickets.csv", *COLUMNS, "--set", "dev_ratio=1"], ["dev_ratio"]),
        (["tickets.csv", *COLUMNS, "--set", "dev_ratio=0"], ["without records for dev"]),
        (["tickets.csv", *COLUMNS, "--samples", "-1"], ["--samples must be at least 0"]),
        (["tickets.csv", *COLUMNS, "--model", "gone"], ['no model "gone"']),
        (
            ["tickets.csv", *COLUMNS, "--convert", "."],
            ["the output folder would replace the input"],
        ),
        (["tickets.csv", *COLUMNS, "--convert", "there"], ["--force replaces it"]),
        (["tickets.csv", "--sampels", "3"], ["no option --sampels", "--samples"]),
        (["1 tickets.csv 2", *COLUMNS], ["expected weights and paths in turn"]),
        (["."], ["tickets.csv:2"]),
        (["empty"], ["has no train.json"]),
    ],
)
def test_bad_requests(here: Path, argv: list[str], words: list[str]) -> None:
    (here / "there").mkdir()
    (here / "empty").mkdir()
    with pytest.raises(RequestError) as caught:
        data.main(argv)
    assert caught.value.status == 2
    for word in words:
        assert word in render(caught.value)


def test_an_existing_folder_is_replaced_only_by_force(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "old").write_text("x")
    assert data.main(["tickets.csv", *COLUMNS, "--convert", "out", "--force"]) == 0
    assert sorted(path.name for path in (here / "out").iterdir()) == ["dev.json", "train.json"]
