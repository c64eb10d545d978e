"""Benchmark of `prepare` against upstream's create_pretraining_data.py.

``.venv/bin/python bench/prepare.py --upstream DIR [--megabytes N] [--rounds N] [--json]``

DIR is upstream's ``llm`` folder. Both read the same JSON lines with the same tokenizers (a
LlamaTokenizer, and a Qwen2Tokenizer with merges, which the benchmark creates) with one process
per core, in turns, in containers of the training image. Times include the start of the process:
wall-clock time, and processor time, which depends less on other work on the machine. The run fails
if the outputs differ.

There are two texts: the project's pages, with repeated lines, and the modules of Python's
standard library, each once.

``.venv/bin/python bench/prepare.py --memory [--json]`` prints the peak memory of `prepare` for
10 MB, 100 MB and 1 GB of text instead, in which every tenth word is new.
"""

from __future__ import annotations

import argparse
import filecmp
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.report import machine, say, show, spread, table

WORK = ROOT / ".cache" / "bench-prepare"
MODELS = {"sentencepiece": "LlamaTokenizer", "merged": "Qwen2Tokenizer"}
MEGABYTES = (10, 100, 1000)
SCRIPT = "/upstream/tools/preprocess/create_pretraining_data.py"


def main() -> None:
    """Run both sides and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", type=Path, help="upstream's llm folder")
    parser.add_argument("--memory", action="store_true", help="print peak memory instead")
    parser.add_argument("--megabytes", type=int, default=20, help="of text (default: 20)")
    parser.add_argument("--rounds", type=int, default=2, help="of each side (default: 2)")
    parser.add_argument("--json", action="store_true", help="print a document, not a table")
    options = parser.parse_args()
    if not options.memory and not options.upstream:
        parser.error("--upstream names upstream's llm folder; --memory does without")
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "data").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "support" / "tiny.py", WORK)
    run(None, "python", "tiny.py", "models", *MODELS)
    (show_memory if options.memory else show_speed)(options)
    shutil.rmtree(WORK)


def show_speed(options: argparse.Namespace) -> None:
    """Print the speed of both sides for each tokenizer and text."""
    document: dict[str, Any] = {"machine": machine(), "found": []}
    rows = []
    for text, write in (("pages", write_pages), ("modules", write_modules)):
        size = write(WORK / "data" / "in.jsonl", options.megabytes)
        for model, name in MODELS.items():
            result = compare(options, model, name, size)
            document["found"].append({"tokenizer": name, "text": text, "bytes": size, **result})
            row = [f"{name}, {text}, {size / 1e6:.0f} MB"]
            for kind in ("clock", "cores"):
                ours, theirs = (result[side][kind]["median"] for side in ("ours", "upstream"))
                row += [f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.2f}"]
            rows.append(row)
    head = ("seconds", "prepare", "upstream", "ratio", "of cores: prepare", "upstream", "ratio")
    show(document, table(head, rows), as_json=options.json)


def show_memory(options: argparse.Namespace) -> None:
    """Print the peak memory with each tokenizer, for texts of several sizes."""
    document: dict[str, Any] = {"machine": machine(), "found": []}
    rows = []
    for megabytes in MEGABYTES:
        write_new_words(WORK / "data" / "in.jsonl", megabytes)
        for model, name in MODELS.items():
            say(f"{name}: {megabytes} MB")
            own, worker = peaks(model)
            result = {"tokenizer": name, "megabytes": megabytes, "process": own, "worker": worker}
            document["found"].append(result)
            rows.append((f"{name}, {megabytes} MB", str(own), str(worker)))
    head = ("peak memory, MiB", "reads and writes", "largest worker")
    show(document, table(head, rows), as_json=options.json)


WATCHED = """
import glob, os, re, sys, threading, time
from entrypoints import prepare

peaks, done, parent = {}, threading.Event(), f"PPid:\\t{os.getpid()}\\n"

