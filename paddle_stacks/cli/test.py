"""Tasks that prove the project: linters, tests, images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from paddle_stacks.cli import ROOT, finish, task
from paddle_stacks.errors import JobError, RequestError, did_you_mean

SUITES = {
    "lint": "linters and types",
    "unit": "no engine, seconds",
    "images": "testinfra against the built images",
    "jobs": "real jobs in real containers",
    "faults": "real jobs, killed, starved and lied to",
    "docs": "the documents' commands, as they are written",
    "isolation": "what a job must not be able to do, tried in real containers",
    "bundle": "from a folder to a fine-tuned model on a machine without a network",
    "cluster": "jobs on a real Slurm of three machines",
    "dcu-sim": "the DCU's stages, images and jobs on a simulated DCU",
}
# What a suite runs: a backend, and folders of tests.
_RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "unit": ("cpu", ("tests/unit", "tests/fuzz")),
    "images": ("cpu", ("tests/images",)),
    "jobs": ("cpu", ("tests/jobs",)),
    "faults": ("cpu", ("tests/faults",)),
    "docs": ("cpu", ("tests/docs",)),
    "isolation": ("cpu", ("tests/isolation",)),
    "bundle": ("cpu", ("tests/bundle",)),
    "cluster": ("cpu", ("tests/cluster",)),
    "dcu-sim": ("dcu-sim", ("tests/images", "tests/dcu_sim")),
}
_RECORDS = Path(".cache", "test")


@task(help={"suite": f"One of {', '.join(SUITES)}. Default: all.", "only": "pytest's -k."})
def test(context: Any, suite: str | None = None, only: str | None = None) -> None:
    """Run the tests; what they need is installed, started and built first."""
    if suite is not None and suite not in SUITES:
        hint = did_you_mean(suite, SUITES)
        raise RequestError(
            f'no suite is named "{suite}"', remedy=f"{hint} suites: {', '.join(SUITES)}".strip()
        )
    suites = [suite] if suite else list(SUITES)
    for backend in sorted({_RUNS[name][0] for name in suites if name not in ("lint", "unit")}):
        _build(backend)
    if "lint" in suites:
        _lint()
    runs: dict[str, list[str]] = {}
    for name in suites:
        if name in _RUNS:
            backend, folders = _RUNS[name]
            runs.setdefault(backend, []).extend(folders)
    if runs:
        finish(_run_all(runs, ["-k", only] if only else []))


def suites_of() -> dict[str, list[str]]:
    """Return the folders of all suites, for each backend that they are run on."""
    found: dict[str, list[str]] = {}
    for backend, folders in _RUNS.values():
        found.setdefault(backend, []).extend(folders)
    return found


def _run_all(runs: dict[str, list[str]], selected: list[str]) -> int:
    """Run pytest once for each backend, say the sum, and return the first bad exit status."""
    from paddle_stacks import verify

    statuses, found = [], []
    for backend, folders in runs.items():
        record = ROOT / _RECORDS / f"{backend}.xml"
        status, outcomes = verify.run_tests(ROOT, backend, [*folders, *selected], record)
        if not selected:
            verify.write_records(ROOT, backend, folders, status, outcomes)
        # 5: nothing was selected, which is no fault of a run among others.
        statuses.append(0 if status == _NOTHING_SELECTED and len(runs) > 1 else status)
        found += outcomes
    if len(runs) > 1:
        print(f"{', '.join(runs)}: {verify.tally(found)}")
    return next((status for status in statuses if status), 0)


_NOTHING_SELECTED = 5


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
