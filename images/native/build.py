"""Compile the native CPU engine, images/native: one library without dependencies of its own.

usage: build.py SOURCE OUTPUT

OUTPUT is the library's path. It requires a compiler for C++17: GCC 8 or newer.

Exit status: 0 done, 1 something was not built; the last line says what.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"),
    *("-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-ignored-attributes"),
    "-Wno-maybe-uninitialized",  # GCC bug 105593: its own intrinsics
    # The processor is asked at run time (step.cc); a plain x86-64 must load the library too.
    "-march=x86-64",
)
_OWN_FLAGS = {
    "kernels_avx2": ("-mavx2", "-mfma"),
    "kernels_avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
        "-mprefer-vector-width=512",
    ),
}


class BuildFailed(Exception):
    """A source does not compile, or the library does not link."""


def main(argv: list[str]) -> int:
    """Build the library and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="images/native")
    parser.add_argument("output", type=Path, help="the library's path")
    arguments = parser.parse_args(argv)
    try:
        build(arguments.source, arguments.output)
    except BuildFailed as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    return 0


def build(source: Path, output: Path) -> None:
    """Compile all sources and link them.

    Raises:
        BuildFailed: a source does not compile, or the library does not link.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = sorted(source.glob("*.cc"))
        objects = [str(Path(scratch, f"{path.stem}.o")) for path in sources]
        list(pool.map(_compile, sources, objects))
        command = ["g++", "-shared", "-s", "-o", str(output), *objects, "-pthread"]
        # In the image as in the stage that builds it: one copy of the C++ library's code less
        # to depend on.
        command += ["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"]
        _run(command, f"{output.name} does not link")


def _compile(path: Path, target: str) -> None:
    command = ["g++", *_FLAGS, *_OWN_FLAGS.get(path.stem, ()), "-c", str(path), "-o", target]
    _run(command, f"{path.name} does not compile")


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, end="", file=sys.stderr)
    if done.returncode:
        raise BuildFailed(f"{failure} (see above)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