def watch():
    while not done.wait(0.1):
        for path in [*glob.glob("/proc/[0-9]*/status"), "/proc/self/status"]:
            try:
                with open(path) as stream:
                    text = stream.read()
            except OSError:
                continue  # it has ended
            # A worker is a fork of this process: of another name is what a library starts.
            found = re.search(r"VmHWM:\\s+(\\d+)", text)
            if found and (path == "/proc/self/status" or parent in text and "python" in text):
                kind = "own" if path == "/proc/self/status" else "worker"
                peaks[kind] = max(peaks.get(kind, 0), int(found[1]) // 1024)

watcher = threading.Thread(target=watch)
watcher.start()
prepare.main(sys.argv[1:])
done.set()
watcher.join()
print(peaks["own"], peaks["worker"])
"""


def peaks(model: str) -> tuple[int, int]:
    """Return the peak memory of the main process and of a worker, in MiB."""
    line = ["--input", "data/in.jsonl", "--output", "data/ours", "--model", model, "--force"]
    own, worker = run(None, "python", "-c", WATCHED, *line).split()[-2:]
    return int(own), int(worker)


def compare(options: argparse.Namespace, model: str, name: str, size: int) -> dict[str, Any]:
    """Run both sides in turns; return their wall-clock and processor seconds."""
    workers = str(len(os.sched_getaffinity(0)))
    ours = ["-m", "entrypoints", "prepare", "--input", "data/in.jsonl", "--output", "data/ours"]
    ours += ["--append-eos", "--model", model, "--workers", workers, "--force"]
    theirs = [SCRIPT, "--model_name", f"models/{model}", "--tokenizer_name", name]
    theirs += ["--input_path", "data/in.jsonl", "--output_prefix", "data/theirs"]
    theirs += ["--data_format", "JSON", "--append_eos", "--workers", workers]
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "upstream": []}
    for number in range(options.rounds):
        say(f"{name}: round {number + 1} of {options.rounds}, {size / 1e6:.0f} MB")
        times["ours"].append(seconds(options.upstream, *ours))
        times["upstream"].append(seconds(options.upstream, *theirs))
    for suffix in ("bin", "idx"):
        data = WORK / "data"
        if not filecmp.cmp(data / f"ours.{suffix}", data / f"theirs.{suffix}", shallow=False):
            sys.exit(f"{name}: the two sides wrote another .{suffix}")
    return {
        side: {"clock": spread([c for c, _ in pairs]), "cores": spread([c for _, c in pairs])}
        for side, pairs in times.items()
    }


TIMED = """
import resource, subprocess, sys
status = subprocess.run([sys.executable, *sys.argv[1:]]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
sys.exit(status)
"""


def seconds(upstream: Path, *command: str) -> tuple[float, float]:
    """Run Python in the training image; return the wall-clock and processor seconds."""
    began = time.monotonic()
    output = run(upstream, "python", "-c", TIMED, *command)
    return time.monotonic() - began, float(output.split()[-1])


def run(upstream: Path | None, *command: str) -> str:
    """Run a command in the training image, and return its output."""
    docker = ["docker", "run", "--rm", "--network", "none", "-v", f"{WORK}:/workspace"]
    if upstream:
        docker += ["-v", f"{upstream.resolve()}:/upstream:ro"]
    docker += ["paddle-stacks/train:cpu", *command]
    done = subprocess.run(docker, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def write_pages(path: Path, megabytes: int) -> int:
    """Write sentences of the project's own documents, shuffled; return the bytes written."""
    lines, pick = sentences(), random.Random(1)
    texts = ("\n".join(pick.choices(lines, k=pick.randint(1, 20))) for _ in itertools.count())
    return write(path, texts, megabytes)


def write_modules(path: Path, megabytes: int) -> int:
    """Write the modules of Python's standard library, each once; return the bytes written."""
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    random.Random(1).shuffle(files)
    own = (file for file in files if "site-packages" not in file.parts)
    return write(path, (file.read_text(errors="replace") for file in own), megabytes)


def write_new_words(path: Path, megabytes: int) -> int:
    """Write sentences in which every tenth word is new."""
    lines, pick = sentences(), random.Random(1)
    words = [word for line in lines for word in line.split()]
    numbers, letters = itertools.count(), str.maketrans("0123456789", "abcdefghij")

    def text() -> str:
        vocabulary = pick.choices(words, k=180)
        new = [f"{next(numbers):08}".translate(letters) for _ in range(20)]
        return " ".join(pick.sample(vocabulary + new, k=200))

    return write(path, (text() for _ in itertools.count()), megabytes)


def sentences() -> list[str]:
    """Return the lines of the project's own documents."""
    pages = [page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))]
    return [line for page in pages for line in page.splitlines() if len(line) > 30]


def write(path: Path, texts: Iterable[str], megabytes: int) -> int:
    """Write texts as JSON lines up to a size; return the bytes written."""
    written = 0
    with path.open("w") as stream:
        for text in texts:
            written += stream.write(json.dumps({"text": text}) + "\n")
            if written >= megabytes * 10**6:
                break
    return written


if __name__ == "__main__":
    main()
