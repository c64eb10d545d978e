"""Benchmark of LoRA fine-tuning against Hugging Face transformers and peft.

``.venv/bin/python bench/finetune.py [--steps N] [--rounds N] [--threads N] [--json]``

Both sides train the same weights (SmolLM2-135M-Instruct) on the same batches in the same
order, in float32, with the same rank, targets, optimizer and threads: ours is the
``finetune`` job as it is; the other is ``peft_side.py``. Both run in a container of the
training image, so that the engine and the scheduler treat them alike; the other side
uses Debian's Python and packages of its own. They take turns, and both are watched from
outside in the same way: what they print after a step gives its time, ``/proc`` the
processor time and the memory. The losses of the first step show that the work is the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import itertools

import report

from paddle_stacks import settings
from paddle_stacks.errors import JobError, RequestError, StackError, render
from paddle_stacks.jobs.events import ENVIRONMENT_SWITCH, parse
from paddle_stacks.launch import make_plan
from paddle_stacks.plan import Plan
from paddle_stacks.plan.show import docker_arguments

BENCH = ROOT / "bench"
WORKSPACE = ROOT / ".cache" / "bench-finetune"
MODEL = "smollm2-135m-instruct"
GOALS = {"tokens_per_second_ratio": 1.0}
_WARM_UP = 2  # steps that are not counted: both libraries allocate and tune in them
_SAME_LOSS = 1e-3
_DEBIAN_PYTHON = "3.11"  # /usr/bin/python3 of the images


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, as it was seen from outside.

    Args:
        start: seconds from the start of the process or container to its first step's end.
        seconds: of each later step.
        start_cpu: processor seconds until the first step's end.
        cpu: processor seconds of each later step.
        peak_mib: the most resident memory of the process.
        losses: of each step.
    """

    start: float
    seconds: list[float]
    start_cpu: float
    cpu: list[float]
    peak_mib: int
    losses: list[float]


def watched(plan: Plan, line: Sequence[str]) -> Run:
    """Run a training in a container and return what was seen of it.

    Args:
        plan: whose container it is.
        line: the command line; it prints a line a step, JSON or an event.

    Raises:
        JobError: it failed.
    """
    stamps, cpu, losses, other = [], [], [], []
    peak = pid = 0
    began = time.monotonic()
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            loss = _step_loss(text)
            if loss is None:
                other.append(text)
                continue
            stamps.append(time.monotonic())
            pid = pid or _process(plan)
            cpu.append(_cpu_seconds(pid))
            peak = _peak_mib(pid)
            losses.append(loss)
    if process.returncode or not losses:
        said = "".join(other[-5:]).strip()
        raise JobError(f"status {process.returncode}: {said}", where=line[-2])
    return Run(stamps[0] - began, _differences(stamps), cpu[0], _differences(cpu), peak, losses)


def _step_loss(text: str) -> float | None:
    event = parse(text.rstrip("\n"))
    if event:
        return float(event.fields["loss"]) if event.kind == "step" else None
    return float(json.loads(text)["loss"]) if text.startswith('{"step"') else None


