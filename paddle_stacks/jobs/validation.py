"""Ranges and combinations of every job's options: one check for the host and the container."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any

from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import documented, platforms, serving
from paddle_stacks.jobs.workspace import run_name_problem

__all__ = ["check", "node_problems", "sampling_options"]

_MAX_LOGPROBS = 20  # of OpenAI's API
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+:-]{0,127}")
_ETCD = "etcd://"

# An option, its value, whether it is in range, and the range.
_Range = tuple[str, Any, bool, str]


def check(job: str, arguments: argparse.Namespace, backend: str) -> None:
    """Check ranges and combinations of a job's options.

    Args:
        job: its name.
        arguments: as the job's parser returned them.
        backend: where it will run.

    Raises:
        RequestError: with one problem for each fault.
    """
    problems = [*_check_run(job, arguments)]
    if specific := _CHECKS.get(job):
        problems += specific(arguments, backend)
    if problems:
        raise RequestError(problems)


def node_problems(count: int, master: str, rank: int | None) -> list[Problem]:
    """Return what is wrong with the options about several machines.

    Args:
        count: of machines.
        master: where they meet, as HOST:PORT.
        rank: which of them this is; None where they find that out.
    """
    problems = _master_problems(master, count) if count > 1 else []
    if rank is not None and not -1 <= rank < count:
        what = f"--rank must be in 0 … {count - 1}, got {rank}"
        problems.append(Problem(what, "--rank", "--rank N, with another N on each node, from 0"))
    return problems


def sampling_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options of ``infer`` that were given and mean sampling."""
    return [
        f"--{name.replace('_', '-')}"
        for name in ("temperature", "top_k", "top_p")
        if getattr(arguments, name) is not None
    ]


def _master_problems(master: str, count: int) -> list[Problem]:
    host, _, port = master.removeprefix(_ETCD).rpartition(":")
    if not host or not re.fullmatch(r"\d+", port):
        what = f"--nnodes {count} requires --master, where the nodes meet"
        remedy = "--master HOST:PORT with an address of node 0, or PADDLE_MASTER"
        return [Problem(what, f"--master {master}".strip(), remedy)]
    if ":" in host or "/" in host:
        what = f'"{host}" is neither a name nor an IPv4 address, which Paddle\'s launcher requires'
        return [Problem(what, f"--master {master}", "--master HOST:PORT")]
    if not 0 < int(port) < 65536:
        what = f"the port of --master must be in 1 … 65535, got {port}"
        return [Problem(what, f"--master {master}", "--master HOST:PORT")]
    return []


def _check_run(job: str, arguments: argparse.Namespace) -> list[Problem]:
    """Check the options that several jobs have."""
    problems: list[Problem] = []
    name = getattr(arguments, "name", None)
    if name is not None and (problem := run_name_problem(name)):
        problems.append(problem)
    ranges: list[_Range] = []
    if hasattr(arguments, "grace"):
        ranges.append(("--grace", arguments.grace, arguments.grace >= 0, "at least 0"))
    if hasattr(arguments, "samples"):
        ranges.append(("--samples", arguments.samples, arguments.samples >= 0, "at least 0"))
    return [*problems, *_out_of_range(job, ranges)]


def _check_export(arguments: argparse.Namespace, backend: str) -> list[Problem]:
    problems = []
    if not arguments.merge and not arguments.static:
        remedy = "--merge merges an adapter, --static makes a static graph"
        problems.append(Problem("--merge or --static is required", "export", remedy))
    if arguments.merge and not arguments.adapter:
        remedy = "--adapter RUN, or leave --merge out"
        problems.append(Problem("--merge requires --adapter", "export", remedy))
    if arguments.static and platforms.device(backend) != "cpu":
        what = "--static makes a graph for a CPU; a card needs upstream's"
        remedy = "./inv export --backend dcu --recipe export-block-fp16"
        problems.append(Problem(what, "export", remedy))
    if not arguments.output.strip():
        problems.append(Problem("--output is empty", "export", "--output models/NAME"))
    return problems


