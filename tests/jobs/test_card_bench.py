"""The benchmark of cards on a CPU: communication and training steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paddle_stacks import engine, images
from paddle_stacks.card_bench import report
from paddle_stacks.card_bench.parts import Options, run
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(workspace: Path) -> Settings:
    """A workspace whose model has the name of the benchmark's, and two layers."""
    shutil.copytree(workspace / "models" / "tiny", workspace / "models" / "smollm2-135m-instruct")
    shutil.copytree(ROOT / "data" / "demo", workspace / "data" / "demo")
    shutil.copytree(ROOT / "configs" / "jobs", workspace / "configs" / "jobs")
    return Settings(root=ROOT, workspace=workspace, backend="cpu")


def test_two_processes_are_measured(settings: Settings) -> None:
    (part,) = run(settings, Options(names=("collectives",)))
    assert part.state == "measured", part.message
    assert part.headings[0] == "all-reduce of 2 processes, bytes"
    assert [row[0] for row in part.rows] == ["1,024", "65,536", "1,048,576"]
    assert all(float(row[1]) > 0 and float(row[2]) >= 0 for row in part.rows)


def test_steps_are_trained_and_reported(settings: Settings) -> None:
    (part,) = run(settings, Options(steps=7, names=("training",)))
    assert part.state == "measured", part.message
    name, steps, speed, memory, _ = part.rows[0]
    assert (name, steps) == ("LoRA on smollm2-135m-instruct", "7")
    assert float(speed) > 0 and int(memory) > 0
    built = images.inspect_all(engine.connect(), "cpu")
    text = report.as_markdown(report.document([part], built, settings))
    assert f"| {name} | 7 | {speed} |" in text and "paddle-stacks/train:cpu" in text


def test_a_training_that_is_refused_is_a_failed_part(settings: Settings) -> None:
    shutil.rmtree(settings.workspace / "data" / "demo")
    (part,) = run(settings, Options(names=("training",)))
    assert part.state == "failed" and "data/demo" in part.message, part.message
    assert report.status_of([part]) == 5
