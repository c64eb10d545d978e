"""Check the framework just installed: it imports without a device and is what was locked.

usage: check_framework.py BACKEND LOCK REQUIREMENTS

Exit status 1: the lines before say why.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

# Paddle says its version in a form of its own: 3.0.0b2 is 3.0.0-beta2.
_SPELLINGS = {"a": "-alpha", "b": "-beta", "rc": "-rc"}


def main(backend: str, lock: Path, requirements: Path) -> int:
    """Return 0 where everything is as it should be.

    Args:
        backend: the platform.
        lock: its packages and their versions.
        requirements: the file that names Paddle's version.
    """
    wanted = re.search(r"^paddlepaddle==(\S+)", requirements.read_text(), re.MULTILINE)
    assert wanted, f"{requirements} pins no paddlepaddle"
    problems = [*pins(lock.read_text(encoding="utf-8")), *build(backend, wanted[1])]
    for problem in problems:
        print(f"check_framework: {problem}", file=sys.stderr)
    return 1 if problems else 0


def pins(lock: str) -> list[str]:
    """Return the packages that are not at the version of the lock."""
    found = []
    for name, wanted in re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", lock, re.MULTILINE):
        installed = importlib.metadata.version(name)
        if installed != wanted:
            found.append(f"{name} is {installed}, and {wanted} in the lock")
    return found


def build(backend: str, version: str) -> list[str]:
    """Return what is wrong with the Paddle that is imported."""
    import numpy
    import paddle
    import setuptools

    spelt = re.sub(r"(\d)(a|b|rc)(\d+)$", lambda m: m[1] + _SPELLINGS[m[2]] + m[3], version)
    found = []
    if paddle.__version__ not in (version, spelt):
        found.append(f"paddle is {paddle.__version__}, not {version}")
    wanted = backend != "cpu"
    if paddle.is_compiled_with_rocm() is not wanted:
        found.append(
            "this Paddle is not a ROCm build: is it the wheel of paddlepaddle-dcu?"
            if wanted
            else "this Paddle is a ROCm build"
        )
    for module, below in ((setuptools, 80), (numpy, 2)):
        if int(module.__version__.partition(".")[0]) >= below:
            found.append(f"{module.__name__} is {module.__version__}, and has to be below {below}")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:])))
