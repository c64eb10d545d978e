"""Comparison of the memory plan with Paddle's allocator in real trainings on a CPU.

``.venv/bin/python bench/memory.py [--json] [--write]``

Random Llamas of two sizes are trained for two steps by the ``finetune`` job in the
training image, LoRA and full, with and without recompute; every row is filled to the same
length. ``memory_probe.py`` prints the peak bytes of tensors in Paddle's allocator, like
``max_memory_allocated`` on a device. The table also has the process's resident memory, which
includes the interpreter, libraries, buffers of the math library and fragments of the CPU's
allocator; devices have another allocator. ``--write`` writes the table to ``docs/memory.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import finetune
import report

from paddle_stacks import settings
from paddle_stacks.errors import JobError, StackError, render
from paddle_stacks.jobs.llama_config import from_config
from paddle_stacks.launch import make_plan
from paddle_stacks.memory import Layout, Workload, plan

WORKSPACE = ROOT / ".cache" / "bench-memory"
GOAL = 0.10  # of the measured peak
SEQUENCE, RANK = 512, 8
_MIB = 2**20

SIZES: dict[str, tuple[int, dict[str, int]]] = {  # rows of a batch, config.json
    "tiny": (
        1,
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
        },
    ),
    "24M": (
        4,
        {
            "vocab_size": 1000,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
        },
    ),
    "125M": (
        2,
        {
            "vocab_size": 8000,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 12,
            "num_key_value_heads": 12,
            "max_position_embeddings": 2048,
        },
    ),
}


def prepare(loaded: settings.Settings) -> None:
    """Create the models and the data in the workspace."""
    for name in ("configs", "data/long", "models", "runs"):
        (WORKSPACE / name).mkdir(parents=True, exist_ok=True)
    for file in ("bench/random_llama.py", "bench/memory_probe.py", "tests/support/tiny.py"):
        shutil.copy(ROOT / file, WORKSPACE)
    record = json.dumps({"src": "ka lo", "tgt": " ".join(["mitunesa"] * 2000)})  # is cut
    for split, count in (("train", 16), ("dev", 1)):
        text = f"{record}\n" * count
        (WORKSPACE / "data" / "long" / f"{split}.json").write_text(text, encoding="utf-8")
    for name, (_, shape) in SIZES.items():
        folder = WORKSPACE / "models" / name
        if not (folder / "model.safetensors").is_file():
            report.say(f"making {folder}")
            shutil.rmtree(folder, ignore_errors=True)
            _run(loaded, name, ["python", "random_llama.py", name, json.dumps(shape)])


def measure(loaded: settings.Settings, size: str, method: str, recompute: bool) -> dict[str, Any]:
    """Train for two steps and return the predicted and measured memory in MiB."""
    batch, shape = SIZES[size]
    config = {
        "model_name_or_path": size,
        "dataset_name_or_path": "data/long",
        "device": "cpu",
        "lora": method == "lora",
        "lora_rank": RANK,
        "recompute": recompute,
        "per_device_train_batch_size": batch,
        "src_length": SEQUENCE // 2,
        "max_length": SEQUENCE,
        "pad_to_max_length": True,
        "max_steps": 2,
        "logging_steps": 1,
        "learning_rate": 1e-5,
        "save_strategy": "no",
    }
    (WORKSPACE / "configs" / "bench.json").write_text(json.dumps(config, indent=2))
    shutil.rmtree(WORKSPACE / "runs" / "bench", ignore_errors=True)
    words = ["--config", "configs/bench.json", "--name", "bench", "--resume", "never"]
    output = _run(loaded, size, ["python", "memory_probe.py", *words])
    peak = re.findall(r"^allocated (\d+)$", output, re.MULTILINE)
    lines = (WORKSPACE / "runs" / "bench" / "metrics.jsonl").read_text().splitlines()
    work = Workload(
        method=method,
        dtype="float32",
        rank=RANK,
        batch=batch,
        sequence=SEQUENCE,
        recompute="full" if recompute else "none",
    )
    predicted = plan(from_config(shape, size), work, Layout())[0]
    return {
        "model": size,
        "method": method,
        "recompute": recompute,
        "predicted_mib": round(predicted.allocated / _MIB),
        "allocated_mib": round(int(peak[-1]) / _MIB),
        "off": round(predicted.allocated / int(peak[-1]) - 1, 4),
        "moment": predicted.moment,
        "resident_mib": json.loads(lines[-1])["memory_mib"],
    }


def _run(loaded: settings.Settings, model: str, argv: Sequence[str]) -> str:
    # A plan of inference asks nothing of the model's folder, which may not be there yet.
    plan = make_plan("infer", ["--model", model, "--prompt", "x"], loaded)
    image = plan.image.replace("/infer:", "/train:")
    here = dataclasses.replace(plan, image=image, name=f"bench-memory-{os.getpid()}", labels={})
    line = finetune.command(here, len(os.sched_getaffinity(0)), argv=argv)
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise JobError(
            f"status {done.returncode}: {done.stderr[-400:].strip()}",
            where=argv[1],
            remedy="run the command that `at` shows by itself",
        )
    return done.stderr


def table(document: dict[str, Any]) -> str:
    """Return the measurements as a table in Markdown."""
    headings = ("training", "predicted, MiB", "tensors at the peak, MiB", "off", "resident, MiB")
    rows = [
        (
            f"{run['model']}, {run['method']}{', recompute' if run['recompute'] else ''}",
            run["predicted_mib"],
            run["allocated_mib"],
            f"{run['off']:+.1%}",
            run["resident_mib"],
        )
        for run in document["runs"]
    ]
    text = report.table(headings, rows)
    baseline = document["baseline_mib"]
    return f"{text}\n\nBaseline of the process with a negligible model: {baseline} MiB resident."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status; 5 if a prediction misses the goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--write", action="store_true", help="put the table into docs/memory.md")
    options = parser.parse_args(argv)
    document: dict[str, Any] = {"machine": report.machine(), "goal": GOAL}
    try:
        WORKSPACE.mkdir(parents=True, exist_ok=True)
        loaded = settings.load(ROOT, {"workspace": str(WORKSPACE)})
        prepare(loaded)
        tiny = measure(loaded, "tiny", "lora", False)
        document["baseline_mib"] = tiny["resident_mib"] - tiny["allocated_mib"]
        document["runs"] = []
        for size in ("24M", "125M"):
            for method in ("lora", "full"):
                for recompute in (False, True):
                    report.say(f"{size} {method} {'recompute' if recompute else ''}")
                    document["runs"].append(measure(loaded, size, method, recompute))
    except StackError as error:
        print(render(error), file=sys.stderr)
        return error.status
    if options.write:
        on = document["machine"]
        text = f"{table(document)} {on['cpu']}, {on['cores']} cores, {on['date']}."
        report.write("memory.md", "memory.py", text)
    report.show(document, table(document), as_json=options.json)
    return 5 if any(abs(run["off"]) > GOAL for run in document["runs"]) else 0


if __name__ == "__main__":
    sys.exit(main())
