"""Benchmark of `prepare` against upstream's create_pretraining_data.py.

``.venv/bin/python bench/prepare.py --upstream DIR [--megabytes N] [--rounds N] [--json]``

DIR is upstream's ``llm`` folder. Both read the same JSON lines with the same tokenizers (a
LlamaTokenizer and a Qwen2Tokenizer without merges, made on the spot) with as many processes
as there are cores, in containers of the training image, taking turns; the time is that of the
whole process, its start included. The run ends with an error if their bytes differ.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.report import machine, say, show, spread, table

WORK = ROOT / ".cache" / "bench-prepare"
MODELS = {"sentencepiece": "LlamaTokenizer", "bytes": "Qwen2Tokenizer"}
SCRIPT = "/upstream/tools/preprocess/create_pretraining_data.py"


def main() -> None:
    """Run both sides and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", type=Path, required=True, help="upstream's llm folder")
    parser.add_argument("--megabytes", type=int, default=20, help="of text (default: 20)")
    parser.add_argument("--rounds", type=int, default=2, help="of each side (default: 2)")
    parser.add_argument("--json", action="store_true", help="print a document, not a table")
    asked = parser.parse_args()
    document: dict[str, Any] = {"machine": machine(), "models": {}}
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "data").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "jobs" / "tiny.py", WORK)
    run(asked.upstream, "python", "tiny.py", "models", *MODELS)
    size = write_text(WORK / "data" / "in.jsonl", asked.megabytes)
    for model, name in MODELS.items():
        document["models"][name] = compare(asked, model, name, size)
    rows = []
    for name, found in document["models"].items():
        ours, theirs = found["ours"]["median"], found["upstream"]["median"]
        speeds = (f"{size / 1e6 / ours:.2f}", f"{size / 1e6 / theirs:.2f}")
        rows.append((f"{name}, MB/s", *speeds, f"{theirs / ours:.2f}"))
    show(
        document,
        table(("tokens of text", "prepare", "upstream's script", "ratio"), rows),
        as_json=asked.json,
    )


def compare(asked: argparse.Namespace, model: str, name: str, size: int) -> dict[str, Any]:
    """Return the seconds of both sides, taking turns."""
    workers = str(len(os.sched_getaffinity(0)))
    ours = ["prepare", "--input", "data/in.jsonl", "--output", "data/ours", "--append-eos"]
    ours += ["--model", model, "--workers", workers, "--force"]
    theirs = ["python", SCRIPT, "--model_name", f"models/{model}", "--tokenizer_name", name]
    theirs += ["--input_path", "data/in.jsonl", "--output_prefix", "data/theirs"]
    theirs += ["--data_format", "JSON", "--append_eos", "--workers", workers]
    times: dict[str, list[float]] = {"ours": [], "upstream": []}
    for number in range(asked.rounds):
        say(f"{name}: round {number + 1} of {asked.rounds}, {size / 1e6:.0f} MB")
        times["ours"].append(run(asked.upstream, *ours))
        times["upstream"].append(run(asked.upstream, *theirs))
    for suffix in ("bin", "idx"):
        data = WORK / "data"
        if not filecmp.cmp(data / f"ours.{suffix}", data / f"theirs.{suffix}", shallow=False):
            sys.exit(f"{name}: the two sides wrote another .{suffix}")
    return {side: spread(seconds) for side, seconds in times.items()}


def run(upstream: Path, *command: str) -> float:
    """Run a command in the training image, and return how long it took."""
    docker = ["docker", "run", "--rm", "--network", "none", "-v", f"{WORK}:/workspace"]
    docker += ["-v", f"{upstream.resolve()}:/upstream:ro", "paddle-stacks/train:cpu"]
    began = time.monotonic()
    done = subprocess.run([*docker, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.monotonic() - began


def write_text(path: Path, megabytes: int) -> int:
    """Write sentences of the project's own documents, shuffled; return the bytes written."""
    pages = [page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))]
    lines = [line for page in pages for line in page.splitlines() if len(line) > 30]
    pick, written = random.Random(1), 0
    with path.open("w") as stream:
        while written < megabytes * 10**6:
            text = "\n".join(pick.choices(lines, k=pick.randint(1, 20)))
            written += stream.write(json.dumps({"text": text}) + "\n")
    return written


if __name__ == "__main__":
    main()
