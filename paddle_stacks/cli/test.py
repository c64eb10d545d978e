"""Tasks that prove the project: linters, tests, images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from paddle_stacks.cli import ROOT, finish, task
from paddle_stacks.errors import JobError, RequestError, did_you_mean

_SUITES = {
    "lint": "linters and types",
    "unit": "no engine, seconds",
    "images": "testinfra against the built images",
    "jobs": "real jobs in real containers",
}


@task(help={"suite": f"One of {', '.join(_SUITES)}. Default: all.", "only": "pytest's -k."})
def test(context: Any, suite: str | None = None, only: str | None = None) -> None:
    """Run the tests; what they need is installed, started and built first."""
    if suite is not None and suite not in _SUITES:
        hint = did_you_mean(suite, _SUITES)
        raise RequestError(
            f'no suite is named "{suite}"', remedy=f"{hint} suites: {', '.join(_SUITES)}".strip()
        )
    suites = [suite] if suite else list(_SUITES)
    if "images" in suites or "jobs" in suites:
        _build()
    if "lint" in suites:
        _lint()
    folders = [f"tests/{name}" for name in suites if name != "lint"]
    if folders:
        selected = ["-k", only] if only else []
        finish(_run("pytest", [*folders, *selected]))


@task(help={"image": "One image. Default: all that are built."})
def verify(context: Any, image: str | None = None) -> None:
    """Check the built images: versions, imports, users, labels, layers, size."""
    selected = ["-k", image] if image else []
    finish(_run("pytest", ["tests/images", *selected]))


@task()
def lint(context: Any) -> None:
    """Run ruff, mypy, shellcheck, hadolint, and check the Compose and bake files."""
    _lint()


def _build() -> None:
    from paddle_stacks import build, engine, settings

    engine.ensure()
    build.build(["all"], settings.load(ROOT))


def _lint() -> None:
    checks = (
        ("ruff", ["check", "--quiet", "."]),
        ("ruff", ["format", "--check", "--quiet", "."]),
        ("mypy", ["--no-error-summary"]),
        ("shellcheck", [*_shell_scripts()]),
        ("hadolint", ["Dockerfile"]),
    )
    failed = [name for name, arguments in checks if _run(name, arguments)]
    for command in (
        ["compose", "config", "--quiet"],
        ["buildx", "bake", "-f", "docker-bake.hcl", "--print", "all"],
    ):
        done = subprocess.run(
            ["docker", *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            failed.append(f"docker {command[0]}")
    if failed:
        raise JobError(f"{', '.join(failed)}: see above", remedy="./inv lint runs them again")
    print(
        "lint: ruff, mypy, shellcheck, hadolint, compose config, bake: no finding", file=sys.stderr
    )


def _run(tool: str, arguments: list[str]) -> int:
    program = Path(sys.executable).parent / tool
    return subprocess.run([str(program), *arguments], cwd=ROOT, check=False).returncode


def _shell_scripts() -> list[str]:
    """Return the project's files that start as a shell script does."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [
        name
        for name in listed
        if _first_line(ROOT / name).startswith(("#!/bin/sh", "#!/usr/bin/env bash"))
    ]


def _first_line(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return stream.readline(80).decode("ascii", errors="replace")
