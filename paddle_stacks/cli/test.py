"""Tasks that prove the project: linters, tests, images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from paddle_stacks import suites
from paddle_stacks.cli import ROOT, finish, task
from paddle_stacks.errors import JobError, RequestError, did_you_mean

LINT = "lint"
SUITES = (LINT, *suites.SUITES)


@task(help={"suite": f"One of {', '.join(SUITES)}. Default: all.", "only": "pytest's -k."})
def test(context: Any, suite: str | None = None, only: str | None = None) -> None:
    """Run the tests; what they need is installed, started and built first."""
    if suite is not None and suite not in SUITES:
        hint = did_you_mean(suite, SUITES)
        raise RequestError(
            f'no suite is named "{suite}"', remedy=f"{hint} suites: {', '.join(SUITES)}".strip()
        )
    names = [suite] if suite else list(SUITES)
    wanted = {name: found for name, found in suites.SUITES.items() if name in names}
    for backend in sorted({found.backend for name, found in wanted.items() if name != "unit"}):
        _build(backend)
    if LINT in names:
        _lint()
    if wanted:
        finish(suites.run(ROOT, wanted, ["-k", only] if only else []))


@task(
    help={
        "image": "One image. Default: all that are built.",
        "backend": "The platform: a file in configs/backends/.",
    }
)
def verify(context: Any, image: str | None = None, backend: str | None = None) -> None:
    """Check the built images, and this machine, and write a report to attach to an issue."""
    from paddle_stacks import settings, verify

    status, report = verify.check_images(settings.load(ROOT, {"backend": backend}), image)
    path = verify.write(ROOT, report)
    print(f"{report['result']}; the report: {path.relative_to(ROOT)}", file=sys.stderr)
    finish(status)


@task()
def lint(context: Any) -> None:
    """Run ruff, mypy, shellcheck, hadolint, and check the Compose and bake files."""
    _lint()


def _build(backend: str) -> None:
    from paddle_stacks import build, engine, settings

    engine.ensure()
    build.build(["all"], settings.load(ROOT, {"backend": backend}))


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
