"""The Slurm executor with fakes of Slurm's programs: their arguments and output.

tests/cluster/ uses the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks.errors import MachineError, RequestError, StackError
from paddle_stacks.executors import cluster
from paddle_stacks.executors.slurm import Slurm
from paddle_stacks.plan import Device, Secret, backend
from paddle_stacks.plan.slurm import Container, as_slurm
from tests.unit.test_cluster import CPU, ROOT, spec_for
from tests.unit.test_run_profile import STAND_INS, host, of_docker_words, plan, run_slurm, words

DCU = backend.load("dcu", ROOT)
SIF = Container("apptainer", Path("/images/train.sif"))

__all__ = ["host"]  # the fixture


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Create fakes of Slurm's programs; return the folder that records their arguments."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    calls.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(**bodies: str) -> Path:
        for name, body in bodies.items():
            record = f'printf "%s\\n" "$@" >> "{calls}/{name}"; '
            record += f'[ "{name}" != sbatch ] || cat > "{calls}/script"\n'
            (folder / name).write_text(f"#!/bin/sh\n{record}{body}\n")
            (folder / name).chmod(0o755)
        return calls

    return make


def submitted(workspace: Path, run: str | None = "runs/try", id: str = "4711", **changes: Any):
    spec = spec_for(workspace, run, **changes)
    job = cluster.SubmittedJob.of(spec, "slurm", id)
    cluster.save(spec, job)
    return job


# ------------------------------------------------------------------------ submit


def test_a_job_is_submitted_with_sbatch(tmp_path: Path, programs: Callable[..., Path]) -> None:
    calls = programs(sbatch="echo '4711;main'")
    workspace = tmp_path / "100%"
    workspace.mkdir()
    slurm = Slurm(workspace, options=("partition=dcu", "account=llm"))
    job = slurm.submit(spec_for(workspace))
    assert (job.engine, job.id, job.folder) == ("slurm", "4711", "runs/try/cluster")
    folder = workspace / "runs" / "try" / "cluster"
    assert (calls / "sbatch").read_text().splitlines() == [
        "--parsable",
        f"--output={tmp_path}/100%%/runs/try/cluster/slurm-%j.log",
        f"--chdir={workspace}",
        *("--partition=dcu", "--account=llm"),
    ]
    script = (calls / "script").read_text()
    assert script == (folder / "slurm-4711.sh").read_text() == slurm.text(spec_for(workspace))
    assert "#SBATCH --nodes=2\n" in script and "#SBATCH --time=3:00:00\n" in script
    assert f"folder={folder}\n" in script


@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [
        ("sbatch: error: invalid partition specified: gpu", RequestError, "invalid partition"),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not"
            " available",
            RequestError,
            "node configuration is not available",
        ),
        ("", RequestError, "exit status 1"),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller"
            " (connect failure)",
            MachineError,
            "cannot reach Slurm",
        ),
        (
            "sbatch: error: If munged is up, restart with --num-threads=10\nsbatch: error: Munge"
            " encode failed: Failed to access /run/munge/munge.socket.2",
            MachineError,
            "munge",
        ),
    ],
)
def test_an_error_of_sbatch_is_reported(
    tmp_path: Path,
    programs: Callable[..., Path],
    output: str,
    kind: type[StackError],
    message: str,
) -> None:
    programs(sbatch=f"printf '%s\\n' '{output}' >&2; exit 1")
    with pytest.raises(kind) as caught:
        Slurm(tmp_path).submit(spec_for(tmp_path))
    assert message in str(caught.value) and "error:" not in str(caught.value)
    assert not [path for path in tmp_path.glob("runs/**/*") if path.is_file()], "nothing is left"


def test_a_machine_without_slurm(tmp_path: Path, programs: Callable[..., Path]) -> None:
    job = submitted(tmp_path)
    for act in (
        lambda: Slurm(tmp_path).submit(spec_for(tmp_path)),
        lambda: Slurm(tmp_path).status([job]),
        lambda: Slurm(tmp_path).cancel(job),
    ):
        with pytest.raises(MachineError, match=r"s\w+ is not installed on this machine") as caught:
            act()
        assert caught.value.status == 3 and "login node" in caught.value.problems[0].remedy


@pytest.mark.parametrize(
    ("options", "container", "message"),
    [
        (("=dcu",), Container(), 'expected KEY=VALUE, got "=dcu"'),
        (("-p=dcu",), Container(), 'expected KEY=VALUE, got "-p=dcu"'),
        ((), Container("podman"), 'unknown container engine "podman"'),
        ((), Container("apptainer"), "--image-file is required"),
        ((), Container("apptainer", Path("x.tar")), "requires .sif, got x.tar"),
        ((), Container("docker", Path("x.sif")), "got x.sif"),
        ((), Container("docker", Path("/nowhere/x.tar")), "/nowhere/x.tar does not exist"),
    ],
)
def test_an_invalid_request_does_not_reach_sbatch(
    tmp_path: Path,
    programs: Callable[..., Path],
    options: tuple[str, ...],
    container: Container,
    message: str,
) -> None:
    calls = programs(sbatch="echo 1")
    with pytest.raises(RequestError) as caught:
        Slurm(tmp_path, container, options).submit(spec_for(tmp_path))
    assert message in str(caught.value) and caught.value.problems[0].remedy
    assert not (calls / "sbatch").exists()


# ------------------------------------------------------------------------ status

SQUEUE = """\
echo '4711|RUNNING|1:02:03|dcu[01-02]|None|1|'
echo '4712|PENDING|0:00||BeginTime|0|'"""
SACCT = "echo '4713|CANCELLED by 1000|00:10:00|dcu01|0:15'"


def test_the_status_of_jobs(tmp_path: Path, programs: Callable[..., Path]) -> None:
    calls = programs(squeue=SQUEUE, sacct=SACCT)
    jobs = [submitted(tmp_path, id=str(id)) for id in (4711, 4712, 4713, 4714, 4715)]
    for id, status in (("4714", "0\n"), ("4715", "5\n")):
        (tmp_path / "runs" / "try" / "cluster" / f"slurm-{id}.status").write_text(status)
    assert Slurm(tmp_path).status(jobs) == [
        cluster.JobStatus("4711", "running", False, "dcu[01-02]", "1:02:03", "", 1),
        cluster.JobStatus("4712", "pending", False, "", "", "BeginTime"),
        cluster.JobStatus("4713", "cancelled", True, "dcu01", "00:10:00", "exit status 0"),
        cluster.JobStatus("4714", "completed", True, why="exit status 0"),
        cluster.JobStatus("4715", "failed", True, why="exit status 5"),
    ]
    assert "--jobs=4713,4714,4715" in (calls / "sacct").read_text()


def test_a_site_without_accounting(tmp_path: Path, programs: Callable[..., Path]) -> None:
    gone = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    programs(squeue=gone, sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    (row,) = Slurm(tmp_path).status([submitted(tmp_path)])
    assert row == cluster.JobStatus("4711", "unknown", True, why="Slurm has no record of it")


def test_a_controller_that_does_not_respond(tmp_path: Path, programs: Callable[..., Path]) -> None:
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    programs(squeue=f"echo '{away}' >&2; exit 1")
    with pytest.raises(MachineError, match="squeue cannot reach Slurm"):
        Slurm(tmp_path).status([submitted(tmp_path)])


# ------------------------------------------------------------------------ logs


def written(workspace: Path, **files: str) -> Path:
    folder = workspace / "runs" / "try" / "cluster"
    for name, text in files.items():
        (folder / name.replace("__", "-").replace("_log", ".log")).write_text(text)
    return folder


def test_the_logs_of_all_nodes(tmp_path: Path) -> None:
    job = submitted(tmp_path)
    written(
        tmp_path, slurm__4711_log="it begins\n", slurm__4711__0_log="a\nb", slurm__4711__1_log="c\n"
    )
    slurm = Slurm(tmp_path)
    assert list(slurm.logs(job)) == ["it begins", "0: a", "0: b", "1: c"]
    assert list(slurm.logs(job, 1)) == ["c"]
    one = submitted(tmp_path, id="4712", nodes=1)
    written(tmp_path, slurm__4712__0_log="alone\n")
    assert list(slurm.logs(one)) == list(slurm.logs(one, 0)) == ["alone"]


def test_the_log_of_one_process(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    job = cluster.SubmittedJob("slurm", "1", "pretrain", 2, 4, "runs/try/cluster", "runs/try")
    cluster.save(spec, job)
    logs = tmp_path / "runs" / "try" / "log-1"
    logs.mkdir()
    (logs / "workerlog.2").write_text("I am 6\n")
    assert list(Slurm(tmp_path).logs(job, 6)) == ["I am 6"]
    with pytest.raises(RequestError, match="expected a rank from 0 to 7, got 8"):
        list(Slurm(tmp_path).logs(job, 8))


def test_logs_are_followed_to_the_end(
    tmp_path: Path, programs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(tmp_path, nodes=1)
    folder = written(tmp_path, slurm__4711__0_log="one\ntw")
    # The job makes progress between queries; at the third one it has ended.
    programs(
        squeue=f"""echo x >> {tmp_path}/queries
        case $(wc -l < {tmp_path}/queries) in
        1) state=RUNNING ;;
        2) state=RUNNING; printf 'o\\nthree\\n' >> {folder}/slurm-4711-0.log ;;
        *) state=COMPLETED; printf four >> {folder}/slurm-4711-0.log ;;
        esac
        echo "4711|$state|0:01|n1|None|0|" """
    )
    monkeypatch.setattr("paddle_stacks.executors.slurm._TICK_SECONDS", 0.01)
    assert list(Slurm(tmp_path).logs(job, follow=True)) == ["one", "two", "three", "four"]


def test_a_job_without_output(tmp_path: Path, programs: Callable[..., Path]) -> None:
    programs(squeue="echo '4711|PENDING|0:00||Resources|0|'")
    with pytest.raises(RequestError, match="has no output; its state is pending"):
        list(Slurm(tmp_path).logs(submitted(tmp_path)))


# ------------------------------------------------------------------------ cancel


def test_a_job_is_cancelled(tmp_path: Path, programs: Callable[..., Path]) -> None:
    calls = programs(squeue=SQUEUE, sacct=SACCT, scancel="")
    Slurm(tmp_path).cancel(submitted(tmp_path))
    assert (calls / "scancel").read_text() == "4711\n"
    with pytest.raises(RequestError, match="job 4713 has already ended: cancelled"):
        Slurm(tmp_path).cancel(submitted(tmp_path, id="4713"))
    programs(scancel="echo 'scancel: error: Access/permission denied' >&2; exit 1")
    with pytest.raises(RequestError, match="permission denied"):
        Slurm(tmp_path).cancel(submitted(tmp_path))


# ------------------------------------------------------------------------ the script


SCONTROL = (
    '[[ $1 != requeue ]] || echo "$*" >> "$OUT/requeued"\n'
    'if [[ "$1 $2" == "show node" ]]; then\n'
    '    echo "   BootTime=2020-01-01T00:00:00 SlurmdStartTime=$STARTED"; exit\n'
    "fi\n"
)
LONG_AGO, LATER = "2020-01-02T03:04:05", "2999-01-02T03:04:05"
# A step fails, and all nodes respond.
FAILS = '[[ "$*" == *clean_up ]] || exit 5'


@pytest.mark.parametrize(
    ("srun", "restarts", "started", "requeued"),
    [
        # Neither the step nor the next one reaches all nodes.
        ("exit 1", "0", LONG_AGO, True),
        # Too many restarts.
        ("exit 1", "100", LONG_AGO, False),
        # The job itself failed.
        (FAILS, "0", LONG_AGO, False),
        # A node restarted in the meantime.
        (FAILS, "0", LATER, True),
        (FAILS, "100", LATER, False),
        # A node that Slurm considers lost.
        (FAILS, "0", "None", True),
    ],
)
def test_a_lost_node_requeues_the_job(
    host: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    srun: str,
    restarts: str,
    started: str,
    requeued: bool,
) -> None:
    monkeypatch.setitem(STAND_INS, "srun", srun)
    monkeypatch.setitem(STAND_INS, "scontrol", SCONTROL + STAND_INS["scontrol"])
    environment = {"SLURM_RESTART_COUNT": restarts, "STARTED": started}
    done, out = run_slurm(as_slurm(plan(host), DCU, 2), tmp_path, nodes=2, **environment)
    status = tmp_path / "runs" / "cluster" / "slurm-4711.status"
    if requeued:
        assert (out / "requeued").read_text() == "requeue 4711\n"
        assert done.returncode == 0 and not status.exists(), "it has not ended"
    else:
        assert not (out / "requeued").exists()
        assert done.returncode and status.read_text() == f"{done.returncode}\n"


def test_the_image_comes_from_an_archive_once(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = """
        if [[ $1 == image ]]; then [[ -e $OUT/loaded ]]; exit; fi
        if [[ $1 == load ]]; then echo "$*" >> "$OUT/loaded"; exit; fi"""
    monkeypatch.setitem(STAND_INS, "docker", engine + STAND_INS["docker"])
    script = as_slurm(plan(host), DCU, container=Container("docker", Path("/a b/train.tar")))
    for _ in range(2):
        done, out = run_slurm(script, tmp_path)
        assert done.returncode == 0, done.stderr
    assert (out / "loaded").read_text() == "load --quiet --input /a b/train.tar\n"
    assert of_docker_words(words(out)).image == "paddle-stacks/train:dcu"


# ------------------------------------------------------------------------ Apptainer


APPTAINER = """
    printf '%s\\0' "$@" > "$OUT/words.$SLURM_NODEID"
    env > "$OUT/environment.$SLURM_NODEID"
    exit "${STATUS:-0}" """


def apptainer(
    script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, nodes: int = 1, **environment: str
) -> tuple[dict[str, Any], Mapping[str, str], subprocess.CompletedProcess[str], Path]:
    """Run a script with a fake Apptainer; return its parsed options, variables and the run."""
    monkeypatch.setitem(STAND_INS, "apptainer", APPTAINER)
    done, out = run_slurm(script, folder, nodes=nodes, **environment)
    arguments = words(out)
    assert arguments.pop(0) == "exec"
    options: dict[str, Any] = {"mount": []}
    while arguments[0].startswith("--"):
        name = arguments.pop(0).removeprefix("--")
        if name in ("containall", "cleanenv", "no-home", "net"):
            options[name] = True
        elif name == "mount":
            fields = dict(f.partition("=")[::2] for f in arguments.pop(0).split(","))
            options["mount"].append((fields["source"], fields["target"], "readonly" in fields))
        else:
            options[name] = arguments.pop(0)
    options["image"] = arguments.pop(0)
    assert arguments.pop(0) == "/usr/bin/env"
    variables = dict(w.split("=", 1) for w in arguments[: arguments.index("/usr/local/bin/entry")])
    options["argv"] = arguments[arguments.index("/usr/local/bin/entry") + 1 :]
    return options, variables, done, out


def nodes_of_a_host(host: Path) -> dict[str, Any]:
    """Return devices with equal source and target, as Apptainer requires."""
    devices = tuple(Device(path, path) for path in ("/dev/null", "/dev/zero"))
    return {"devices": devices, "workspace": host.parent}


def test_apptainer_gets_the_settings_of_the_plan(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = plan(host, **nodes_of_a_host(host))
    script = as_slurm(spec, DCU, container=SIF)
    options, variables, done, _ = apptainer(script, tmp_path, monkeypatch)
    assert done.returncode == 0, done.stderr
    assert options["containall"] and options["cleanenv"] and options["no-home"]
    assert options["net"] and options["network"] == "none" and options["pwd"] == "/workspace"
    assert options["image"] == "/images/train.sif" and tuple(options["argv"]) == spec.argv
    scratch, *mounts = options["mount"]
    assert scratch[1:] == ("/tmp", False) and not Path(scratch[0]).exists(), "it is removed"
    assert set(mounts) == {
        *((m.source, m.target, m.read_only) for m in spec.mounts),
        *((d.source, d.target, False) for d in spec.devices),
    }
    expected = {k: v for k, v in spec.environment.items() if k != "PADDLE_STACKS_EVENTS"}
    assert variables == {**expected, "HOME": "/tmp"}


def test_apptainer_inherits_nothing_from_the_submitters_shell(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = as_slurm(plan(host, **nodes_of_a_host(host)), DCU, 2, container=SIF)
    leaks = {
        "PADDLE_TRAINER_ID": "7",
        "PADDLE_MASTER": "nowhere:1",
        "APPTAINERENV_PADDLE_RANK": "7",
        "SINGULARITYENV_PADDLE_RANK": "7",
        "APPTAINER_BIND": "/etc",
    }
    options, variables, done, out = apptainer(script, tmp_path, monkeypatch, 2, **leaks)
    assert done.returncode == 0, done.stderr
    assert "net" not in options, "nodes use the host's network for the rendezvous"
    meeting = {k: v for k, v in variables.items() if k.startswith("PADDLE_") and k[7] != "D"}
    assert meeting == {
        "PADDLE_MASTER": "192.0.2.11:24711",
        "PADDLE_NNODES": "2",
        "PADDLE_JOB_ID": "4711",
        "PADDLE_RANK": "0",
    }
    theirs = (out / "environment.0").read_text()
    assert "APPTAINERENV_" not in theirs and "SINGULARITYENV_" not in theirs
    assert "APPTAINER_BIND" not in theirs


def test_apptainers_status_is_the_jobs(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = as_slurm(plan(host, **nodes_of_a_host(host)), DCU, container=SIF)
    _, _, done, _ = apptainer(script, tmp_path, monkeypatch, STATUS="5")
    assert done.returncode == 5
    assert (tmp_path / "runs" / "cluster" / "slurm-4711.status").read_text() == "5\n"


def test_a_node_without_apptainer(host: Path, tmp_path: Path) -> None:
    script = as_slurm(plan(host, **nodes_of_a_host(host)), DCU, container=SIF)
    done, _ = run_slurm(script, tmp_path)
    assert done.returncode == 3 and "neither apptainer nor singularity" in done.stderr


@pytest.mark.parametrize(
    ("profile", "changes", "message"),
    [
        ("doc", {}, "--profile doc is not possible"),
        ("", {}, "cannot map a simulated host's devices"),
        ("", {"secrets": (Secret("pip.conf", content="x"),)}, "script: pip.conf"),
        ("", {"environment": {"https_proxy": "http://me:hidden@proxy"}}, "script: https_proxy"),
        ("", {"ulimits": {"sigpending": 1}}, "these limits: sigpending"),
    ],
)
def test_what_apptainer_cannot_do(
    host: Path, profile: str, changes: dict[str, Any], message: str
) -> None:
    platform = backend.load("dcu", ROOT, profile)
    with pytest.raises(RequestError) as caught:
        as_slurm(plan(host, profile, **changes), platform, container=SIF)
    assert message in str(caught.value) and "hidden" not in str(caught.value)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("platform", [DCU, CPU], ids=["dcu", "cpu"])
def test_apptainers_script_passes_shellcheck(
    host: Path, tmp_path: Path, nodes: int, platform: Any
) -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    if not checker.is_file():
        pytest.skip("shellcheck is not installed")
    path = tmp_path / "job.sh"
    path.write_text(as_slurm(plan(host, **nodes_of_a_host(host)), platform, nodes, container=SIF))
    done = subprocess.run([checker, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ------------------------------------------------------------------------ the commands


@pytest.fixture
def inv(tmp_path: Path, programs: Callable[..., Path]) -> Iterator[Callable[..., Any]]:
    """Run a task in a temporary workspace, with the fakes."""
    programs(sbatch="echo 4711", squeue=SQUEUE, sacct=SACCT, scancel="")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_STACKS_")}
    environment |= {"NO_COLOR": "1", "PADDLE_STACKS_WORKSPACE": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "paddle_stacks.cli", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    yield run


SUBMIT = ("cluster.submit", "fetch", "--model", "smollm2-135m-instruct", "--engine", "slurm")


def test_a_job_from_its_submission_to_its_end(inv: Callable[..., Any], tmp_path: Path) -> None:
    assert inv("cluster.status").stderr == "no job was submitted from this workspace\n"
    done = inv(*SUBMIT, "--slurm", "partition=dcu")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4711\n" and "./inv cluster.logs 4711 --follow" in done.stderr
    head, row = inv("cluster.status").stdout.splitlines()
    assert head.split()[:5] == ["ID", "ENGINE", "JOB", "RUN", "STATE"]
    assert row.split()[:5] == ["4711", "slurm", "fetch", "-", "running"]
    assert "dcu[01-02]" in row and row.endswith("restarts: 1")
    (entry,) = json.loads(inv("cluster.status", "--id", "4711", "--json").stdout)
    assert entry["state"] == "running" and entry["when"] and "plan" not in entry
    folder = tmp_path / "runs" / ".jobs" / "cluster"
    (folder / "slurm-4711-0.log").write_text("fetched\n")
    assert inv("cluster.logs", "4711").stdout == "fetched\n"
    assert inv("cluster.cancel", "4711").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cluster.logs", "1"), "no job 1 was submitted from this workspace"),
        (("cluster.cancel", "1"), "no job 1 was submitted from this workspace"),
        (("cluster.status", "--id", "1"), "no job 1 was submitted from this workspace"),
        (("cluster.logs", "4711", "--rank", "x"), '--rank must be an integer, got "x"'),
        (("cluster.logs", "4711", "--rank", "1"), "expected a rank from 0 to 0, got 1"),
        (("cluster.submit", "fetch", "--model", "x"), "--engine is required"),
        (("cluster.submit", "--engine", "slurm"), "did not receive required positional"),
        ((*SUBMIT, "--hours", "0"), "--hours must be at least 1"),
        ((*SUBMIT, "--nodes", "2"), "fetch cannot run on several nodes"),
        ((*SUBMIT, "--slurm", "--dcu"), 'expected KEY=VALUE, got "--dcu"'),
        ((*SUBMIT, "--container", "dokcer"), 'did you mean "docker"?'),
        (("cluster.submit", "infer", "--model", "m", "--chat", "--engine", "slurm"), "no standard"),
        (
            ("cluster.submit", "finetune", "--config", "no.json", "--engine", "slurm"),
            "the configuration does not exist",
        ),
        (("cluster.stauts",), 'did you mean "cluster.status"?'),
    ],
)
def test_an_invalid_request(
    inv: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    submitted(tmp_path, None, nodes=1)
    done = inv(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == "" and message in done.stderr and "Traceback" not in done.stderr
