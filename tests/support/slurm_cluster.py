"""Start and stop the machines of a Slurm cluster, and run commands on them.

The nodes use this machine's engine for the jobs' containers, with a client that puts a container
into its node's network (``docker`` in this folder). Everything except the machines is real:
Debian's Slurm, munge, Docker's client and engine, the images.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from paddle_stacks import settings
from tests.support import own_image

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "cluster"
IMAGE = "paddle-stacks-test/slurm"
SOCKET = Path("/var/run/docker.sock")
NODES = ("n1", "n2")
CONTROLLER = "ctl"
PATIENCE = 150  # seconds

# Jobs of other clusters on this machine's engine have other numbers.
FIRST_JOB = int.from_bytes(os.urandom(2), "big") * 1000 + 1
# A node is missed after ten seconds rather than five minutes, a job comes back from the
# queue after five rather than two minutes. Nothing else is there for the tests.
SLURM_CONF = f"""
ClusterName=test
FirstJobId={FIRST_JOB}
SlurmctldHost={CONTROLLER}
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmdTimeout=10
KillWait=20
ReturnToService=2
MailProg=/bin/true
SchedulerParameters=sched_interval=2,bf_interval=2
GresTypes=dcu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
CommunicationParameters=NoAddrCache
SlurmdParameters=config_overrides
NodeName=n[1-2] CPUs=2 Gres=dcu:2 State=UNKNOWN
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE PriorityTier=2
"""
# Any device will do that all nodes have: what is tested is which of them Slurm gives.
GRES_CONF = """
NodeName=n[1-2] Name=dcu File=/dev/null
NodeName=n[1-2] Name=dcu File=/dev/zero
"""
# The submitter's variables go along, as they do where sbatch is on the machine itself.
PROGRAM = """#!/bin/sh
names=$(env | sed -n 's/^\\(PADDLE_[A-Z_]*\\|SLURM_CONF\\)=.*/--env \\1/p')
exec docker exec --interactive --user user $names {controller} {name} "$@"
"""


class SlurmCluster:
    """The machines.

    Args:
        folder: their shared folder for configuration and workspaces.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"paddle-stacks-test-{uuid.uuid4().hex[:8]}"
        # Not root: users of a cluster rarely are root.
        self.uid, self.gid = (os.getuid(), os.getgid()) if os.getuid() else (1234, 1235)
        self.path = f"{folder / 'bin'}:{os.environ['PATH']}"

    def start(self) -> None:
        """Build the image, start the machines, and wait until the nodes are up."""
        client = shutil.which("docker")
        assert client, "the docker command is not installed"
        own_image.build(HERE / "Dockerfile", IMAGE)
        self.folder.chmod(0o755)
        etc = self.folder / "etc"
        etc.mkdir()
        (etc / "slurm.conf").write_text(SLURM_CONF)
        # An address without a server.
        (etc / "away.conf").write_text(f"{SLURM_CONF}SlurmctldPort=9\n")
        (etc / "gres.conf").write_text(GRES_CONF)
        (etc / "prefix").write_text(self.prefix)
        programs = self.folder / "bin"
        programs.mkdir()
        for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
            text = PROGRAM.format(controller=self.machine(CONTROLLER), name=name)
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        call(["docker", "network", "create", self.prefix])
        for name in (CONTROLLER, *NODES):
            self._run(name, client)
        self.wait_until_idle()

    def _run(self, name: str, client: str) -> None:
        volumes = [
            f"{self.folder / 'etc'}:/etc/slurm:ro",
            f"{self.folder}:{self.folder}",
            f"{HERE / 'start'}:/srv/start:ro",
            f"{SOCKET}:{SOCKET}",
            f"{Path(client).resolve()}:/usr/local/libexec/docker:ro",
            f"{HERE / 'docker'}:/usr/local/bin/docker:ro",
        ]
        kind = "controller" if name == CONTROLLER else "node"
        group = SOCKET.stat().st_gid
        call(
            ["docker", "run", "--detach", "--name", self.machine(name), "--hostname", name]
            + ["--network", self.prefix, "--network-alias", name]
            + [word for volume in volumes for word in ("--volume", volume)]
            + ["--entrypoint", "/usr/bin/tini", IMAGE, "--", "/srv/start", kind]
            + [str(self.uid), str(self.gid), str(group)]
        )

    def machine(self, name: str) -> str:
        """Return the container of a machine."""
        return f"{self.prefix}-{name}"

    def make_workspace(self, name: str, of: Path) -> Path:
        """Return a copy of a folder that all machines share, of the user who submits."""
        workspace = self.folder / name.replace("[", "-").replace("]", "")
        shutil.copytree(of, workspace)
        if os.getuid() == 0:
            for path in (workspace, *workspace.rglob("*")):
                os.chown(path, self.uid, self.gid)
        return workspace

    def ask(self, *command: str) -> str:
        """Run a command as root on the controller, and return its output."""
        return call(["docker", "exec", self.machine(CONTROLLER), *command])

    def states(self) -> dict[str, str]:
        """Return the state of every node; empty while the controller is down."""
        try:
            printed = self.ask(
                "sinfo", "--noheader", "--Node", "--format=%N %T", "--partition=main"
            )
        except AssertionError:
            return {}
        return dict(line.split() for line in printed.splitlines())

    def wait_until_idle(self) -> None:
        """Wait until all nodes are up and idle."""
        wait_for(lambda: self.states() == dict.fromkeys(NODES, "idle"), "all nodes are idle")

    def kill(self, name: str, *, heard: bool = False) -> None:
        """Kill a node and everything on it.

        Args:
            name: the node.
            heard: whether connections are closed, as when a machine restarts; after a power loss
                they are not.
        """
        machine, jobs = self.machine(name), self.containers(name)
        call(["docker", "kill", *([*jobs, machine] if heard else [machine, *jobs])])

    def containers(self, name: str) -> list[str]:
        """Return the jobs' containers on a node."""
        command = ["docker", "ps", "--quiet", "--filter", f"label={self.machine(name)}"]
        return call(command).split()

    def revive(self, name: str) -> None:
        """Start a node again."""
        call(["docker", "start", self.machine(name)])

    def end_all_jobs(self) -> None:
        """End the jobs that a test has left."""
        self.ask("scancel", "--user=user")

    def close(self) -> None:
        """Remove the machines and the jobs' containers on them."""
        names = [self.machine(name) for name in (CONTROLLER, *NODES)]
        inside = [id for name in NODES for id in self.containers(name)]
        run(["docker", "rm", "--force", *names, *inside])
        run(["docker", "network", "rm", self.prefix])


def image(name: str) -> str:
    """Return one of the project's images, as a job on a CPU names it."""
    registry = settings.load(ROOT).registry
    return f"{registry}/paddle-stacks/{name}:cpu" if registry else f"paddle-stacks/{name}:cpu"


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def call(command: list[str]) -> str:
    done = run(command)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return done.stdout


def wait_for(condition: Callable[[], bool], event: str, seconds: float = PATIENCE) -> None:
    """Wait until a condition is true; fail after a timeout."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {event}"
        time.sleep(0.2)
