"""Download what a bundle carries besides images: the project's wheels, the images' packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from paddle_stacks import build
from paddle_stacks.bundle import pieces
from paddle_stacks.errors import BuildError
from paddle_stacks.settings import Settings

__all__ = ["PYTHONS", "environment", "packages", "wheels_wanted"]

PYTHONS = ("3.10", "3.11", "3.12")
"""For which the lock of the project's environment has wheels."""

# The oldest C library that the environment's wheels are for: Kylin's and RHEL 8's.
_GLIBC_MINOR = 28


def environment(part: Path, pythons: Sequence[str], settings: Settings) -> set[str]:
    """Download the wheels of requirements.lock for some versions of Python, and pip."""
    folder, lock = part / "environment", settings.root / "requirements.lock"
    if folder.is_dir() and not _same(folder / lock.name, lock):
        shutil.rmtree(folder)
    if not folder.is_dir():
        folder.mkdir()
        shutil.copyfile(lock, folder / lock.name)
    framework = (settings.root / "images/framework/requirements.cpu.lock").read_text()
    pip = wheels_wanted(framework, "3.11.0", only="pip")
    for version in pythons:
        done = folder / f"python{version}"  # empty: it says that all is there
        if done.exists():
            continue
        # Some conditions are about the last number: the first and the last of a series.
        first, last = f"{version}.0", f"{version}.99"
        entries = wheels_wanted(lock.read_text(), first)
        more = [e for e in wheels_wanted(lock.read_text(), last) if e not in entries]
        _pip_download(folder, "".join(entries + pip), first, settings)
        if more:
            _pip_download(folder, "".join(more), last, settings)
        done.touch()
    return {f"environment/{name}" for name in pieces.names(folder)}


def packages(part: Path, settings: Settings) -> set[str]:
    """Export the Dockerfile's stage with all that a build takes from a network."""
    new = part / ".exported"
    shutil.rmtree(new, ignore_errors=True)
    build.export("_bundle", new, settings)
    held = set()
    for name in ("packages", "sources"):
        shutil.rmtree(part / name, ignore_errors=True)
        if any((new / name).rglob("*.*")):
            (new / name).rename(part / name)
            held |= {f"{name}/{path}" for path in pieces.names(part / name)}
    shutil.rmtree(new)
    return held


def wheels_wanted(lock: str, python: str, only: str = "") -> list[str]:
    """Return the entries of a lock that hold for a version of Python, without conditions.

    pip asks its own Python for conditions, whatever ``--python-version`` says.

    Args:
        lock: the text of a lock, as uv writes it.
        python: ``3.11.4``.
        only: the one package that is wanted; empty for all.
    """
    from packaging.markers import Marker

    where = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }
    kept = []
    for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE):
        found = re.match(r"(([\w.-]+)==[^\s;]+)(?: ; (.+?))?( \\\n(?s:.*))", entry)
        if not found or (only and found[2] != only):
            continue
        if not found[3] or Marker(found[3]).evaluate(where):
            kept.append(found[1] + found[4])
    return kept


def _pip_download(folder: Path, requirements: str, python: str, settings: Settings) -> None:
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(_GLIBC_MINOR, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes"]
    command += ["--dest", str(folder), "--python-version", python, "--implementation", "cp"]
    for platform in (*platforms, "linux_x86_64"):
        command += ["--platform", platform]
    variables = dict(os.environ)
    for key, variable in (
        *(("index_url", "PIP_INDEX_URL"), ("ca_bundle", "PIP_CERT")),
        *(("http_proxy", "http_proxy"), ("https_proxy", "https_proxy"), ("no_proxy", "no_proxy")),
    ):
        if getattr(settings, key):
            variables[variable] = str(getattr(settings, key))
    wanted = folder.with_name(".requirements.txt")
    wanted.write_text(requirements, encoding="utf-8")
    done = subprocess.run(
        [*command, "--requirement", str(wanted)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    wanted.unlink()
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr]
        raise BuildError(
            f"the wheels for Python {python} cannot be downloaded: {lines[-1].strip()}",
            where="requirements.lock",
            remedy="check the way to the package index: index_url, https_proxy, ca_bundle",
        )


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()
