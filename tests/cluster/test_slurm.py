"""Jobs on a real Slurm: submitted, seen, followed, lost with their node, preempted, ended."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from slurm_cluster import HERE, ROOT, SlurmCluster, wait_for

from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.executors import cluster
from paddle_stacks.executors.slurm import Slurm
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Device, backend, make
from paddle_stacks.settings import Settings

DCU = backend.load("dcu", ROOT)


def order(
    slurm: SlurmCluster, workspace: Path, argv: Sequence[str], nodes: int = 2
) -> cluster.Order:
    """Return a job that runs a command in the image."""
    platform = backend.load("cpu", ROOT)
    settings = Settings(root=ROOT, workspace=workspace)
    user = f"{slurm.uid}:{slurm.gid}"
    plan = make(JOBS["pretrain"], ["x"], settings, platform, user=user, suffix="x")
    plan = dataclasses.replace(plan, argv=tuple(argv))
    return cluster.Order(plan, platform, nodes, 1, Path("runs/steps"))


def submit(
    slurm: SlurmCluster, workspace: Path, steps: int, *options: str
) -> tuple[Slurm, cluster.Submitted]:
    """Submit a job that takes a number of steps, of a fifth of a second each."""
    shutil.copy(HERE / "steps.py", workspace)
    scheduler = Slurm(workspace, options=options)
    return scheduler, scheduler.submit(order(slurm, workspace, ["python", "steps.py", str(steps)]))


@pytest.fixture(autouse=True)
def _any_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle_stacks.plan.cluster._SHARED", {"python", "true"})


def state(scheduler: Slurm, made: cluster.Submitted) -> str:
    return scheduler.status([made])[0].state


def step(workspace: Path) -> int:
    kept = workspace / "runs" / "steps" / "step"
    return int(kept.read_text()) if kept.is_file() else 0


def ended(scheduler: Slurm, made: cluster.Submitted) -> cluster.Row:
    """Wait for a job's end and return how that was."""
    wait_for(lambda: scheduler.status([made])[0].ended, "the job has ended")
    return scheduler.status([made])[0]