def _check_serve(arguments: argparse.Namespace, backend: str) -> list[Problem]:
    longest = arguments.max_prompt_tokens
    requests = arguments.requests_per_minute
    problems = _out_of_range(
        "serve",
        [
            ("--port", arguments.port, 0 <= arguments.port < 65536, "in 0 … 65535"),
            ("--requests-per-minute", requests, requests >= 0, "at least 0"),
            _batch_size(arguments),
            _between("--max-waiting", arguments.max_waiting, 0, 100_000),
            _positive("--max-new-tokens", arguments.max_new_tokens),
            ("--max-prompt-tokens", longest, longest is None or longest > 0, "at least 1"),
            _positive("--cache-tokens", arguments.cache_tokens),
            _positive("--prefill-tokens", arguments.prefill_tokens),
        ],
    )
    problems += _check_dtype("serve", arguments, backend)
    problems += [
        Problem(
            f'--allowed-origin "{origin}" is not an origin',
            "serve",
            "scheme, host and port alone: --allowed-origin https://app.example:8443",
        )
        for origin in arguments.allowed_origin
        if not serving.is_origin(origin)
    ]
    name = arguments.served_model_name
    if name is not None and not _MODEL_NAME.fullmatch(name):
        what = f'--served-model-name "{name}" must consist of letters, digits and ._/+:-'
        remedy = "--served-model-name NAME, or leave it out for the folder's name"
        problems.append(Problem(what, "serve", remedy))
    if arguments.host != "localhost" and not serving.is_address(arguments.host):
        what = f'--host must be an IP address, got "{arguments.host}"'
        problems.append(Problem(what, "serve", "--host 127.0.0.1, or another address"))
    return problems


def _check_infer(arguments: argparse.Namespace, backend: str) -> list[Problem]:
    return [
        *_check_engine(arguments, backend),
        *_check_combinations(arguments),
        *_check_dtype("infer", arguments, backend),
        *_check_decoding(arguments),
    ]


def _check_upstream(arguments: argparse.Namespace, backend: str) -> list[Problem]:
    problem = documented.misplaced_script(arguments.script, arguments.arguments)
    return [problem] if problem else []


def _check_engine(arguments: argparse.Namespace, backend: str) -> list[Problem]:
    """Check the engine: some are upstream's, and run by recipes."""
    on_cpu = platforms.device(backend) == "cpu"
    engine = arguments.engine
    recipes = {
        "fused": "infer-block-fp16, infer-block-static-fp16",
        "block": "infer-block-fp16, infer-block-static-fp16",
        "static": "infer-block-static-fp16",
    }
    problems = []
    if engine in ("fused", "block") or (engine == "static" and not on_cpu):
        what = f"--engine {engine} requires the operators of a DCU"
        if not on_cpu:
            what = f"--engine {engine} is upstream's program on cards"
        remedy = f"./inv infer --backend dcu --recipe NAME, with {recipes[engine]}"
        remedy += "; here: --engine dynamic or static" if on_cpu else "; or --engine dynamic"
        problems.append(Problem(what, "infer", remedy))
    if engine == "native" and not on_cpu:
        what = "--engine native computes on a CPU"
        problems.append(Problem(what, "infer", "--backend cpu, or --engine dynamic"))
    if arguments.precision is not None and engine != "native":
        what = "--precision requires --engine native"
        problems.append(Problem(what, "infer", "--engine native, or leave --precision out"))
    if engine == "static" and arguments.adapter:
        what = "--engine static does not take --adapter: the graph contains its adapter"
        remedy = "./inv export --model MODEL --adapter RUN --static --output exported/NAME"
        problems.append(Problem(what, "infer", remedy))
    return problems


