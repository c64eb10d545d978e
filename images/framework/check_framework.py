"""Check the installed framework: it imports without a device and has the locked versions.

usage: check_framework.py BACKEND LOCK REQUIREMENTS

The exit status is 1 if it prints faults.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

# Paddle's spelling of its version: 3.0.0b2 is 3.0.0-beta2.
_SPELLINGS = {"a": "-alpha", "b": "-beta", "rc": "-rc"}


def main(backend: str, lock: Path, requirements: Path) -> int:
    """Return 0 if there are no faults.

    Args:
        backend: of the image.
        lock: the lock file.
        requirements: the file that pins Paddle.
    """
    pin = re.search(r"^paddlepaddle==(\S+)", requirements.read_text(), re.MULTILINE)
    assert pin, f"{requirements} pins no paddlepaddle"
    problems = [*pins(lock.read_text(encoding="utf-8")), *build(backend, pin[1])]
    for problem in problems:
        print(f"check_framework: {problem}", file=sys.stderr)
    return 1 if problems else 0


def pins(lock: str) -> list[str]:
    """Return the packages whose version differs from the lock."""
    problems = []
    for name, locked in re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", lock, re.MULTILINE):
        installed = importlib.metadata.version(name)
        if installed != locked:
            problems.append(f"{name}: expected {locked}, got {installed}")
    return problems


def build(backend: str, version: str) -> list[str]:
    """Return the faults of the imported Paddle."""
    import numpy
    import paddle
    import setuptools

    spelt = re.sub(r"(\d)(a|b|rc)(\d+)$", lambda m: m[1] + _SPELLINGS[m[2]] + m[3], version)
    problems = []
    if paddle.__version__ not in (version, spelt):
        problems.append(f"paddle is {paddle.__version__}, not {version}")
    is_rocm = backend != "cpu"
    if paddle.is_compiled_with_rocm() is not is_rocm:
        problems.append(
            "this Paddle is not a ROCm build: is it the wheel of paddlepaddle-dcu?"
            if is_rocm
            else "this Paddle is a ROCm build"
        )
    for module, below in ((setuptools, 80), (numpy, 2)):
        if int(module.__version__.partition(".")[0]) >= below:
            problems.append(f"{module.__name__} is {module.__version__}, expected below {below}")
    return problems


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:])))