def test_two_nodes_finish(
    slurm: SlurmCluster, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PADDLE_TRAINER_ID", "7"), ("PADDLE_MASTER", "nowhere:1")):
        monkeypatch.setenv(name, value)
    scheduler, made = submit(slurm, workspace, 10)
    lines = list(scheduler.logs(made, follow=True))
    (row,) = scheduler.status([made])
    assert (row.state, row.nodes, row.restarts) == ("completed", "n[1-2]", 0), lines
    for node in (0, 1):
        assert f"{node}: given: PADDLE_JOB_ID PADDLE_STACKS_BACKEND" in lines
        assert f"{node}: rank {node} of 2 begins after step 0" in lines or node
    own = list(scheduler.logs(made, 1))
    assert "rank 1 of 2 begins after step 0" in own and "done after step 10" in own
    with pytest.raises(RequestError, match=f"job {made.id} has ended: completed"):
        scheduler.cancel(made)


def test_a_job_whose_node_is_lost_goes_on(slurm: SlurmCluster, workspace: Path) -> None:
    scheduler, made = submit(slurm, workspace, 60)
    wait_for(lambda: step(workspace) >= 10, "ten steps")
    slurm.kill("n2")
    wait_for(lambda: state(scheduler, made) == "pending", "the job is in the queue again")
    reached = step(workspace)
    slurm.revive("n2")
    row = ended(scheduler, made)
    assert (row.state, row.restarts, step(workspace)) == ("completed", 1, 60)
    lines = list(scheduler.logs(made))
    assert 10 <= reached < 60 and f"0: rank 0 of 2 begins after step {reached}" in lines
    assert "0: done after step 60" in lines


def test_a_job_that_gives_way_goes_on(slurm: SlurmCluster, workspace: Path) -> None:
    scheduler, made = submit(slurm, workspace, 40)
    wait_for(lambda: step(workspace) >= 5, "five steps")
    first = order(slurm, workspace, ["true"])
    urgent = Slurm(workspace, options=("partition=urgent", "exclusive=user")).submit(first)
    assert ended(scheduler, urgent).state == "completed"
    row = ended(scheduler, made)
    assert (row.state, row.restarts, step(workspace)) == ("completed", 1, 40)
    lines = "\n".join(scheduler.logs(made, 0))
    # It was told, and left with what it had; nobody had to kill it.
    stopped = re.search(r"stopped after step (\d+)", lines)
    assert stopped and f"begins after step {stopped[1]}\n" in lines


def test_a_cancelled_job_saves_and_leaves(slurm: SlurmCluster, workspace: Path) -> None:
    scheduler, made = submit(slurm, workspace, 1000)
    wait_for(lambda: step(workspace) >= 5, "five steps")
    assert state(scheduler, made) == "running"
    scheduler.cancel(made)
    assert ended(scheduler, made).state == "cancelled"
    assert f"stopped after step {step(workspace)}" in list(scheduler.logs(made, 0))
    assert not slurm.containers("n1") and not slurm.containers("n2")


def test_a_job_that_waits_is_cancelled(slurm: SlurmCluster, workspace: Path) -> None:
    scheduler = Slurm(workspace, options=("begin=now+1hour",))
    made = scheduler.submit(order(slurm, workspace, ["true"]))
    (row,) = scheduler.status([made])
    assert (row.state, row.ended, row.why) == ("pending", False, "BeginTime")
    with pytest.raises(RequestError, match="has written nothing: it is pending"):
        list(scheduler.logs(made))
    scheduler.cancel(made)
    assert ended(scheduler, made).state == "cancelled"


def test_a_failed_jobs_status_is_known_for_good(slurm: SlurmCluster, workspace: Path) -> None:
    scheduler = Slurm(workspace)
    made = scheduler.submit(order(slurm, workspace, ["sh", "-c", "echo no; exit 5"], nodes=1))
    row = ended(scheduler, made)
    assert (row.state, row.why) == ("failed", "NonZeroExitCode")
    assert list(scheduler.logs(made))[-1] == "no"
    forgotten = dataclasses.replace(made, id=str(int(made.id) + 100))
    status = workspace / made.folder / f"slurm-{made.id}.status"
    status.rename(status.with_name(f"slurm-{forgotten.id}.status"))
    assert scheduler.status([forgotten, made])[0].why == "exit status 5"
    assert scheduler.status([dataclasses.replace(made, id="999999999")])[0].state == "unknown"


def test_jobs_get_the_cards_that_slurm_gives(slurm: SlurmCluster, workspace: Path) -> None:
    """A plan for DCUs, but for what a machine without them cannot give a container."""
    user = f"{slurm.uid}:{slurm.gid}"
    settings = Settings(root=ROOT, workspace=workspace, backend="dcu")
    plan = make(JOBS["pretrain"], ["x"], settings, DCU, user=user, suffix="x")
    plan = dataclasses.replace(
        plan,
        argv=("sh", "-c", "echo cards $HIP_VISIBLE_DEVICES; ls /dev/kfd; sleep 3"),
        image="paddle-stacks/train:cpu",
        devices=(Device("/dev/null", "/dev/kfd"),),
        mounts=tuple(m for m in plan.mounts if m.target == "/workspace"),
        ulimits={},
        shm_mib=64,
    )
    scheduler = Slurm(workspace, options=("nodelist=n1",))
    jobs = [
        scheduler.submit(cluster.Order(plan, DCU, 1, 1, Path("runs", name))) for name in ("a", "b")
    ]
    for made in jobs:
        assert ended(scheduler, made).state == "completed", list(scheduler.logs(made))
    said = sorted(line for made in jobs for line in scheduler.logs(made) if "cards" in line)
    assert said == ["cards 0", "cards 1"], "at the same time, each another"
    plan = dataclasses.replace(plan, ranks=3)
    with pytest.raises(RequestError, match="node configuration is not available"):
        scheduler.submit(cluster.Order(plan, DCU, 1, 1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("partition=nope",), "invalid partition specified: nope"),
        (("time=soon",), "Invalid --time specification"),
        (("no-such-option=1",), "unrecognized option"),
        (("nodelist=n7",), "Invalid node name specified"),
    ],
)
def test_what_slurm_refuses(
    slurm: SlurmCluster, workspace: Path, options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        Slurm(workspace, options=options).submit(order(slurm, workspace, ["true"]))
    assert said in str(caught.value) and caught.value.status == 2


def test_a_controller_that_is_away(
    slurm: SlurmCluster, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/away.conf")
    with pytest.raises(MachineError) as caught:
        Slurm(workspace).submit(order(slurm, workspace, ["true"]))
    assert "does not answer sbatch" in str(caught.value)
    assert "Unable to contact slurm controller" in str(caught.value)
    assert caught.value.status == 3
