"""Downloads for a bundle: the project's wheels, and the packages of the images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from paddle_stacks import build
from paddle_stacks.bundle import storage
from paddle_stacks.errors import BuildError
from paddle_stacks.settings import Settings

__all__ = ["PYTHONS", "environment", "lock_entries", "packages"]

PYTHONS = ("3.10", "3.11", "3.12")
"""The versions of Python for which requirements.lock has wheels."""

# The oldest C library that the environment supports: Kylin's and RHEL 8's.
_GLIBC_MINOR = 28


def environment(part: Path, pythons: Sequence[str], settings: Settings) -> set[str]:
    """Download the wheels of requirements.lock for versions of Python, and pip.

    Args:
        part: the bundle's folder.
        pythons: the versions, such as ``3.11``.
        settings: with the package index, the proxies and the CA bundle.

    Returns:
        The paths of the downloaded files in the bundle.
    """
    folder, lock = part / "environment", settings.root / "requirements.lock"
    if folder.is_dir() and not _same(folder / lock.name, lock):
        shutil.rmtree(folder)
    if not folder.is_dir():
        folder.mkdir()
        shutil.copyfile(lock, folder / lock.name)
    framework = (settings.root / "images/framework/requirements.cpu.lock").read_text()
    pip = lock_entries(framework, "3.11.0", only="pip")
    for version in pythons:
        complete = folder / f"python{version}"  # an empty file: all wheels are downloaded
        if complete.exists():
            continue
        # Some markers depend on the patch version: use the first and the last of the series.
        first, last = f"{version}.0", f"{version}.99"
        entries = lock_entries(lock.read_text(), first)
        more = [entry for entry in lock_entries(lock.read_text(), last) if entry not in entries]
        _pip_download(folder, "".join(entries + pip), first, settings)
        if more:
            _pip_download(folder, "".join(more), last, settings)
        complete.touch()
    return {f"environment/{name}" for name in storage.names(folder)}


def packages(part: Path, settings: Settings) -> set[str]:
    """Export everything that a build of the images downloads; return the paths in the bundle."""
    new = part / ".exported"
    shutil.rmtree(new, ignore_errors=True)
    build.export("_bundle", new, settings)
    paths = set()
    for name in ("packages", "sources"):
        shutil.rmtree(part / name, ignore_errors=True)
        if any((new / name).rglob("*.*")):
            (new / name).rename(part / name)
            paths |= {f"{name}/{path}" for path in storage.names(part / name)}
    shutil.rmtree(new)
    return paths


def lock_entries(lock: str, python: str, only: str = "") -> list[str]:
    """Return the entries of a lock that apply to a version of Python, without their markers.

    pip evaluates markers for its own Python, even with ``--python-version``.

    Args:
        lock: the text of a lock, as uv writes it.
        python: ``3.11.4``.
        only: the name of a package; empty for all packages.
    """
    from packaging.markers import Marker

    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }
    entries = []
    for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE):
        match = re.match(r"(([\w.-]+)==[^\s;]+)(?: ; (.+?))?( \\\n(?s:.*))", entry)
        if not match or (only and match[2] != only):
            continue
        if not match[3] or Marker(match[3]).evaluate(environment):
            entries.append(match[1] + match[4])
    return entries


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
    path = folder.with_name(".requirements.txt")
    path.write_text(requirements, encoding="utf-8")
    done = subprocess.run(
        [*command, "--requirement", str(path)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    path.unlink()
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr]
        raise BuildError(
            f"the wheels for Python {python} cannot be downloaded: {lines[-1].strip()}",
            where="requirements.lock",
            remedy="check the network settings: index_url, https_proxy, ca_bundle",
        )


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()
