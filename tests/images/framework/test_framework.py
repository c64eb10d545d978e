"""Images with the framework: what is installed, how it is compiled, its threads."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from docker.models.images import Image
from packaging.version import Version

from paddle_stacks.build.variables import paddle_version
from tests.support.locked_packages import locked
from tests.support.stages import ROOT

DESCRIBE = "import paddle_stacks_startup as startup; print(startup.describe())"


def test_the_installed_packages_are_the_locked_ones(
    image: str, python: Callable[[str], Any]
) -> None:
    installed = python(
        "import json, re, importlib.metadata as metadata\n"
        "print(json.dumps([[re.sub('[-_.]+', '-', found.name).lower(), found.version]"
        " for found in metadata.distributions()]))"
    )
    assert len(installed) == len({name for name, _ in installed})
    assert dict(installed) == locked(image)


def test_the_framework_is_imported_without_a_word_and_computes(
    image: str, python: Callable[[str], Any]
) -> None:
    # The fixture fails on anything on standard error, json on more than one line.
    found = python(
        "import json, numpy, paddle, paddlenlp, paddlenlp.transformers\n"
        "product = (paddle.eye(3) * 2 @ paddle.ones([3, 1])).tolist()\n"
        "print(json.dumps({'product': product, 'numpy': numpy.__version__,"
        " 'paddlepaddle': paddle.__version__, 'paddlenlp': paddlenlp.__version__}))"
    )
    assert found.pop("product") == [[2.0], [2.0], [2.0]]
    pins = locked(image)
    # Paddle writes 3.0.0-beta2 for 3.0.0b2.
    assert {name: Version(version) for name, version in found.items()} == {
        "numpy": Version(pins["numpy"]),
        "paddlepaddle": Version(paddle_version(ROOT)),
        "paddlenlp": Version(pins["paddlenlp"]),
    }


def test_every_source_is_compiled_for_good(python: Callable[[str], Any]) -> None:
    # But for scripts in a bin folder, which Python compiles at each start, and for what the
    # toolkit brings.
    # PEP 552: a header of 16 bytes; flags 1 mean by hash and never compared with the source.
    faults = python(
        "import importlib.util, json, pathlib\n"
        "faults = []\n"
        "sources = [p for p in pathlib.Path('/opt').rglob('*.py') if 'bin' not in p.parts"
        " and not p.parts[2].startswith(('dtk', 'dcu-sim', 'py3'))]\n"
        "for source in sources:\n"
        "    cached = pathlib.Path(importlib.util.cache_from_source(str(source)))\n"
        "    header = cached.read_bytes()[:16] if cached.is_file() else b''\n"
        "    if header[:4] != importlib.util.MAGIC_NUMBER:\n"
        "        faults.append(f'{source}: not compiled')\n"
        "    elif header[4:8] != bytes([1, 0, 0, 0]):\n"
        "        faults.append(f'{source}: compiled, but checked against the source')\n"
        "    elif header[8:] != importlib.util.source_hash(source.read_bytes()):\n"
        "        faults.append(f'{source}: compiled from another text')\n"
        "print(json.dumps([len(sources), faults]))"
    )
    assert faults[0] > 1000
    assert faults[1] == []


def test_what_is_below_opt_belongs_to_root_and_only_root_may_write(host: Any) -> None:
    found = host.check_output(r"find /opt -not -type l \( -perm /022 -o -not -uid 0 \)")
    assert found == ""


@pytest.mark.parametrize("limit", ["--cpus=1", f"--cpuset-cpus={min(os.sched_getaffinity(0))}"])
def test_threads_follow_the_containers_cores(built: Image, limit: str) -> None:
    program = f"import os; {DESCRIBE}; print(os.environ['OMP_NUM_THREADS'])"
    line, threads = _python(built, program, limit)
    assert line.startswith("threads: 1 on 1 usable cores; math library: ")
    assert threads == "1"


def test_threads_that_the_user_sets_are_left_alone(built: Image) -> None:
    line, path = _python(
        built,
        f"import os; {DESCRIBE}; print(os.environ['MKL_DEBUG_CPU_TYPE'])",
        "--env=OMP_NUM_THREADS=3",
        "--env=MKL_DEBUG_CPU_TYPE=5",
    )
    assert line.startswith("threads: 3 on ")
    assert line.endswith("math library: AVX2 code path")
    assert path == "5"


def _python(built: Image, program: str, *options: str) -> list[str]:
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint=python", *options]
    done = subprocess.run(
        [*command, str(built.id), "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