def _check_combinations(arguments: argparse.Namespace) -> list[Problem]:
    problems = []
    tasks = {
        "--prompt": arguments.prompt is not None,
        "--input": arguments.input is not None,
        "--chat": arguments.chat,
        "--benchmark": arguments.benchmark,
    }
    chosen = [name for name, given in tasks.items() if given]
    if len(chosen) != 1:
        got = " and ".join(chosen) or "none of them"
        what = f"expected one of --prompt, --input, --chat and --benchmark, got {got}"
        remedy = "keep one of them, for instance --prompt 'Who are you?'"
        problems.append(Problem(what, "infer", remedy))
    to_file = "put the prompts into a file: --input prompts.jsonl"
    if arguments.output is not None and arguments.input is None and not arguments.benchmark:
        what = "--output requires --input; other answers go to standard output"
        problems.append(Problem(what, "infer", to_file))
    if arguments.logprobs is not None and arguments.input is None:
        what = "--logprobs requires --input; other answers are text only"
        problems.append(Problem(what, "infer", to_file))
    if arguments.raw and (arguments.system is not None or arguments.chat):
        what = "--raw cannot be combined with --system or --chat, which need the chat template"
        problems.append(Problem(what, "infer", "leave --raw out"))
    if arguments.decode == "greedy" and (names := ", ".join(sampling_options(arguments))):
        what = f"--decode greedy cannot be combined with {names}"
        problems.append(Problem(what, "infer", "--decode sampling"))
    if any(not stop for stop in arguments.stop):
        what = "--stop is empty: every answer would end at once"
        problems.append(Problem(what, "infer", "--stop TEXT, or leave it out"))
    return problems


def _check_decoding(arguments: argparse.Namespace) -> list[Problem]:
    temperature, top_k, top_p = arguments.temperature, arguments.top_k, arguments.top_p
    logprobs, penalty = arguments.logprobs, arguments.repetition_penalty
    problems = _out_of_range(
        "infer",
        [
            ("--temperature", temperature, temperature is None or _finite(temperature), "> 0"),
            ("--top-k", top_k, top_k is None or top_k >= 0, "at least 0"),
            ("--top-p", top_p, top_p is None or 0 < top_p <= 1, "in (0, 1]"),
            ("--repetition-penalty", penalty, penalty is None or _finite(penalty), "> 0"),
            ("--seed", arguments.seed, 0 <= arguments.seed < 2**63, "in 0 … 2**63 - 1"),
            _positive("--max-new-tokens", arguments.max_new_tokens),
            _batch_size(arguments),
            _positive("--source-length", arguments.source_length),
            _between("--rounds", arguments.rounds, 1, 1000),
            (
                "--logprobs",
                logprobs,
                logprobs is None or 0 <= logprobs <= _MAX_LOGPROBS,
                f"in 0 … {_MAX_LOGPROBS}",
            ),
        ],
    )
    return [
        Problem(p.what, p.where, "for the most likely token every time: --decode greedy")
        if p.what.startswith("--temperature") and temperature == 0
        else p
        for p in problems
    ]


def _check_dtype(job: str, arguments: argparse.Namespace, backend: str) -> list[Problem]:
    if arguments.dtype != "float16" or platforms.device(backend) != "cpu":
        return []
    what = "--dtype float16 requires a card: a CPU computes in float32"
    return [Problem(what, job, "leave it out, or --dtype float32")]


def _finite(value: float) -> bool:
    return value > 0 and math.isfinite(value)


def _positive(name: str, value: int) -> _Range:
    return (name, value, value > 0, "at least 1")


def _between(name: str, value: int, least: int, most: int) -> _Range:
    return (name, value, least <= value <= most, f"in {least} … {most}")


def _batch_size(arguments: argparse.Namespace) -> _Range:
    return _between("--batch-size", arguments.batch_size, 1, 1024)


def _out_of_range(job: str, ranges: list[_Range]) -> list[Problem]:
    return [
        Problem(f"{name} must be {right}, got {value}", job, f"{name} N, with N {right}")
        for name, value, fits, right in ranges
        if not fits
    ]


_CHECKS: dict[str, Callable[[argparse.Namespace, str], list[Problem]]] = {
    "export": _check_export,
    "infer": _check_infer,
    "serve": _check_serve,
    "upstream": _check_upstream,
}
