"""What people type instead of a task or an option, answered with the command that is meant."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from paddle_stacks.jobs import deprecated_flags

__all__ = ["corrected_option", "task_command"]

# A name, and the words that stand for it; further words of the command line follow them.
_TASKS: dict[str, str] = {
    **dict.fromkeys(("fine-tune", "finetuning", "lora", "sft", "train", "tune"), "finetune"),
    **dict.fromkeys(("pretraining", "pre-train"), "pretrain"),
    **dict.fromkeys(("ask", "generate", "inference", "predict", "predictor"), "infer"),
    "chat": "infer --chat",
    **dict.fromkeys(("api", "server"), "serve"),
    **dict.fromkeys(("download", "get", "pull"), "fetch"),
    **dict.fromkeys(("preprocess", "tokenize"), "prepare"),
    **dict.fromkeys(("quantise", "ptq"), "quantize"),
    "merge": "export --merge",
    "check": "doctor",
    "benchmark": "infer --benchmark",
    "cancel": "cluster.cancel",
    "logs": "cluster.logs",
    "status": "cluster.status",
    "submit": "cluster.submit",
    "render": "cluster.render",
}
_PROGRAM = {
    **dict.fromkeys(("list", "ls", "tasks", "jobs"), "--list"),
    "help": "--help",
    "version": "--version",
}
_RUNNING = "docker ps --filter label=paddle-stacks.job"
_STOP = f"press Ctrl-C in its terminal, or: docker stop --time 45 NAME; the names: {_RUNNING}"


def task_command(name: str, rest: Sequence[str]) -> str:
    """Return the command that is meant by a task that does not exist; empty: nothing known.

    Args:
        name: of the task.
        rest: the words after it.
    """
    if name in ("kill", "stop"):
        return _STOP
    if name == "ps":
        return _RUNNING
    if words := _PROGRAM.get(name):
        return f"./inv {words}"
    if words := _TASKS.get(name):
        return " ".join(filter(None, ("./inv", words, shlex.join(rest))))
    return ""


def corrected_option(job: str, option: str, argv: Sequence[str]) -> str:
    """Return the command line with an option replaced by the one that is meant, or empty.

    Args:
        job: whose options count.
        option: as it was written, with its dashes.
        argv: the command line, without the program.
    """
    right = deprecated_flags.replacement(job, option)
    at = next((i for i, word in enumerate(argv) if word.partition("=")[0] == option), None)
    if not right or at is None:
        return ""
    words = list(argv)
    _, equals, value = words[at].partition("=")
    following = words[at + 1] if at + 1 < len(words) else ""
    if not equals and right.endswith("="):
        # A key of the configuration: its value is a part of the same word.
        value = "true" if not following or following.startswith("--") else words.pop(at + 1)
    new = right.split()
    if right.endswith("="):
        new[-1] += value
    elif equals:
        new[-1] += f"={value}"
    return f"./inv {shlex.join([*words[:at], *new, *words[at + 1 :]])}"
