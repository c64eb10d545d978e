"""Benchmark of pretraining against Hugging Face transformers' Trainer, and of two processes.

``.venv/bin/python bench/pretrain.py [--steps N] [--rounds N] [--threads N] [--json]``

Both sides train the same weights (llama-nano, random) on the same samples in the same order,
in float32, with the same optimizer and threads (one, and all). One side is the unmodified
``pretrain`` job, the other ``trainer_side.py``. Both run in turns in a container of the training
image and are measured in the same way. The losses of the first step show that both do the same
work.

The job also runs in two processes with one thread each, each with as many rows as the single
process: twice the tokens in the same time would be an efficiency of 1.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import report
from side_by_side import BENCH, Run, command, other_command, watched, yardstick

from paddle_stacks import settings
from paddle_stacks.errors import JobError, RequestError, StackError, render
from paddle_stacks.launch import make_plan

WORKSPACE = ROOT / ".cache" / "bench-pretrain"
MODEL = "llama-nano"
GOALS = {"tokens_per_second_ratio": 1.0, "efficiency_of_two": 0.8}
_WARM_UP = 2  # steps that are not counted: both libraries allocate and tune in them
_SAME_LOSS = 1e-3
_TWO = "ours, two processes"
_CONFIG, _SAMPLES, _SETTINGS = "configs/bench.json", "samples.npy", "trainer.json"


def prepare(loaded: settings.Settings, packages: Path, steps: int, threads: int) -> dict[str, Any]:
    """Write model, corpus, configuration and samples, and return the configuration."""
    for name in ("configs", "models", "runs", "data", "index"):
        (WORKSPACE / name).mkdir(parents=True, exist_ok=True)
    data = ["--input", "text:python-stdlib", "--output", "data/bench", "--model", MODEL]
    for job, arguments in (("fetch", [MODEL]), ("prepare", [*data, "--append-eos"])):
        line = command(make_plan(job, arguments, loaded), threads)
        subprocess.run(line, stdout=sys.stderr, check=True)
    config: dict[str, Any] = json.loads((ROOT / "configs/jobs/cpu/pretrain-demo.json").read_text())
    config |= {
        "model_name_or_path": "bench",
        "tokenizer_name_or_path": "bench",
        "continue_training": True,
        "input_dir": "data/bench",
        "do_eval": False,
        "evaluation_strategy": "no",
        "save_strategy": "no",
        "min_learning_rate": config["learning_rate"],
        "warmup_steps": 0,
        "logging_steps": 1,
        "max_steps": steps,
    }
    (WORKSPACE / _CONFIG).write_text(json.dumps(config, indent=2))
    shutil.copy(BENCH / "pretrain_inputs.py", WORKSPACE)
    plan = make_plan("prepare", data, loaded)
    write = ["python", "pretrain_inputs.py", _CONFIG, MODEL, _SAMPLES, str(steps)]
    subprocess.run(command(plan, threads, argv=write), check=True)
    keys = ("learning_rate", "adam_beta1", "adam_beta2", "weight_decay", "max_grad_norm")
    chosen = {key: config[key] for key in keys}
    chosen |= {"rows": config["per_device_train_batch_size"], "steps": steps}
    (WORKSPACE / _SETTINGS).write_text(json.dumps(chosen, indent=2))
    shutil.rmtree(WORKSPACE / "hf", ignore_errors=True)
    convert = other_command(
        plan, threads, packages, "peft_side.py", "convert", "models/bench", "hf"
    )
    subprocess.run(convert, check=True)
    return config


def measure(
    loaded: settings.Settings, packages: Path, rounds: int, threads: int
) -> list[dict[str, Run]]:
    """Run all variants in turns, and return the measurements of each round."""
    seen = []
    for number in range(1, rounds + 1):
        report.say(f"round {number} of {rounds}, load {report.load()}")
        entry = {
            "ours": _ours(loaded, threads),
            "theirs": _theirs(loaded, packages, threads),
            "ours, one thread": _ours(loaded, 1),
            "theirs, one thread": _theirs(loaded, packages, 1),
            _TWO: _ours(loaded, 2, ranks=2),  # the job divides threads among its processes
        }
        first = {side: run.losses[0] for side, run in entry.items() if side != _TWO}
        if max(first.values()) - min(first.values()) > _SAME_LOSS:
            raise JobError(
                f"the sides do not compute the same: the first step's losses are {first}",
                remedy="compare their data, weights and precision before their speed",
            )
        seen.append(entry)
    return seen


def _ours(loaded: settings.Settings, threads: int, ranks: int = 1) -> Run:
    line = ["--config", _CONFIG, "--name", "bench", "--resume", "never"]
    line += ["--ranks", str(ranks)] if ranks > 1 else []
    plan = _unnamed(make_plan("pretrain", line, loaded))
    return watched(plan, command(plan, threads))


def _theirs(loaded: settings.Settings, packages: Path, threads: int) -> Run:
    plan = _unnamed(make_plan("pretrain", ["--config", _CONFIG], loaded))
    arguments = ["trainer_side.py", "hf", _SAMPLES, _SETTINGS, str(threads)]
    return watched(plan, other_command(plan, threads, packages, *arguments))


def _unnamed(plan: Any) -> Any:
    """Return the plan without a job's name and labels, so that ``./inv stop`` does not end it."""
    return dataclasses.replace(plan, name=f"bench-pretrain-{os.getpid()}", labels={})


