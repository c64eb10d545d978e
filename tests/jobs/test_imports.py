"""A workspace's files are data: none of them is imported in place of the image's code.

That a checkout is the workspace is the usual case, so this is also what has the other tests try
the code of the image.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from paddle_stacks.jobs.catalog import JOBS

NAMES = ("argparse", "signal", "traceback", "json", "multiprocessing", "runpy", "pip", "paddle")
PACKAGES = ("entrypoints", "paddle_stacks", "paddlenlp", "numpy")
HIJACKED = 'import os\nos.write(2, b"hijacked\\n")\n'


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(HIJACKED)
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(HIJACKED)
    return tmp_path


def run(
    workspace: Path, job: str, *words: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    image = JOBS[job].image if job in JOBS else "train"
    command = ["docker", "run", "--rm", "--network", "none", "-v", f"{workspace}:/workspace"]
    return subprocess.run(
        [*command, *options, f"paddle-stacks/{image}:cpu", job, *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("job", JOBS)
def test_a_job_imports_nothing_from_the_workspace(job: str, hostile: Path) -> None:
    done = run(hostile, job, "--help")
    assert done.returncode == 0 and "hijacked" not in done.stderr, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize("path", [":", ".", "relative:", "::/nowhere"])
def test_nor_by_a_variable_that_names_the_working_folder(path: str, hostile: Path) -> None:
    options = ("-e", f"PYTHONPATH={path}")
    done = run(hostile, "infer", "--help", options=options)
    assert done.returncode == 0 and "hijacked" not in done.stderr, done.stderr


def test_the_rest_of_a_job_does_not_either(hostile: Path) -> None:
    """Imports that come late: Paddle, PaddleNLP and the request's own."""
    (hostile / "my.json").write_text('{"model_name_or_path": "m", "dataset_name_or_path": "d"}')
    done = run(hostile, "finetune", "--config", "my.json")
    assert done.returncode == 2 and "hijacked" not in done.stderr, done.stderr


# What a job starts: Paddle's launcher, pip, and the children of multiprocessing.
_CHILDREN = """
import os, subprocess, sys
import paddle_stacks_startup
paddle_stacks_startup.refuse_imports(os.getcwd())
for words in (["-c", "import argparse, multiprocessing"], ["-m", "json.tool", "--help"],
              ["-m", "pip", "--version"], ["-m", "paddle.distributed.launch", "--help"],
              ["-c", "from multiprocessing.spawn import spawn_main"]):
    subprocess.run([sys.executable, *words], check=False, stdout=subprocess.DEVNULL)
import multiprocessing
with multiprocessing.get_context("spawn").Pool(1) as pool:
    assert pool.map(abs, [-1]) == [1]
"""


def test_the_processes_of_a_job_do_not_either(hostile: Path) -> None:
    (hostile / "paddle_stacks_probe").write_text(_CHILDREN)
    code = "import sys; sys.path.remove(''); exec(open('paddle_stacks_probe').read())"
    done = run(hostile, "python", "-c", code)
    assert done.returncode == 0 and "hijacked" not in done.stderr, done.stderr


def test_a_program_of_the_callers_own_finds_its_modules(tmp_path: Path) -> None:
    """Any other command is run as it is."""
    (tmp_path / "helper.py").write_text("print('the helper')")
    (tmp_path / "mine.py").write_text("import helper")
    assert run(tmp_path, "python", "mine.py").stdout == "the helper\n"


def test_the_same_files_are_imported_where_nothing_keeps_them_from_it(hostile: Path) -> None:
    """Without this one, the others could pass with files that do nothing."""
    done = run(hostile, "python", "-m", "json.tool", "--help")
    assert "hijacked" in done.stderr
