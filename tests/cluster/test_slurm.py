"""Jobs on a real Slurm: submitted, seen, followed, lost with their node, preempted, ended."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.executors import cluster
from paddle_stacks.executors.slurm import Slurm
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Device, backend, make
from paddle_stacks.settings import Settings
from tests.support.slurm_cluster import ROOT, SlurmCluster, wait_for

DCU = backend.load("dcu", ROOT)
STEPS = 40
CONFIG: dict[str, Any] = {
    "model_name_or_path": "models/plain",
    "input_dir": "data/corpus",
    "split": "90,5,5",
    "max_seq_length": 64,
    "per_device_train_batch_size": 1,
    "max_steps": STEPS,
    "save_steps": 5,
    "save_total_limit": 2,
    "logging_steps": 1,
    "learning_rate": 0.001,
    "do_train": True,
}


class Commands:
    """The project's tasks in a workspace, on a machine that has Slurm's programs."""

    def __init__(self, machines: SlurmCluster, workspace: Path) -> None:
        self._environment = {"PADDLE_STACKS_WORKSPACE": str(workspace), "PATH": machines.path}
        self.workspace = workspace
        (workspace / "my.json").write_text(json.dumps(CONFIG))

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a task."""
        return subprocess.run(
            [sys.executable, "-m", "paddle_stacks.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, **self._environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def pretrain(self, **environment: str) -> str:
        """Submit a training on two nodes and return its number."""
        done = self(*PRETRAIN, "--nodes", "2", "--engine", "slurm", **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


PRETRAIN = ("cluster.submit", "pretrain", "--config", "my.json", "--name", "try")


@pytest.fixture
def inv(slurm: SlurmCluster, workspace: Path) -> Commands:
    return Commands(slurm, workspace)


def losses(workspace: Path) -> dict[int, float]:
    """Return the loss of every step so far; that of one taken twice is the later one."""
    path = workspace / "runs" / "try" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def reached(workspace: Path, step: int) -> None:
    wait_for(lambda: step in losses(workspace), f"step {step}")


def find(workspace: Path, id: str) -> tuple[Slurm, cluster.SubmittedJob]:
    return Slurm(workspace), cluster.find(id, workspace)


def state(workspace: Path, id: str) -> str:
    scheduler, made = find(workspace, id)
    return scheduler.status([made])[0].state


def end(scheduler: Slurm, made: cluster.SubmittedJob) -> cluster.JobStatus:
    """Wait for a job's end and return how that was."""
    wait_for(lambda: scheduler.status([made])[0].ended, "the job has ended")
    return scheduler.status([made])[0]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A training on two nodes that nothing happened to."""

    inv: Commands
    id: str
    followed: str
    losses: dict[int, float]


@pytest.fixture(scope="session")
def finished(machines: SlurmCluster, corpus: Path) -> Finished:
    inv = Commands(machines, machines.make_workspace("undisturbed", corpus))
    # What a submitter's shell may hold, and Paddle's launcher prefers to what it is told.
    leaks = {"PADDLE_TRAINER_ID": "7", "PADDLE_MASTER": "nowhere:1", "PADDLE_NNODES": "9"}
    id = inv.pretrain(**leaks)
    done = inv("cluster.logs", id, "--follow")
    assert done.returncode == 0, done.stderr
    return Finished(inv, id, done.stdout, losses(inv.workspace))


def test_two_nodes_train_together(finished: Finished) -> None:
    inv, id = finished.inv, finished.id
    last = re.search(rf"^0: step {STEPS}/{STEPS}  loss ", finished.followed, re.MULTILINE)
    assert last, finished.followed
    (row,) = json.loads(inv("cluster.status", "--json").stdout)
    assert (row["id"], row["state"], row["nodes"]) == (id, "completed", "n[1-2]")
    assert (inv.workspace / "runs" / "try" / "result.json").is_file()
    assert sorted(finished.losses) == list(range(1, STEPS + 1))
    for rank in ("0", "1"):
        own = inv("cluster.logs", id, "--rank", rank)
        assert own.returncode == 0 and own.stdout, own.stderr
    late = inv("cluster.cancel", id)
    assert late.returncode == 2 and f"job {id} has already ended: completed" in late.stderr


def test_a_job_whose_node_is_lost_goes_on(
    slurm: SlurmCluster, inv: Commands, workspace: Path, finished: Finished
) -> None:
    id = inv.pretrain()
    reached(workspace, 7)
    slurm.kill("n2")
    wait_for(lambda: state(workspace, id) == "pending", "the job is in the queue again")
    assert not slurm.containers("n1"), "what the other node had of it has ended too"
    slurm.revive("n2")
    scheduler, made = find(workspace, id)
    row = end(scheduler, made)
    lines = list(scheduler.logs(made))
    assert (row.state, row.restarts) == ("completed", 1), lines
    assert any("resuming from runs/try/checkpoint-" in line for line in lines)
    assert losses(workspace) == finished.losses


def test_a_job_whose_node_is_soon_back_goes_on(
    slurm: SlurmCluster, inv: Commands, workspace: Path, finished: Finished
) -> None:
    id = inv.pretrain()
    reached(workspace, 7)
    # The other node's process fails at once, and Slurm has not missed the node yet.
    slurm.kill("n2", heard=True)
    slurm.revive("n2")
    scheduler, made = find(workspace, id)
    row = end(scheduler, made)
    lines = list(scheduler.logs(made))
    assert (row.state, row.restarts) == ("completed", 1), lines
    assert losses(workspace) == finished.losses


def test_a_job_that_gives_way_goes_on(
    slurm: SlurmCluster, inv: Commands, workspace: Path, finished: Finished
) -> None:
    id = inv.pretrain()
    reached(workspace, 7)
    first = Slurm(workspace, options=("partition=urgent", "exclusive"))
    assert end(first, first.submit(order(slurm, workspace, ["true"]))).state == "completed"
    scheduler, made = find(workspace, id)
    row = end(scheduler, made)
    lines = "\n".join(scheduler.logs(made))
    assert (row.state, row.restarts) == ("completed", 1), lines
    # It was told, saved what it had, and left: nobody had to kill it.
    stopped = re.search(r"stopped after step (\d+), which is saved", lines)
    assert stopped and f"resuming from runs/try/checkpoint-{stopped[1]}, " in lines
    assert losses(workspace) == finished.losses


def test_a_cancelled_job_saves_and_leaves(
    slurm: SlurmCluster, inv: Commands, workspace: Path
) -> None:
    # Long enough to be under way still when it is cancelled, on a quiet machine too.
    (workspace / "my.json").write_text(json.dumps(CONFIG | {"max_steps": 100 * STEPS}))
    id = inv.pretrain()
    reached(workspace, 7)
    assert state(workspace, id) == "running"
    other = inv(*PRETRAIN, "--engine", "slurm")
    assert other.returncode == 2 and f"job {id} of this run is running" in other.stderr
    assert inv("cluster.cancel", id).returncode == 0
    scheduler, made = find(workspace, id)
    assert end(scheduler, made).state == "cancelled"
    lines = "\n".join(scheduler.logs(made))
    stopped = re.search(r"stopped after step (\d+), which is saved", lines)
    assert stopped, lines
    assert (workspace / "runs" / "try" / f"checkpoint-{stopped[1]}").is_dir()
    assert not slurm.containers("n1") and not slurm.containers("n2")


# ------------------------------------------------------------------------ any command


def order(slurm: SlurmCluster, workspace: Path, argv: Sequence[str]) -> cluster.JobSpec:
    """Return a job that runs a command in the image, on one node."""
    platform = backend.load("cpu", ROOT)
    settings = Settings(root=ROOT, workspace=workspace)
    user = f"{slurm.uid}:{slurm.gid}"
    plan = make(JOBS["pretrain"], ["x"], settings, platform, user=user, suffix="x")
    return cluster.JobSpec(dataclasses.replace(plan, argv=tuple(argv)), platform, 1, 1)


def test_a_job_that_waits_is_cancelled(slurm: SlurmCluster, workspace: Path) -> None:
    scheduler = Slurm(workspace, options=("begin=now+1hour",))
    made = scheduler.submit(order(slurm, workspace, ["true"]))
    (row,) = scheduler.status([made])
    assert (row.state, row.ended, row.why) == ("pending", False, "BeginTime")
    with pytest.raises(RequestError, match="has no output; its state is pending"):
        list(scheduler.logs(made))
    scheduler.cancel(made)
    assert end(scheduler, made).state == "cancelled"


def test_a_failed_jobs_status_is_known_for_good(slurm: SlurmCluster, workspace: Path) -> None:
    scheduler = Slurm(workspace)
    made = scheduler.submit(order(slurm, workspace, ["sh", "-c", "echo no; exit 5"]))
    row = end(scheduler, made)
    assert (row.state, row.why) == ("failed", "NonZeroExitCode")
    assert list(scheduler.logs(made))[-1] == "no"
    # As Slurm forgets a job, minutes after its end.
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
        mounts=tuple(m for m in plan.mounts if m.target.startswith("/workspace")),
        ulimits={},
        shm_mib=64,
    )
    scheduler = Slurm(workspace, options=("nodelist=n1",))
    jobs = [
        scheduler.submit(cluster.JobSpec(plan, DCU, 1, 1, Path("runs", name)))
        for name in ("a", "b")
    ]
    for made in jobs:
        assert end(scheduler, made).state == "completed", list(scheduler.logs(made))
    said = sorted(line for made in jobs for line in scheduler.logs(made) if "cards" in line)
    assert said == ["cards 0", "cards 1"], "at the same time, each another"
    plan = dataclasses.replace(plan, ranks=3)
    with pytest.raises(RequestError, match="node configuration is not available"):
        scheduler.submit(cluster.JobSpec(plan, DCU, 1, 1))


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
    assert "sbatch cannot reach Slurm" in str(caught.value)
    assert "Unable to contact slurm controller" in str(caught.value)
