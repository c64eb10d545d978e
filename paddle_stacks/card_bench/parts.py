"""Run the parts of the benchmark, one after the other; a part that fails does not stop others."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddle_stacks import launch, recipes, verify
from paddle_stacks.card_bench import collectives
from paddle_stacks.errors import JobError, MachineError, RequestError, StackError, suggest
from paddle_stacks.plan import Plan, backend, image_name, show
from paddle_stacks.plan.mounts import WORKSPACE
from paddle_stacks.settings import Settings

__all__ = ["PARTS", "Options", "Part", "collectives_command", "run", "speed_of"]

TRAINING_STEPS = 20
_WARMUP_STEPS = 5  # kernels are compiled and chosen in the first steps
_RECORDS = {
    "cpu": ("configs/jobs/cpu/finetune-lora.json", "smollm2-135m-instruct"),
    "dcu": ("configs/jobs/dcu/lora-13b.json", "llama-2-13b-chat"),
}
_SCRIPT = Path(collectives.__file__)
_TARGET = "/opt/collectives.py"
_MAX_BYTES = {"cpu": 2**20, "gpu": 2**28}
# What upstream's predictor prints at the end of a benchmark.
_SPEED = re.compile(r"Input length is: \d+.{0,200}IPS: ([\d.]+) tokens/s, QPS: ([\d.]+) requests/s")


@dataclass(frozen=True)
class Options:
    """The options of a measurement.

    Args:
        cards: the devices; empty for all.
        steps: training steps.
        names: the parts to run; empty for all.
    """

    cards: tuple[int, ...] = ()
    steps: int = TRAINING_STEPS
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """The result of a part.

    Args:
        name: the part's name.
        state: ``measured``, ``failed``, or ``skipped`` if this machine cannot run it.
        seconds: how long it took.
        headings: of the table.
        rows: of the table.
        message: why it failed or was skipped; empty otherwise.
        outcomes: the tests that it ran.
    """

    name: str
    state: str
    seconds: float = 0.0
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    message: str = ""
    outcomes: tuple[verify.Outcome, ...] = ()


def run(settings: Settings, options: Options) -> list[Part]:
    """Run the parts and return their results, in order.

    Raises:
        RequestError: there is no such part.
    """
    if unknown := [name for name in options.names if name not in PARTS]:
        raise RequestError(
            f'"{unknown[0]}" is not a part of the benchmark',
            where="--part",
            remedy=suggest(unknown[0], PARTS, "parts"),
        )
    results = []
    for name in options.names or PARTS:
        print(f"benchmark: {name}", file=sys.stderr)
        start = time.monotonic()
        try:
            part = PARTS[name](settings, options)
        except StackError as error:
            part = Part(name, "failed", message=_message(error))
        results.append(replace(part, seconds=round(time.monotonic() - start, 1)))
    return results


def _operators(settings: Settings, options: Options) -> Part:
    """Compare the operators of the images with their references."""
    record = settings.root / verify.RECORDS / f"bench-{settings.backend}.xml"
    paths = ["tests/images/ops-cpu", *(["tests/images/ops-dcu"] if _on_cards(settings) else [])]
    status, outcomes = verify.run_tests(settings.root, settings.backend, paths, record)
    state = "measured" if status == 0 else "failed"
    rows = ((verify.tally(outcomes),),)
    return Part("operators", state, headings=("tests",), rows=rows, outcomes=tuple(outcomes))


def _collectives(settings: Settings, options: Options) -> Part:
    """Measure all-reduce between the cards, or between two processes of a CPU."""
    platform = backend.load(settings.backend, settings.root)
    ranks = len(options.cards) or _card_count(settings) or 2
    if _on_cards(settings) and ranks < 2:
        return Part("collectives", "skipped", message="it needs two cards or more")
    # A plan of inference checks nothing in the workspace, and the program reads nothing from it.
    choices = launch.Choices(cards=options.cards)
    plan = launch.make_plan("infer", ["--model", "none", "--prompt", "none"], settings, choices)
    mounts = tuple(m for m in plan.mounts if not m.target.startswith(str(WORKSPACE)))
    plan = replace(plan, image=image_name("train", settings.backend), mounts=mounts)
    line = collectives_command(plan, ranks, platform.device)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    entries = [json.loads(text) for text in re.findall(r"^collective (.+)$", done.stdout, re.M)]
    if done.returncode or not entries:
        output = (done.stderr or done.stdout).strip().splitlines()
        message = output[-1] if output else f"status {done.returncode}"
        raise JobError(f"the collectives failed: {message}", remedy="./inv doctor --log FILE")
    rows = tuple(
        (f"{e['bytes']:,}", f"{e['seconds'] * 1e6:.0f}", f"{e['gb_per_second']:.2f}")
        for e in entries
    )
    headings = (f"all-reduce of {ranks} processes, bytes", "µs", "bus bandwidth, GB/s")
    return Part("collectives", "measured", headings=headings, rows=rows)


def collectives_command(plan: Plan, ranks: int, device: str) -> list[str]:
    """Return the command that measures collectives in a container like a training's.

    Args:
        plan: a training's plan.
        ranks: number of processes.
        device: Paddle's device type.
    """
    if device == "gpu":
        count = ["--devices", ",".join(map(str, range(ranks)))]
    else:
        count = ["--nproc_per_node", str(ranks)]
    words = [word for group in show.docker_arguments(plan)[:-1] for word in group]
    words += ["--entrypoint", "python", "--mount", show.mount_option(str(_SCRIPT), _TARGET)]
    # A container without a network cannot resolve its own name.
    words += ["--env", "GLOO_SOCKET_IFNAME=lo", "--env", "NCCL_SOCKET_IFNAME=lo"]
    words += [plan.image, "-m", "paddle.distributed.launch", "--log_dir", "/tmp/log", *count]
    return [*words, _TARGET, str(_MAX_BYTES[device])]


def _training(settings: Settings, options: Options) -> Part:
    """Train LoRA on the demo data for a few steps."""
    config, model = _RECORDS["dcu" if _on_cards(settings) else "cpu"]
    name = "bench-training"
    values = {
        "model_name_or_path": model,
        "dataset_name_or_path": "data/demo",
        "max_steps": options.steps,
        "logging_steps": 1,
        "gradient_accumulation_steps": 1,
        "do_eval": "false",
        "evaluation_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": "false",
    }
    line = ["--config", config, "--name", name, "--resume", "never"]
    line += [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    choices = launch.Choices(cards=options.cards[:1])
    if status := launch.launch("finetune", line, settings, choices):
        raise JobError(f"the training ended with status {status}", remedy="./inv doctor --log runs")
    text = (settings.workspace / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8")
    return _of_metrics([json.loads(row) for row in text.splitlines()], model)


def _of_metrics(entries: Sequence[Mapping[str, Any]], model: str) -> Part:
    steps = [entry for entry in entries if "tokens_per_second" in entry]
    settled = steps[_WARMUP_STEPS:] or steps
    if not settled:
        raise JobError("the training logged no step", remedy="./inv doctor --log runs")
    speed = statistics.median(float(entry["tokens_per_second"]) for entry in settled)
    losses = [float(entry["loss"]) for entry in steps]
    row = (
        f"LoRA on {model}",
        str(len(steps)),
        f"{speed:.0f}",
        str(max(int(entry["memory_mib"]) for entry in steps)),
        f"{losses[0]:.3f} → {losses[-1]:.3f}",
    )
    headings = ("training", "steps", "tokens/s", "peak memory, MiB", "loss")
    return Part("training", "measured", headings=headings, rows=(row,))


def _inference(settings: Settings, options: Options) -> Part:
    """Run the benchmark lines of the instructions."""
    known = recipes.load(settings.root, settings.backend)
    names = [name for name in known if name.endswith(recipes.BENCHMARK)]
    if not _on_cards(settings):
        # 110 answers of 1024 tokens each would take hours on a CPU.
        message = "the instructions' benchmarks are for cards; bench/infer.py measures a CPU"
        return Part("inference", "skipped", message=message)
    rows = [_measured_recipe(name, known[name].job, settings, options) for name in names]
    state = "measured" if all(row[1] for row in rows) else "failed"
    headings = ("recipe", "tokens/s", "requests/s", "message")
    return Part("inference", state, headings=headings, rows=tuple(rows))


def _measured_recipe(name: str, job: str, settings: Settings, options: Options) -> tuple[str, ...]:
    choices = launch.Choices(cards=options.cards[:1], recipe=name)
    try:
        if status := launch.launch(job, [], settings, choices):
            return (name, "", "", f"status {status}")
    except StackError as error:
        return (name, "", "", _message(error))
    log = settings.workspace / "runs" / name / "run.log"
    speeds = speed_of(log.read_text(encoding="utf-8", errors="replace"))
    return (name, *speeds, "" if speeds[0] else "no line with its speed in the log")


def _message(error: StackError) -> str:
    problem = error.problems[0]
    where = f" ({problem.where})" if problem.where else ""
    return f"{problem.what}{where}; {problem.remedy}"


def speed_of(log: str) -> tuple[str, str]:
    """Return tokens/s and requests/s of upstream's benchmark; empty if the log has none."""
    match = _SPEED.search(log)
    return (match[1], match[2]) if match else ("", "")


def _on_cards(settings: Settings) -> bool:
    return backend.load(settings.backend, settings.root).device == "gpu"


def _card_count(settings: Settings) -> int:
    from paddle_stacks.dcu import smi

    if not _on_cards(settings):
        return 0
    try:
        return len(smi.read(settings.host_root))
    except MachineError:
        return 0


PARTS: Mapping[str, Callable[[Settings, Options], Part]] = {
    "operators": _operators,
    "collectives": _collectives,
    "training": _training,
    "inference": _inference,
}
"""The parts, in the order in which they run."""
