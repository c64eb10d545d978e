"""The locks: every dependency with its version and hashes, resolved by uv.

The images' locks are resolved from the largest image to the smallest, so that an
image has the very versions of its parent.
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

# The Python of each backend's images, and the platform its wheels are for.
_PYTHON = {
    "cpu": ("3.11", "x86_64-manylinux_2_36"),
    # The DTK's image: a Python of its own, on Kylin's C library.
    "dcu": ("3.10", "x86_64-manylinux_2_28"),
}
# The platform whose locks the jobs are tested with.
_TESTED = "cpu"
# What a platform takes from an index of its own instead; images/steps/install-lock.
_ELSEWHERE = {"dcu": ["--no-emit-package", "paddlepaddle"]}
# uv itself runs in the stage that installs, which is Debian's for all backends.
_UV_TARGET = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_36")
_COMMON = ("--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet")


def relock(root: Path, backend: str, packages: Sequence[str] = ()) -> list[str]:
    """Resolve all locks anew and return what changed, a line each.

    Args:
        root: the checkout.
        backend: whose locks.
        packages: if given, only these packages may get newer versions.

    Raises:
        RequestError: a backend that has no locks, or a package that no lock has.
        BuildError: the requirements cannot be met; nothing is changed then.
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
        # On a DCU the server goes on top of what upstream's predictor imports.
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
        # The host's lock holds for every Python the project runs on.
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
            f"no lock has {', '.join(unknown)}",
            where="--package",
            remedy=hint or "name a package as the locks write it: small letters and hyphens",
        )
    upgrades = [word for package in packages for word in ("--upgrade-package", package)]
    try:
        for path, arguments in jobs:
            if not packages:
                path.unlink(missing_ok=True)  # or uv would keep what is locked
                if backend != _TESTED and path.name == name:
                    # The versions that CI tests, as far as this Python can have them.
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
    """Return what differs, a line for each package: new, gone, or from one version to another."""
    lines = []
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name), after.get(name)
        if old is None:
            lines.append(f"{name} {new} is new")
        elif new is None:
            lines.append(f"{name} {old} is gone")
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
            "the requirements cannot be met: " + " ".join(done.stderr.split())[:600],
            where=arguments[0],
            remedy="loosen or change the pin it names",
        )
