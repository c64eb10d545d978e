"""Upstream's own programs with our patches, word for word, where their source is at hand.

``PADDLENLP_SRC`` names PaddleNLP's source at the pinned commit, which this repository does not
have. The jobs then find it where an image for a DCU has it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.conftest import run
from tests.jobs.test_fused import BLOCK, DATA, EXPORT, GREEDY, MODELS, PREDICT, fused_models, words
from tests.support import job_containers
from tests.support.runner import PYTHON, Finished, Runner

__all__ = ["fused_models"]

SOURCE = os.environ.get("PADDLENLP_SRC", "")
pytestmark = pytest.mark.skipif(not SOURCE, reason="PADDLENLP_SRC names no source of PaddleNLP")
THREE = ["--batch_size", "3"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Runner]:
    yield Upstream()


class Upstream:
    """Runs ``upstream`` with the source in the image's place for it."""

    def __call__(
        self, workspace: Path, *line: str, backend: str = "cpu", timeout: float = 900
    ) -> Finished:
        environ = {"PADDLE_STACKS_BACKEND": backend, "PADDLE_STACKS_UPSTREAM": SOURCE}
        if PYTHON is not None:
            os.environ.update(environ)
            try:
                return Runner()(["upstream", *line], workspace, timeout)
            finally:
                for name in environ:
                    del os.environ[name]
        options = ["--volume", f"{Path(SOURCE).resolve()}:/opt/PaddleNLP:ro"]
        options += ["--env", f"PADDLE_STACKS_BACKEND={backend}"]
        running = job_containers.start(["upstream", *line], workspace, *options)
        return running.wait(timeout)


@pytest.fixture
def workspace(fused_models: Path, tmp_path: Path) -> Path:
    shutil.copytree(fused_models / "models", tmp_path / "models")
    shutil.copy(fused_models / "prompts.json", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def wanted(job, fused_models: Path) -> dict[str, list[str]]:
    """The answers of ``generate()``, by model."""
    found = {}
    for model in MODELS:
        line = ["--model_name_or_path", f"models/{model}", "--dtype", "float32", *GREEDY, *DATA]
        run(job, ["upstream", "--name", "reference", PREDICT, *line], fused_models)
        found[model] = answers(fused_models / "out.json")
    return found


def answers(path: Path) -> list[str]:
    return [json.loads(line)["output"] for line in path.read_text().splitlines()]


def done(finished: Finished) -> str:
    assert finished.status == 0, finished.stderr
    return finished.stderr


@pytest.mark.parametrize("backend", ["cpu", "dcu-sim"])
@pytest.mark.parametrize("kind", BLOCK)
@pytest.mark.parametrize("model", MODELS)
def test_upstreams_programs_compute_what_generate_does(
    upstream, workspace: Path, wanted, model: str, kind: str, backend: str
) -> None:
    line = words(f"models/{model}", kind, "float32")
    log = done(upstream(workspace, PREDICT, *line, *THREE, *DATA, backend=backend))
    assert "run upstream's predict/predictor.py" in log
    assert answers(workspace / "out.json") == wanted[model]
    done(upstream(workspace, EXPORT, *line, "--output_path", "graph", backend=backend))
    static = [*words("graph", kind, "float32"), "--mode", "static", *THREE, *DATA]
    (workspace / "out.json").unlink()
    done(upstream(workspace, PREDICT, *static, backend=backend))
    assert answers(workspace / "out.json") == wanted[model]


@pytest.mark.parametrize("kind", BLOCK)
def test_upstreams_programs_compute_in_eight_bits_what_ours_do(
    upstream, job, workspace: Path, kind: str
) -> None:
    line = [*words("models/mha-a8w8", kind, "float16", "--quant_type", "a8w8"), *THREE, *DATA]
    run(job, ["upstream", PREDICT, *line], workspace)
    ours = answers(workspace / "out.json")
    (workspace / "out.json").unlink()
    done(upstream(workspace, PREDICT, *line))
    assert answers(workspace / "out.json") == ours


def test_temperature_0_is_greedy(upstream, workspace: Path, wanted) -> None:
    line = words("models/mha", "block", "float32")
    at = line.index("--decode_strategy")
    line[at : at + 2] = ["--temperature", "0"]
    done(upstream(workspace, PREDICT, *line, *THREE, *DATA))
    assert answers(workspace / "out.json") == wanted["mha"]


@pytest.mark.parametrize("kind", BLOCK)
def test_what_another_run_has_left_is_not_read(
    upstream, workspace: Path, wanted, kind: str
) -> None:
    """A message in the folder's queue, and a file of tokens in it."""
    import ctypes

    libc = ctypes.CDLL(None)
    number = libc.msgget(libc.ftok(os.fsencode(workspace), 1), 0o1666)
    message = (ctypes.c_long(1), (ctypes.c_int * 514)(*[1, 3, 7, 7, 7]))
    buffer = ctypes.create_string_buffer(bytes(message[0]) + bytes(message[1]))
    assert libc.msgsnd(number, buffer, ctypes.c_size_t(514 * 4), 0) == 0
    left = workspace / "real_time_save.temp_ids_rank_0_step_17"
    left.write_text("what another run has left")
    try:
        line = words("models/mha", kind, "float32")
        done(upstream(workspace, PREDICT, *line, *THREE, *DATA))
    finally:
        libc.msgctl(number, 0, None)
    assert answers(workspace / "out.json") == wanted["mha"]
    assert left.is_file()


def test_an_error_ends_the_program(upstream, workspace: Path) -> None:
    """Two prompts in a batch of three: upstream's block predictor fails, and once hung."""
    lines = (workspace / "prompts.json").read_text().splitlines(keepends=True)
    (workspace / "prompts.json").write_text("".join(lines[:2]))
    line = words("models/mha", "block", "float32")
    finished = upstream(workspace, PREDICT, *line, *THREE, *DATA, timeout=300)
    assert finished.status == 5, finished.stderr
    assert "IndexError" in finished.stdout + finished.stderr


def test_without_patches(upstream, workspace: Path, wanted) -> None:
    """What the patches are for: names that an import loses, and a token that is lost."""
    line = words("models/mha", "dense", "float32")
    finished = upstream(workspace, "--unpatched", PREDICT, *line, *THREE, *DATA)
    assert finished.status == 5, finished.stderr
    assert "NameError" in finished.stdout + finished.stderr
    line = words("models/mha", "block", "float32")
    done(upstream(workspace, "--unpatched", PREDICT, *line, *THREE, *DATA))
    found = answers(workspace / "out.json")
    assert found != wanted["mha"]
    assert all(full.startswith(cut[:-1]) for full, cut in zip(wanted["mha"], found, strict=True))


def test_the_source_is_the_pinned_commit() -> None:
    """Each patch fits, on every backend."""
    from entrypoints.upstream_patches import PATCHES
    from entrypoints.upstream_patches.patch import EVERY_BACKEND, apply

    for path, backend in itertools.product({each.file for each in PATCHES}, EVERY_BACKEND):
        file = Path(SOURCE) / path
        if file.name != "proposers.py":
            patches = [p for p in PATCHES if p.file == path and backend in p.backends]
            compile(apply(file.read_text(), patches, str(file)), path, "exec")
    head = subprocess.run(
        ["git", "-C", SOURCE, "status", "--porcelain"], capture_output=True, text=True, check=False
    )
    assert not head.stdout, "the source has been changed"
