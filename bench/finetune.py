"""Benchmark of LoRA fine-tuning against Hugging Face transformers and peft.

``.venv/bin/python bench/finetune.py [--steps N] [--rounds N] [--threads N] [--json]``

Both sides train the same weights (SmolLM2-135M-Instruct) on the same batches in the same
order, in float32, with the same rank, targets, optimizer and threads: ours is the
``finetune`` job as it is, in its container; the other is ``peft_side.py``. They take
turns, and both are watched from outside in the same way: what they print after a step
gives its time, ``/proc`` the processor time and the memory. The losses of the first step
show that the work is the same.
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
import venv
from collections.abc import Callable, Sequence
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


def watched(
    line: Sequence[str], environment: dict[str, str], find_process: Callable[[int], int]
) -> Run:
    """Run a training and return what was seen of it.

    Args:
        line: the command line; it prints a line a step, JSON or an event.
        environment: variables for it.
        find_process: gives the process that trains, from the one that was started.

    Raises:
        JobError: it failed.
    """
    stamps, cpu, losses, other = [], [], [], []
    peak = watched_pid = 0
    began = time.monotonic()
    with subprocess.Popen(
        line,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            loss = _step_loss(text)
            if loss is None:
                other.append(text)
                continue
            stamps.append(time.monotonic())
            watched_pid = watched_pid or find_process(process.pid)
            cpu.append(_cpu_seconds(watched_pid))
            peak = _peak_mib(watched_pid)
            losses.append(loss)
    if process.returncode or not losses:
        raise JobError("".join(other[-5:]).strip(), where=" ".join(line[:3]))
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


def command(plan: Plan, threads: int, *, argv: Sequence[str] = ()) -> list[str]:
    """Return the plan's ``docker run`` line with the benchmark's threads.

    Args:
        plan: the job.
        threads: for OpenMP and the math library.
        argv: instead of the job, another command.
    """
    words = [word for group in docker_arguments(plan) for word in group]
    given = [f"--env=OMP_NUM_THREADS={threads}", f"--env={ENVIRONMENT_SWITCH}=1"]
    image = words.index(plan.image)
    return [*words[:2], *given, *words[2 : image + 1], *(argv or words[image + 1 :])]


def in_container(plan: Plan) -> Callable[[int], int]:
    """Return what finds the job's process: the only child of tini, the container's first."""

    def find(_client: int) -> int:
        line = ["docker", "inspect", "--format={{.State.Pid}}", plan.name]
        first = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
        return int(Path(f"/proc/{first}/task/{first}/children").read_text().split()[0])

    return find


def yardstick(given: str | None) -> str:
    """Return the interpreter that has torch, transformers and peft, after making it."""
    if given:
        return given
    requirements = BENCH / "requirements.txt"
    folder = ROOT / ".cache" / "bench-venv"
    python, made_from = folder / "bin" / "python", folder / "made-from.txt"
    if not made_from.is_file() or made_from.read_text() != requirements.read_text():
        report.say(f"making {folder}")
        venv.create(folder, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--requirement"]
        subprocess.run([*install, str(requirements)], check=True)
        shutil.copy(requirements, made_from)
    return str(python)


def prepare(found: settings.Settings, python: str, data: Path, steps: int, threads: int) -> None:
    """Put the model, in both layouts, the data, the configuration and the batches there."""
    if not (data / "train.json").is_file():
        raise RequestError("there is no train.json", where=str(data), remedy="--data FOLDER")
    for name in ("configs", "data", "models", "runs"):
        (WORKSPACE / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(WORKSPACE / "data" / "bench", ignore_errors=True)
    shutil.copytree(data, WORKSPACE / "data" / "bench")
    subprocess.run(command(make_plan("fetch", [MODEL], found), threads), check=True)
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
        line = [python, str(BENCH / "peft_side.py"), "convert", str(checkpoint)]
        subprocess.run([*line, str(WORKSPACE / "hf")], check=True)


def measure(
    found: settings.Settings, python: str, rounds: int, threads: int
) -> list[dict[str, Run]]:
    """Let the two sides take turns, and return what was seen of each round."""
    peft = [python, str(BENCH / "peft_side.py"), "train"]
    peft += [str(WORKSPACE / name) for name in ("hf", "batches.json", "peft.json")]
    seen = []
    for number in range(1, rounds + 1):
        report.say(f"round {number} of {rounds}, load {report.load()}")
        arguments = ["--config", "configs/bench.json", "--name", "bench", "--resume", "never"]
        plan = make_plan("finetune", arguments, found)
        ours = watched(command(plan, threads), {}, in_container(plan))
        theirs = watched(peft, {"OMP_NUM_THREADS": str(threads)}, lambda pid: pid)
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
    parser.add_argument("--python", help="an interpreter that has bench/requirements.txt")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(argv)
    document: dict[str, Any] = {"machine": report.machine(), "goals": GOALS}
    try:
        if given.steps <= _WARM_UP:
            raise RequestError(f"--steps must be more than {_WARM_UP}", where="--steps")
        WORKSPACE.mkdir(parents=True, exist_ok=True)
        found = settings.load(ROOT, {"workspace": str(WORKSPACE)})
        python = yardstick(given.python)
        prepare(found, python, given.data, given.steps, given.threads)
        seen = measure(found, python, given.rounds, given.threads)
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