def compare(seen: list[dict[str, Run]], tokens: int) -> dict[str, Any]:
    """Return the medians of each side, their ratios, and the efficiency of two processes.

    Args:
        seen: of each round.
        tokens: of a step of one process.
    """
    sides: dict[str, Any] = {}
    for side in seen[0]:
        runs = [entry[side] for entry in seen]
        step_metrics = tokens * (2 if side == _TWO else 1)
        sides[side] = {
            "tokens_per_second": round(step_metrics / _median(runs, "seconds"), 1),
            "tokens_per_cpu_second": round(step_metrics / _median(runs, "cpu"), 1),
            "start_seconds": round(statistics.median(run.start for run in runs), 1),
            "peak_mib": max(run.peak_mib for run in runs),
            "first_loss": round(runs[0].losses[0], 5),
            "last_loss": round(runs[0].losses[-1], 5),
        }
    pairs = {
        "threads": ("theirs", "ours"),
        "one_thread": ("theirs, one thread", "ours, one thread"),
        "efficiency": ("ours, one thread", _TWO),
    }
    ratios = {
        name: {key: _ratio(seen, *pair, key) for key in ("seconds", "cpu")}
        for name, pair in pairs.items()
    }
    # Two processes have twice the processor seconds of a step when they work as well as one.
    ratios["efficiency"]["cpu"] = round(2 * ratios["efficiency"]["cpu"], 2)
    return {"sides": sides, "ratios": ratios}


def _counted(run: Run, key: str) -> list[float]:
    values: list[float] = getattr(run, key)
    return values[_WARM_UP - 1 :]  # the first step is in the start-up


def _median(runs: Sequence[Run], key: str) -> float:
    return statistics.median(value for run in runs for value in _counted(run, key))


def _ratio(seen: list[dict[str, Run]], side: str, by: str, key: str) -> float:
    """Return the ratio of the step times of two sides.

    Steps of the same round are compared, when the machine was about equally busy.
    """
    ratios = [_median([entry[side]], key) / _median([entry[by]], key) for entry in seen]
    return round(statistics.median(ratios), 2)


def tables(document: dict[str, Any]) -> str:
    """Return the document as Markdown."""
    named = {
        "tokens_per_second": ("tokens/s", "seconds"),
        "tokens_per_cpu_second": ("tokens per processor second", "cpu"),
        "start_seconds": ("to the end of the first step, s", ""),
        "peak_mib": ("peak memory, MiB", ""),
        "first_loss": ("loss of the first step", ""),
        "last_loss": ("loss of the last step", ""),
    }
    sides, ratios = document["sides"], document["ratios"]
    many = f"{document['threads']} threads"
    lines = []
    for title, end, name in ((many, "", "threads"), ("one thread", ", one thread", "one_thread")):
        ours, theirs = sides[f"ours{end}"], sides[f"theirs{end}"]
        rows = [
            (text, ours[key], theirs[key], ratios[name].get(of, ""))
            for key, (text, of) in named.items()
        ]
        heads = (f"one process, {title}", "paddle-stacks", "transformers' Trainer", "ratio")
        lines.append(report.table(heads, rows))
    one, two = sides["ours, one thread"], sides[_TWO]
    rows = [
        (text, one[key], two[key], ratios["efficiency"].get(of, ""))
        for key, (text, of) in list(named.items())[:4]
    ]
    heads = ("processes of one thread", "one", "two", "efficiency")
    return "\n\n".join([*lines, report.table(heads, rows)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=16, help="steps of a run; default: 16")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side; default: 3")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores"
    )
    parser.add_argument("--packages", type=Path, help="a folder that has bench/requirements.txt")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    document: dict[str, Any] = {"machine": report.machine(), "goals": GOALS}
    try:
        if options.steps <= _WARM_UP:
            raise RequestError(
                f"--steps must be more than {_WARM_UP}",
                where="--steps",
                remedy=f"write --steps {_WARM_UP + 10}",
            )
        WORKSPACE.mkdir(parents=True, exist_ok=True)
        loaded = settings.load(ROOT, {"workspace": str(WORKSPACE)})
        packages = options.packages or yardstick(ROOT / ".cache" / "bench-packages")
        config = prepare(loaded, packages, options.steps, options.threads)
        seen = measure(loaded, packages, options.rounds, options.threads)
    except StackError as error:
        print(render(error), file=sys.stderr)
        return error.status
    tokens = config["per_device_train_batch_size"] * config["max_seq_length"]
    document |= {"steps": options.steps, "threads": options.threads, "tokens_of_a_step": tokens}
    document |= compare(seen, tokens)
    document["rounds"] = [
        {side: dataclasses.asdict(run) for side, run in entry.items()} for entry in seen
    ]
    report.show(document, tables(document), as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
