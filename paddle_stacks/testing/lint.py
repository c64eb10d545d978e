"""The linters and the type checker, on what git tracks."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paddle_stacks.errors import JobError

__all__ = ["run"]


def run(root: Path) -> str:
    """Run all linters beside each other, and return a line that says what was run.

    Raises:
        JobError: some of them have findings, which are printed.
    """
    began = time.monotonic()
    commands = _commands(root)
    with ThreadPoolExecutor() as pool:
        outputs = pool.map(lambda command: _run(root, command), commands.values())
        results = dict(zip(commands, outputs, strict=True))
    failed = [name for name, output in results.items() if output is not None]
    for name in failed:
        print(f"== {name}\n{results[name]}", file=sys.stderr)
    if failed:
        raise JobError(f"{', '.join(failed)}: see above", remedy="./inv lint runs them again")
    return f"lint: {', '.join(commands)}: no findings in {time.monotonic() - began:.0f} s"


def _commands(root: Path) -> dict[str, list[str]]:
    tracked = _tracked(root)
    python = [name for name in tracked if name.endswith(".py")]
    scripts = [name for name in tracked if _is_shell_script(root / name)]
    bin_folder = Path(sys.executable).parent
    return {
        "ruff": [f"{bin_folder}/ruff", "check", "--quiet", *python],
        "ruff format": [f"{bin_folder}/ruff", "format", "--check", "--quiet", *python],
        "mypy": [f"{bin_folder}/mypy", "--no-error-summary"],
        "shellcheck": [f"{bin_folder}/shellcheck", *scripts],
        "hadolint": [f"{bin_folder}/hadolint", "Dockerfile"],
        "docker compose": ["docker", "compose", "config", "--quiet"],
        "docker bake": ["docker", "buildx", "bake", "-f", "docker-bake.hcl", "--print", "all"],
    }


def _run(root: Path, command: list[str]) -> str | None:
    """Return what a linter printed if it has findings."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else None


def _tracked(root: Path) -> list[str]:
    """Return the files that git tracks, less those that the checkout has lost."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
    )
    return [name for name in done.stdout.split("\0") if name and (root / name).is_file()]


def _is_shell_script(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.readline(80).startswith((b"#!/bin/sh", b"#!/usr/bin/env bash"))
