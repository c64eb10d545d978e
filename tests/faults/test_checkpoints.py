"""The newest checkpoint is damaged: it is skipped, and nothing that follows is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.completeness import NAME, left_over, losses, saved_step
from tests.support.completeness import run as complete
from tests.support.job_containers import KILLED, hurt, run, start
from tests.support.scenarios import SCENARIOS
from tests.support.training import cut_back


def newest_of(run: Path) -> Path:
    return run / "checkpoint-30"


def weights_of(checkpoint: Path) -> Path:
    return max(checkpoint.iterdir(), key=lambda path: path.stat().st_size)


def truncate(checkpoint: Path) -> str:
    path = weights_of(checkpoint)
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.truncate(size // 2)
    return f"{path.name} has {size // 2} bytes, expected {size}"


def flip_a_bit(checkpoint: Path) -> str:
    path = weights_of(checkpoint)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return f"{path.name} has changed since it was written"


def empty(checkpoint: Path) -> str:
    path = weights_of(checkpoint)
    size = path.stat().st_size
    path.write_bytes(b"")
    return f"{path.name} has 0 bytes, expected {size}"


def lose_a_file(checkpoint: Path) -> str:
    (checkpoint / "scheduler.pdparams").unlink()
    return "scheduler.pdparams is missing"


def lose_the_seal(checkpoint: Path) -> str:
    (checkpoint / "checkpoint.json").unlink()
    return "checkpoint.json is missing: writing did not finish"


def tear_the_seal(checkpoint: Path) -> str:
    seal = checkpoint / "checkpoint.json"
    seal.write_bytes(seal.read_bytes()[:-40])
    return "checkpoint.json cannot be read"


def lose_all(checkpoint: Path) -> str:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    return "checkpoint.json is missing: writing did not finish"


DAMAGES = [truncate, flip_a_bit, empty, lose_a_file, lose_the_seal, tear_the_seal, lose_all]


@pytest.fixture(scope="module", params=["finetune", "pretrain"])
def trained(
    request: pytest.FixtureRequest, fresh: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, ...], Path, dict[str, str]]:
    """A training's argv, a workspace as it was just before the training's end, and that end."""
    workspace = tmp_path_factory.mktemp("trained") / "workspace"
    shutil.copytree(fresh, workspace)
    argv = SCENARIOS[request.param].argv
    done = run(argv, workspace)
    assert done.status == 0, done.stderr
    whole = complete(workspace)
    cut_back(workspace / "runs" / NAME, 30)
    return argv, workspace, whole


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_one_is_passed_over(
    trained: tuple[tuple[str, ...], Path, dict[str, str]],
    damage: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    argv, start_from, whole = trained
    workspace = tmp_path / "workspace"
    shutil.copytree(start_from, workspace)
    fault = damage(newest_of(workspace / "runs" / NAME))
    done = run(argv, workspace)
    assert done.status == 0, done.stderr
    assert f"runs/{NAME}/checkpoint-30 is skipped: {fault}" in done.stderr
    assert f"resuming from runs/{NAME}/checkpoint-25, step 25" in done.stderr
    assert complete(workspace) == whole
    assert left_over(workspace) == []


def test_all_of_them_are_damaged(
    trained: tuple[tuple[str, ...], Path, dict[str, str]], tmp_path: Path
) -> None:
    argv, start_from, whole = trained
    workspace = tmp_path / "workspace"
    shutil.copytree(start_from, workspace)
    checkpoints = list((workspace / "runs" / NAME).glob("checkpoint-*"))
    for checkpoint in checkpoints:
        flip_a_bit(checkpoint)
    done = run(argv, workspace)
    assert done.status == 0, done.stderr
    assert done.stderr.count("is skipped") == len(checkpoints)
    assert "resuming" not in done.stderr
    assert complete(workspace) == whole


def test_a_damaged_one_does_not_count_as_one_that_is_kept(
    trained: tuple[tuple[str, ...], Path, dict[str, str]], tmp_path: Path
) -> None:
    """Where one checkpoint is kept, it is the one that was just saved, and not the damaged one."""
    argv, start_from, whole = trained
    workspace = tmp_path / "workspace"
    shutil.copytree(start_from, workspace)
    folder = workspace / "runs" / NAME
    for path in folder.glob("checkpoint-*"):
        if path != newest_of(folder):
            shutil.rmtree(path)
    truncate(newest_of(folder))
    line = [*argv, "--set", "save_total_limit=1"]
    running = start(line, workspace, hold_at="saved checkpoint-15")
    running.wait_for("saved checkpoint-15")
    hurt(running)
    assert running.wait().status == KILLED
    assert saved_step(workspace) >= 15
    done = run(line, workspace)
    assert done.status == 0, done.stderr
    assert "resuming from" in done.stderr
    assert {str(loss) for loss in losses(folder).values()} == {
        loss for name, loss in whole.items() if name.startswith("step ")
    }