def _cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, in seconds (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def _differences(values: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(values)]


def _process(plan: Plan) -> int:
    """Return the process that trains: the only child of tini, the container's first."""
    line = ["docker", "inspect", "--format={{.State.Pid}}", plan.name]
    first = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    return int(Path(f"/proc/{first}/task/{first}/children").read_text().split()[0])


def command(
    plan: Plan, threads: int, *, argv: Sequence[str] = (), options: Sequence[str] = ()
) -> list[str]:
    """Return the plan's ``docker run`` line with the benchmark's threads.

    Args:
        plan: the job.
        threads: for OpenMP and the math library.
        argv: instead of the job, another command.
        options: more options of ``docker run``.
    """
    words = [word for group in docker_arguments(plan) for word in group]
    given = [f"--env=OMP_NUM_THREADS={threads}", f"--env={ENVIRONMENT_SWITCH}=1", *options]
    image = words.index(plan.image)
    return [*words[:2], *given, *words[2 : image + 1], *(argv or words[image + 1 :])]


def peft_command(plan: Plan, threads: int, packages: Path, *arguments: str) -> list[str]:
    """Return the line that runs ``peft_side.py`` in a container like the plan's."""
    options = [f"--mount=type=bind,readonly,source={BENCH},target=/bench"]
    options += [f"--mount=type=bind,readonly,source={packages},target=/packages"]
    options += ["--env=PYTHONPATH=/packages", "--entrypoint=/usr/bin/tini"]
    argv = ["--", "/usr/bin/python3", "/bench/peft_side.py", *arguments]
    return command(plan, threads, argv=argv, options=options)


def yardstick() -> Path:
    """Return the folder with torch, transformers and peft for Debian's Python, after making it."""
    requirements = BENCH / "requirements.txt"
    folder = ROOT / ".cache" / "bench-packages"
    made_from = folder / "made-from.txt"
    if not made_from.is_file() or made_from.read_text() != requirements.read_text():
        report.say(f"making {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
        install += [f"--python-version={_DEBIAN_PYTHON}", f"--target={folder}"]
        subprocess.run([*install, f"--requirement={requirements}"], check=True)
        shutil.copy(requirements, made_from)
    return folder


def prepare(found: settings.Settings, packages: Path, data: Path, steps: int, threads: int) -> None:
    """Put the model, in both layouts, the data, the configuration and the batches there."""
    if not (data / "train.json").is_file():
        raise RequestError("there is no train.json", where=str(data), remedy="--data FOLDER")
    for name in ("configs", "data", "models", "runs"):
        (WORKSPACE / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(WORKSPACE / "data" / "bench", ignore_errors=True)
    shutil.copytree(data, WORKSPACE / "data" / "bench")
    fetch = command(make_plan("fetch", [MODEL], found), threads)
    subprocess.run(fetch, stdout=sys.stderr, check=True)
    config = json.loads((ROOT / "configs/jobs/cpu/finetune-lora.json").read_text())
    config |= {
        "model_name_or_path": MODEL,
        "dataset_name_or_path": "data/bench",
        "do_eval": False,
        "evaluation_strategy": "no",
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "max_steps": steps,
    }
    del config["num_train_epochs"], config["output_dir"]
    (WORKSPACE / "configs" / "bench.json").write_text(json.dumps(config, indent=2))
    shutil.copy(BENCH / "write_batches.py", WORKSPACE)
    plan = make_plan("finetune", ["--config", "configs/bench.json"], found)
    write = ["python", "write_batches.py", "configs/bench.json", "batches.json", str(steps)]
    subprocess.run(command(plan, threads, argv=write), check=True)
    checkpoint = WORKSPACE / "models" / MODEL
    padding = json.loads((checkpoint / "config.json").read_text())["pad_token_id"]
    chosen = {key: config[key] for key in ("lora_rank", "learning_rate", "max_grad_norm", "seed")}
    chosen |= {"threads": threads, "padding": padding}
    (WORKSPACE / "peft.json").write_text(json.dumps(chosen, indent=2))
    if not (WORKSPACE / "hf" / "config.json").is_file():
        convert = ["convert", f"models/{MODEL}", "hf"]
        subprocess.run(peft_command(plan, threads, packages, *convert), check=True)


def measure(
    found: settings.Settings, packages: Path, rounds: int, threads: int
) -> list[dict[str, Run]]:
    """Let the two sides take turns, and return what was seen of each round."""
    seen = []
    arguments = ["--config", "configs/bench.json", "--name", "bench", "--resume", "never"]
    train = ["train", "hf", "batches.json", "peft.json"]
    for number in range(1, rounds + 1):
        report.say(f"round {number} of {rounds}, load {report.load()}")
        planned = make_plan("finetune", arguments, found)
        # Not a job's name and labels: nobody who ends jobs is to end a measurement.
        plan = dataclasses.replace(planned, name=f"bench-finetune-{os.getpid()}", labels={})
        ours = watched(plan, command(plan, threads))
        theirs = watched(plan, peft_command(plan, threads, packages, *train))
        if abs(ours.losses[0] - theirs.losses[0]) > _SAME_LOSS:
            raise JobError(
                f"the two sides do not do the same: the first step's loss is {ours.losses[0]} "
                f"here and {theirs.losses[0]} in peft"
            )
        seen.append({"paddle-stacks": ours, "peft": theirs})
    return seen


def compare(seen: list[dict[str, Run]], batches: list[list[Any]]) -> dict[str, Any]:
    """Return the medians of each side, and the ratios of steps on the same batch."""
    real = [sum(len(ids) for ids, _ in rows) for rows in batches][1:]
    padded = [len(rows) * max(len(ids) for ids, _ in rows) for rows in batches][1:]
    counted = slice(_WARM_UP - 1, None)  # the first step is in the start-up
    sides: dict[str, Any] = {}
    for side in ("paddle-stacks", "peft"):
        runs = [entry[side] for entry in seen]
        sides[side] = {
            "tokens_per_second": _rate(real, [run.seconds for run in runs], counted),
            "padded_tokens_per_second": _rate(padded, [run.seconds for run in runs], counted),
            "tokens_per_cpu_second": _rate(real, [run.cpu for run in runs], counted),
            "start_seconds": round(statistics.median(run.start for run in runs), 1),
            "start_cpu_seconds": round(statistics.median(run.start_cpu for run in runs), 1),
            "peak_mib": max(run.peak_mib for run in runs),
            "first_loss": round(runs[0].losses[0], 5),
            "last_loss": round(runs[0].losses[-1], 5),
        }
    return {"sides": sides, "ratios": _ratios(seen, sides, counted)}


def _rate(tokens: Sequence[int], runs: Sequence[Sequence[float]], counted: slice) -> float:
    rates = [n / t for times in runs for n, t in list(zip(tokens, times, strict=True))[counted]]
    return round(statistics.median(rates), 1)


def _ratios(seen: list[dict[str, Run]], sides: dict[str, Any], counted: slice) -> dict[str, float]:
    ratios = {}
    for key, name in (("seconds", "tokens_per_second"), ("cpu", "tokens_per_cpu_second")):
        pairs = [
            theirs / ours
            for entry in seen
            for ours, theirs in list(
                zip(getattr(entry["paddle-stacks"], key), getattr(entry["peft"], key), strict=True)
            )[counted]
        ]
        ratios[name] = round(statistics.median(pairs), 2)
    ours, theirs = sides["paddle-stacks"], sides["peft"]
    for name in ("start_seconds", "start_cpu_seconds", "peak_mib"):
        ratios[name] = round(ours[name] / theirs[name], 2)
    return ratios


def tables(found: dict[str, Any]) -> str:
    """Return the document as Markdown."""
    named = {
        "tokens_per_second": "tokens/s",
        "padded_tokens_per_second": "tokens/s, padding counted",
        "tokens_per_cpu_second": "tokens per processor second",
        "start_seconds": "to the end of the first step, s",
        "start_cpu_seconds": "the same, processor seconds",
        "peak_mib": "peak memory, MiB",
        "first_loss": "loss of the first step",
        "last_loss": "loss of the last step",
    }
    ours, theirs = found["sides"]["paddle-stacks"], found["sides"]["peft"]
    rows = [
        (text, ours[key], theirs[key], found["ratios"].get(key, "")) for key, text in named.items()
    ]
    return report.table(("LoRA", "paddle-stacks", "transformers + peft", "ratio"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12, help="steps of a run; default: 12")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side; default: 3")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores"
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data" / "demo", help="default: data/demo"
    )
    parser.add_argument("--packages", type=Path, help="a folder that has bench/requirements.txt")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(argv)
    document: dict[str, Any] = {"machine": report.machine(), "goals": GOALS}
    try:
        if given.steps <= _WARM_UP:
            raise RequestError(f"--steps must be more than {_WARM_UP}", where="--steps")
        WORKSPACE.mkdir(parents=True, exist_ok=True)
        found = settings.load(ROOT, {"workspace": str(WORKSPACE)})
        packages = given.packages or yardstick()
        prepare(found, packages, given.data, given.steps, given.threads)
        seen = measure(found, packages, given.rounds, given.threads)
    except StackError as error:
        print(render(error), file=sys.stderr)
        return error.status
    batches = json.loads((WORKSPACE / "batches.json").read_text())
    document |= {"steps": given.steps, "threads": given.threads, **compare(seen, batches)}
    document["rounds"] = [
        {side: dataclasses.asdict(run) for side, run in entry.items()} for entry in seen
    ]
    report.show(document, tables(document), as_json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
