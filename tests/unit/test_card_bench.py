"""The benchmark of cards: its parts, its report, and what it makes of logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks import launch, recipes, verify
from paddle_stacks.card_bench import collectives, parts, report
from paddle_stacks.card_bench.parts import Options, Part, run
from paddle_stacks.errors import JobError, RequestError
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
# The last line of upstream's benchmark (llm/predict/predictor.py).
SPEED = (
    "Input length is: 3072, Output length is: 1024, bs is: 1, IPS: 21.504 tokens/s, "
    "QPS: 0.021 requests/s. "
)


def settings(workspace: Path, backend: str) -> Settings:
    return Settings(root=ROOT, workspace=workspace, backend=backend, host_root=workspace)


def test_a_part_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(of: Settings, options: Options) -> Part:
        raise JobError("no card answers", remedy="x")

    def measure(of: Settings, options: Options) -> Part:
        return Part("training", "measured", rows=((str(options.steps),),))

    monkeypatch.setattr(parts, "PARTS", {"collectives": fail, "training": measure})
    first, second = run(settings(tmp_path, "cpu"), Options(steps=7))
    assert (first.name, first.state, first.message) == (
        "collectives",
        "failed",
        "no card answers; x",
    )
    assert (second.state, second.rows) == ("measured", (("7",),))
    assert report.status_of([first, second]) == 5 and report.status_of([second]) == 0


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        run(settings(tmp_path, "cpu"), Options(names=("trainin",)))
    assert 'did you mean "training"?' in caught.value.problems[0].remedy


@pytest.mark.parametrize(
    ("log", "speeds"),
    [
        (f"***Start Speed Test***\n{SPEED}\n", ("21.504", "0.021")),
        ("Input length is: 3072\nIPS: 21.504 tokens/s, QPS: 0.021 requests/s", ("", "")),
        ("***Start Warmup***\nKilled\n", ("", "")),
    ],
)
def test_the_speed_in_a_log_of_upstreams_benchmark(log: str, speeds: tuple[str, str]) -> None:
    assert parts.speed_of(log) == speeds


def test_the_instructions_benchmarks_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def job(name: str, words: Sequence[str], of: Settings, choices: launch.Choices) -> int:
        seen.append((choices.recipe, choices.cards))
        folder = tmp_path / "runs" / choices.recipe
        folder.mkdir(parents=True)
        (folder / "run.log").write_text("" if "infer-7b" in choices.recipe else f"{SPEED}\n")
        if "a8w8" in choices.recipe:
            raise JobError("out of memory", remedy="x")
        return 0

    monkeypatch.setattr(launch, "launch", job)
    (part,) = run(settings(tmp_path, "dcu"), Options(cards=(4, 5), names=("inference",)))
    known = [name for name in recipes.load(ROOT, "dcu") if name.endswith("-benchmark")]
    assert seen == [(name, (4,)) for name in known], "on one card"
    rows = {row[0]: row[1:] for row in part.rows}
    assert rows["infer-block-fp16-benchmark"] == ("21.504", "0.021", "")
    assert rows["infer-7b-benchmark"] == ("", "", "no line with its speed in the log")
    assert rows["infer-block-a8w8-benchmark"] == ("", "", "out of memory; x")
    assert part.state == "failed"


def test_a_cpu_skips_what_would_take_hours(tmp_path: Path) -> None:
    (part,) = run(settings(tmp_path, "cpu"), Options(names=("inference",)))
    assert part.state == "skipped" and "bench/infer.py" in part.message


def test_the_steps_of_a_training_are_summarized_without_the_first() -> None:
    speeds = [1.0, 1.0, 1.0, 1.0, 1.0, 90.0, 100.0, 110.0]
    entries: list[dict[str, Any]] = [
        {"step": n, "loss": 3.0 - n / 4, "tokens_per_second": speed, "memory_mib": 100 + n}
        for n, speed in enumerate(speeds)
    ]
    part = parts._of_metrics([*entries, {"step": 8, "eval_loss": 1.0}], "m")
    assert part.rows == (("LoRA on m", "8", "100", "107", "3.000 → 1.250"),)
    with pytest.raises(JobError, match="logged no step"):
        parts._of_metrics([], "m")


def test_the_command_of_the_collectives(tmp_path: Path) -> None:
    for backend, device, expected in (
        ("dcu", "gpu", ["--devices", "0,1,2,3", "/opt/collectives.py", str(2**28)]),
        ("cpu", "cpu", ["--nproc_per_node", "4", "/opt/collectives.py", str(2**20)]),
    ):
        of = settings(tmp_path, backend)
        plan = launch.make_plan("infer", ["--model", "m", "--prompt", "x"], of)
        plan = replace(plan, image=f"paddle-stacks/train:{backend}")
        line = parts.collectives_command(plan, 4, device)
        assert line[:2] == ["docker", "run"] and line[-4:] == expected
        image = line.index(plan.image)
        assert line[image + 1 : image + 3] == ["-m", "paddle.distributed.launch"]
        assert line[line.index("--entrypoint") + 1] == "python"
        mount = f"type=bind,source={collectives.__file__},target=/opt/collectives.py,readonly"
        assert mount in line and "--read-only" in line
        assert ("--device" in line) is (backend == "dcu")


def test_the_report_begins_with_the_measurements() -> None:
    outcome = verify.Outcome("tests/images/x.py::test_y", "failed", "0.5 is not 0.25", "ops")
    results = [
        Part("operators", "failed", 12.3, ("tests",), (("1 failed",),), outcomes=(outcome,)),
        Part("collectives", "skipped", message="it needs two cards or more"),
    ]
    document = {
        "backend": "dcu",
        "when": "2026-11-30T12:00:00Z",
        "result": "1 failed",
        "verified": False,
        "images": [{"name": "paddle-stacks/train:dcu", "id": "sha256:abc", "labels": {}}],
        "doctor": {"findings": [{"severity": "ok", "check": "driver", "saw": "hydcu 6.2.17a"}]},
        "tests": [vars(outcome)],
        "parts": [vars(part) for part in results],
    }
    text = report.as_markdown(document)
    order = [
        "# Benchmark of dcu, 2026-11-30T12:00:00Z",
        "## operators: failed, 12 s",
        "| 1 failed |",
        "## collectives: skipped, 0 s",
        "it needs two cards or more",
        "## Images",
        "| paddle-stacks/train:dcu | abc |",
        "* ok: driver: hydcu 6.2.17a",
        "* `tests/images/x.py::test_y`: 0.5 is not 0.25",
    ]
    positions = [text.index(part) for part in order]
    assert positions == sorted(positions)
    assert "Verification" not in text
