"""The operators for the CPU: in every image that has them, and what they compute."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks.plan import image_name
from tests.support.stages import BACKEND, IMAGES

FOLDER = "/opt/cpu-operators"
PROGRAM = Path(__file__).with_name("cases.py").read_text(encoding="utf-8")
CASES = re.findall(r"^def case_(\w+)", PROGRAM, re.MULTILINE)


def test_the_operators_are_no_larger_than_agreed(host: Any) -> None:
    assert int(host.check_output(f"du -s --bytes {FOLDER}").split()[0]) < 10 * 10**6


def test_nothing_is_loaded_that_a_job_does_not_ask_for(host: Any) -> None:
    environment = host.check_output("env")
    assert "CUSTOM_DEVICE_ROOT" not in environment
    assert FOLDER not in environment


def test_no_compiler_is_in_the_image(host: Any) -> None:
    if BACKEND != "cpu":
        pytest.skip("a DTK has its compilers")
    assert host.run("command -v g++ gcc cc ld as").stdout == ""


@pytest.fixture(scope="session", params=["x86-64-v3", "plain"])
def results(request: pytest.FixtureRequest) -> Mapping[str, str | None]:
    """Run all cases in one process; the loops are compiled twice, for two processors."""
    command = ["docker", "run", "--rm", "--interactive", "--network=none", "--read-only"]
    command += ["--tmpfs=/tmp", "--env=HOME=/tmp", "--env=OMP_NUM_THREADS=2", "--entrypoint=python"]
    if request.param == "plain":
        command.append("--env=PADDLE_STACKS_PLAIN_X86=1")
    done = subprocess.run(
        [*command, image_name(IMAGES[-1], BACKEND), "-", FOLDER],
        input=PROGRAM,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes: Mapping[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return outcomes


@pytest.mark.parametrize("case", CASES)
def test_an_operator_computes_what_numpy_does(results: Mapping[str, str | None], case: str) -> None:
    assert results[case] is None, results[case]
