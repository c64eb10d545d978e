"""Lock files: all dependencies with versions and hashes, resolved by uv.

The images' locks are resolved from the largest image to the smallest, so that an
image has the same versions as its parent.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from paddle_stacks.errors import BuildError, RequestError, did_you_mean

__all__ = ["PIN", "changes", "relock", "versions"]

PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", re.MULTILINE)
"""A line of a lock: the package and its version."""

# The Python of each backend's images, and the platform of its wheels.
_PYTHON = {
    "cpu": ("3.11", "x86_64-manylinux_2_36"),
    # The DTK image has its own Python and Kylin's C library.
    "dcu": ("3.10", "x86_64-manylinux_2_28"),
}
# The backend whose locks are used for tests of jobs.
_TESTED = "cpu"
# Packages from a backend's own index; see images/steps/install-lock.
_ELSEWHERE = {"dcu": ["--no-emit-package", "paddlepaddle"]}
# uv runs in the build stage for installation, which is Debian for all backends.
_UV_TARGET = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_36")
_COMMON = ("--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet")


def relock(root: Path, backend: str, packages: Sequence[str] = ()) -> list[str]:
    """Resolve all locks again and return the changes, one line each.

    Args:
        root: the checkout.
        backend: the backend of the locks.
        packages: the only packages to upgrade; empty for all.

    Raises:
        RequestError: the backend has no locks, or no lock contains a package.
        BuildError: the requirements cannot be resolved; nothing is changed.
    """
    if backend not in _PYTHON:
        raise RequestError(
            f'the backend "{backend}" has no locks', remedy=f"backends: {', '.join(_PYTHON)}"
        )
    images = root / "images"
    train, framework, infer, base = (
        images / name for name in ("train", "framework", "infer", "base")
    )
    python, platform = _PYTHON[backend]
    target = ["--python-version", python, "--python-platform", platform]
    target += _ELSEWHERE.get(backend, [])
    build = ["--build-constraints", str(framework / "build-constraints.txt")]
    name = f"requirements.{backend}.lock"
    jobs = (
        (
            framework / "build-constraints.txt",
            [framework / "build-constraints.in", *_UV_TARGET],
        ),
        (
            train / name,
            [train / "requirements.in", "--overrides", train / "overrides.txt", *build, *target],
        ),
        (
            framework / name,
            [
                framework / "requirements.in",
                "--overrides",
                framework / "overrides.txt",
                "-c",
                train / name,
                *build,
                *target,
            ],
        ),
        (
            train / f"quantize.{backend}.lock",
            [
                train / "quantize.in",
                *("--overrides", train / "overrides.txt"),
                *("--overrides", train / "quantize-overrides.txt"),
                *("-c", train / name),
                *build,
                *target,
            ],
        ),
        # On a DCU the server's image also has the imports of upstream's predictor.
        (
            infer / name,
            [
                infer / "requirements.in",
                *("--overrides", infer / "overrides.txt"),
                "-c",
                train / f"quantize.{backend}.lock" if backend == "dcu" else framework / name,
                *build,
                *target,
            ],
        ),
        (base / "uv.lock", [base / "uv.in", *_UV_TARGET]),
        # The host's lock is for every supported Python.
        (
            root / "requirements.lock",
            [root / "pyproject.toml", "--group", "test", "--universal", "--python-version", "3.10"],
        ),
    )
    before = {path: path.read_text() if path.is_file() else "" for path, _ in jobs}
    locked = {package for text in before.values() for package in versions(text)}
    if unknown := [package for package in packages if package not in locked]:
        hint = did_you_mean(unknown[0], sorted(locked))
        raise RequestError(
            f"no lock contains {', '.join(unknown)}",
            where="--package",
            remedy=hint or "write it as in the locks, in lower case and with hyphens",
        )
    upgrades = [word for package in packages for word in ("--upgrade-package", package)]
    try:
        for path, arguments in jobs:
            if not packages:
                path.unlink(missing_ok=True)  # otherwise uv would keep the locked versions
                if backend != _TESTED and path.name == name:
                    # Prefer the versions that CI tests.
                    tested = path.with_name(f"requirements.{_TESTED}.lock")
                    path.write_text(tested.read_text())
            _compile(root, path, [*upgrades, *(str(argument) for argument in arguments)])
    except BuildError:
        for path, text in before.items():
            path.write_text(text)
        raise
    return [
        f"{path.relative_to(root)}: {line}"
        for path, text in before.items()
        for line in changes(versions(text), versions(path.read_text())) or ["no change"]
    ]


def versions(lock: str) -> dict[str, str]:
    """Return the version of each package in the text of a lock."""
    return dict(PIN.findall(lock))


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the differences, one line per package."""
    lines = []
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name), after.get(name)
        if old is None:
            lines.append(f"{name} {new} is new")
        elif new is None:
            lines.append(f"{name} {old} was removed")
        elif old != new:
            lines.append(f"{name} {old} -> {new}")
    return lines


def _compile(root: Path, output: Path, arguments: list[str]) -> None:
    command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", *_COMMON, *arguments]
    done = subprocess.run(
        [*command, "--output-file", str(output)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(
            "the requirements cannot be resolved: " + " ".join(done.stderr.split())[:600],
            where=arguments[0],
            remedy="relax or change the pin in this message",
        )
