"""Benchmark of LoRA fine-tuning against Hugging Face transformers and peft.

``.venv/bin/python bench/finetune.py [--steps N] [--rounds N] [--threads N] [--json]``

Both sides train the same weights (SmolLM2-135M-Instruct) on the same batches in the same
order, in float32, with the same rank, targets, optimizer and threads. One side is the unmodified
``finetune`` job, the other ``peft_side.py``. Both run in a container of the training image, so
that the engine and the scheduler treat them alike; the other side uses Debian's Python and
separate packages. They take turns and are measured in the same way: the output after a step
gives its time, ``/proc`` the processor time and the memory. The losses of the first step show
that both do the same work.
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

WORKSPACE = ROOT / ".cache" / "bench-finetune"
MODEL = "smollm2-135m-instruct"
GOALS = {"tokens_per_second_ratio": 1.0}
_WARM_UP = 2  # steps that are not counted: both libraries allocate and tune in them
_SAME_LOSS = 1e-3


def prepare(
    loaded: settings.Settings, packages: Path, data: Path, steps: int, threads: int
) -> None:
    """Write the model in both layouts, the data, the configuration and the batches."""
    if not (data / "train.json").is_file():
        raise RequestError("there is no train.json", where=str(data), remedy="--data FOLDER")
    for name in ("configs", "data", "models", "runs"):
        (WORKSPACE / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(WORKSPACE / "data" / "bench", ignore_errors=True)
    shutil.copytree(data, WORKSPACE / "data" / "bench")
    fetch = command(make_plan("fetch", [MODEL], loaded), threads)
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
    plan = make_plan("finetune", ["--config", "configs/bench.json"], loaded)
    write = ["python", "write_batches.py", "configs/bench.json", "batches.json", str(steps)]
    subprocess.run(command(plan, threads, argv=write), check=True)
    checkpoint = WORKSPACE / "models" / MODEL
    padding = json.loads((checkpoint / "config.json").read_text())["pad_token_id"]
    chosen = {key: config[key] for key in ("lora_rank", "learning_rate", "max_grad_norm", "seed")}
    chosen |= {"threads": threads, "padding": padding}
    (WORKSPACE / "peft.json").write_text(json.dumps(chosen, indent=2))
    if not (WORKSPACE / "hf" / "config.json").is_file():
        convert = ["convert", f"models/{MODEL}", "hf"]
        subprocess.run(other_command(plan, threads, packages, "peft_side.py", *convert), check=True)


def measure(
    loaded: settings.Settings, packages: Path, rounds: int, threads: int
) -> list[dict[str, Run]]:
    """Run both sides in turns, and return the measurements of each round."""
    seen = []
    arguments = ["--config", "configs/bench.json", "--name", "bench", "--resume", "never"]
    train = ["train", "hf", "batches.json", "peft.json"]
    for number in range(1, rounds + 1):
        report.say(f"round {number} of {rounds}, load {report.load()}")
        planned = make_plan("finetune", arguments, loaded)
        # Without a job's name and labels, so that ./inv stop does not end a measurement.
        plan = dataclasses.replace(planned, name=f"bench-finetune-{os.getpid()}", labels={})
        ours = watched(plan, command(plan, threads))
        theirs = watched(plan, other_command(plan, threads, packages, "peft_side.py", *train))
        if abs(ours.losses[0] - theirs.losses[0]) > _SAME_LOSS:
            raise JobError(
                f"the two sides do not do the same: the first step's loss is {ours.losses[0]} "
                f"here and {theirs.losses[0]} in peft",
                remedy="compare their data, weights and precision before their speed",
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


def tables(document: dict[str, Any]) -> str:
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
    ours, theirs = document["sides"]["paddle-stacks"], document["sides"]["peft"]
    rows = [
        (text, ours[key], theirs[key], document["ratios"].get(key, ""))
        for key, text in named.items()
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
        prepare(loaded, packages, options.data, options.steps, options.threads)
        seen = measure(loaded, packages, options.rounds, options.threads)
    except StackError as error:
        print(render(error), file=sys.stderr)
        return error.status
    batches = json.loads((WORKSPACE / "batches.json").read_text())
    document |= {"steps": options.steps, "threads": options.threads, **compare(seen, batches)}
    document["rounds"] = [
        {side: dataclasses.asdict(run) for side, run in entry.items()} for entry in seen
    ]
    report.show(document, tables(document), as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
