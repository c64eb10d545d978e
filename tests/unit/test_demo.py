"""What the demo does, and how it judges answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from paddle_stacks import demo
from paddle_stacks.demo import Answer, _print_answers, exact_match, normalized
from paddle_stacks.errors import JobError, RequestError
from paddle_stacks.settings import Settings


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Blue.", "blue"),
        ("  Blue \n", "blue"),
        ("It is\n  blue", "it is blue"),
        ("蓝色。", "蓝色"),
        ("蓝色", "蓝色"),
        ("Straße", "strasse"),
        ("3.5", "3.5"),
        ("blue .", "blue"),
        ("", ""),
        ("blue..", "blue."),
        ("blue!", "blue!"),
    ],
)
def test_normalized(text: str, same: str) -> None:
    assert normalized(text) == same


def test_exact_match_is_the_share_of_right_answers() -> None:
    pairs = [("Blue.", "blue"), ("Red.", "It is red."), ("三年。", "三年"), ("4", "5")]
    assert exact_match(pairs) == 0.5
    assert exact_match(pairs[:1]) == 1.0
    assert exact_match(pairs[3:]) == 0.0


def test_exact_match_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        exact_match([])


def test_the_answers_are_printed_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    _print_answers([Answer("Which colour?", "Blue.", "I do not\nknow " + "x" * 300, "blue")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Q        Which colour?", "expected Blue."]
    assert lines[2].startswith("before   ✗ I do not know xxx") and lines[2].endswith("…")
    assert lines[3] == "after    ✓ blue"


class Jobs:
    """Stands in for the jobs: writes what they would, and remembers what was asked for."""

    def __init__(self, root: Path, right: int) -> None:
        self.root = root
        self.right = right
        self.calls: list[tuple[str, ...]] = []
        self.status: dict[str, int] = {}

    def __call__(self, job: str, arguments: Sequence[str], settings: Settings) -> int:
        self.calls.append((job, *arguments))
        if job in self.status:
            return self.status[job]
        folder = self.root / "runs" / "demo"
        if job == "finetune":
            result = {"first_loss": 4.5, "last_loss": 0.25}
            (folder / "result.json").write_text(json.dumps(result))
        if job == "infer":
            options = dict(zip(arguments[::2], arguments[1::2], strict=False))
            asked = (self.root / options["--input"]).read_text().splitlines()
            knows = self.right if "--adapter" in options else 0
            lines = [
                {"id": entry["id"], "text": f"Answer {i}." if i < knows else "I do not know."}
                for i, entry in enumerate(map(json.loads, asked))
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (self.root / options["--output"]).write_text(text)
        return 0


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A repository with ten questions, where the engine and the images are there."""
    folder = tmp_path / "data" / "demo"
    folder.mkdir(parents=True)
    lines = [
        {"id": f"q{i}", "prompt": f"Question {i}?", "answer": f"answer {i}"} for i in range(10)
    ]
    (folder / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(demo, "_find_engine", lambda: None)
    monkeypatch.setattr(demo, "_find_images", lambda settings: None)
    return Settings(root=tmp_path, workspace=tmp_path)


def play(settings: Settings, monkeypatch: pytest.MonkeyPatch, right: int) -> Jobs:
    jobs = Jobs(settings.root, right)
    monkeypatch.setattr(demo.launch, "launch", jobs)
    return jobs


def test_the_demo_leaves_a_summary(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = play(settings, monkeypatch, right=9)
    demo.run(settings)
    assert [call[0] for call in jobs.calls] == ["fetch", "infer", "finetune", "infer"]
    summary = json.loads((settings.root / "runs/demo/summary.json").read_text())
    assert summary["loss"] == {"first": 4.5, "last": 0.25}
    assert summary["exact_match"] == {"before": 0.0, "after": 0.9, "questions": 10}
    assert list(summary["seconds"]) == [
        *("engine", "images", "fetch", "ask_before", "finetune", "ask_after")
    ]
    shown = capsys.readouterr()
    assert "right answers  0 of 10 before, 9 of 10 after" in shown.out
    assert "after    ✓ Answer 0." in shown.out
    assert "[5/6]" in shown.err


def test_the_answers_are_not_shown_to_the_model(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(settings, monkeypatch, right=10)
    demo.run(settings)
    asked = (settings.root / "runs/demo/questions.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in asked] == [{"id", "prompt"}] * 10


def test_the_demo_fails_if_too_little_was_learnt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(settings, monkeypatch, right=7)
    with pytest.raises(JobError, match="70% of the questions; the goal is 80%") as caught:
        demo.run(settings)
    assert caught.value.status == 5
    summary = json.loads((settings.root / "runs/demo/summary.json").read_text())
    assert summary["exact_match"]["after"] == 0.7


@pytest.mark.parametrize(("job", "status"), [("fetch", 2), ("finetune", 5), ("infer", 3)])
def test_the_demo_ends_with_the_status_of_what_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, job: str, status: int
) -> None:
    jobs = play(settings, monkeypatch, right=10)
    jobs.status[job] = status
    with pytest.raises(JobError, match=f"{job} ended with status {status}") as caught:
        demo.run(settings)
    assert caught.value.status == status
    assert not (settings.root / "runs/demo/summary.json").exists()


def test_the_demo_can_be_run_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(settings, monkeypatch, right=9)
    demo.run(settings)
    jobs = play(settings, monkeypatch, right=10)
    demo.run(settings)
    assert "replacing the results" in capsys.readouterr().err
    assert jobs.calls[2][-2:] == ("--resume", "never")
    summary = json.loads((settings.root / "runs/demo/summary.json").read_text())
    assert summary["exact_match"]["after"] == 1.0


def test_missing_questions_are_told(settings: Settings) -> None:
    (settings.root / "data/demo/heldout.jsonl").unlink()
    with pytest.raises(RequestError, match="questions are missing"):
        demo.run(settings)
