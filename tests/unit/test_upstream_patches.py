"""Patches of upstream's source: how they are applied, and the queue of its tokens."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import inspect
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from entrypoints.upstream_patches import PATCHES, hook, lengths, messages
from entrypoints.upstream_patches.patch import EVERY_BACKEND, Edit, Patch, apply
from paddle_stacks.errors import JobError, MachineError
from paddle_stacks.plan import backend

ROOT = Path(__file__).parents[2]
SOURCE = "def number():\n    return 1\n\n\ndef other():\n    return 1\n"


def patch(*forms: tuple[Edit, ...], file: str = "patched/module.py") -> Patch:
    return Patch("mine", file, 2, "it returns 1", "it returns 2", "x.py::y", forms)


def test_a_patch_replaces_what_it_was_written_for() -> None:
    changed = apply(SOURCE, [patch((Edit("return 1", "return 2", 2),))], "f.py")
    assert changed == SOURCE.replace("1", "2")
    first = (Edit("return 3", "return 4"),)
    assert apply(SOURCE, [patch(first, (Edit("return 1", "return 2", 2),))], "f.py") == changed


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit("return 1", "return 2"), 'expected 1 of "return 1", got 2'),
        (Edit("\n    return 9\n", ""), 'expected 1 of "return 9", got 0'),
    ],
)
def test_a_patch_of_another_file_is_an_error_that_names_both(edit: Edit, message: str) -> None:
    with pytest.raises(MachineError) as caught:
        apply(SOURCE, [patch((Edit("def other", "def other"), edit))], "/opt/f.py")
    (problem,) = caught.value.problems
    assert message in problem.what and '"mine"' in problem.what
    assert problem.where == "/opt/f.py" and "upstream --unpatched" in problem.remedy


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with one module, which can be imported."""
    (tmp_path / "patched").mkdir()
    (tmp_path / "patched" / "__init__.py").touch()
    (tmp_path / "patched" / "module.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield tmp_path
    sys.meta_path[:] = finders
    for name in ("patched", "patched.module"):
        sys.modules.pop(name, None)


def test_a_module_is_patched_when_it_is_imported(package: Path) -> None:
    hook.install([patch((Edit("def number():\n    return 1", "def number():\n\n    return 2"),))])
    import patched.module  # type: ignore[import-not-found]

    assert (patched.module.number(), patched.module.other()) == (2, 1)
    assert (package / "patched" / "module.py").read_text() == SOURCE
    # What paddle.jit.to_static reads of a function is what runs.
    assert inspect.getsource(patched.module.number) == "def number():\n\n    return 2\n"
    assert inspect.getsource(patched.module.other) == "def other():\n    return 1\n"


def test_a_module_that_is_not_as_expected_is_not_imported(package: Path) -> None:
    hook.install([patch((Edit("return 7", "return 8"),))])
    with pytest.raises(MachineError, match='expected 1 of "return 7", got 0'):
        __import__("patched.module")


def test_a_program_is_patched_and_finds_none_of_our_modules(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "assert sys.argv[1:] == ['--x', '1'] and __name__ == '__main__'\n"
        f"assert {str(ROOT)!r} not in sys.path and sys.path[0] == {str(tmp_path)!r}\n"
        "print('ran')\n"
    )
    launcher = ROOT / "entrypoints" / "upstream_patches" / "__main__.py"
    line = [sys.executable, str(launcher), str(program), "--x", "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "ran\n", done.stderr


def test_a_program_of_another_commit_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "llm" / "predict" / "predictor.py"
    program.parent.mkdir(parents=True)
    program.write_text("print('ran')\n")
    launcher = ROOT / "entrypoints" / "upstream_patches" / "__main__.py"
    line = [sys.executable, str(launcher), str(program)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == MachineError.status and not done.stdout
    assert 'the patch "message-queue" does not fit' in done.stderr and str(program) in done.stderr


@pytest.mark.parametrize("each", PATCHES, ids=lambda each: each.name)
def test_what_the_table_says_of_a_patch(each: Patch) -> None:
    assert sum(other.name == each.name for other in PATCHES) == 1
    path, _, name = each.test.partition("::")
    functions = [
        node.name
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert name in functions, f"{path} has no {name}"
    assert each.line > 0 and each.symptom and each.action and each.forms
    assert each.backends and each.backends <= EVERY_BACKEND
    assert each.file.endswith(".py") and "/" not in each.module
    assert all(edit.old and edit.count > 0 for form in each.forms for edit in form)


def test_patches_are_for_backends_that_exist() -> None:
    known = {path.stem for path in (ROOT / backend.FOLDER).glob("*.toml")}
    assert known == EVERY_BACKEND


@pytest.mark.parametrize(
    ("config", "asked", "length"),
    [
        ('{"max_position_embeddings": 512}', 100, 512),
        ('{"max_position_embeddings": 131072}', 100, 8192),
        ('{"max_position_embeddings": 131072}', 9000, 9000),
        ('{"seq_length": 2048}', 1, 2048),
        ("{}", 1, 8192),
    ],
)
def test_caches_are_as_long_as_the_model(
    tmp_path: Path, config: str, asked: int, length: int
) -> None:
    (tmp_path / "config.json").write_text(config)
    assert lengths.total_length(str(tmp_path), asked) == length


libc = ctypes.CDLL(None, use_errno=True)


def test_a_run_has_a_queue_of_its_own_that_does_not_outlive_it() -> None:
    with messages.made() as one, messages.made() as other:
        keys = {libc.ftok(os.fsencode(folder), 1) for folder in (one, other)}
        assert len(keys) == 2
        numbers = [libc.msgget(key, 0) for key in keys]
        assert min(numbers) >= 0
        (one / "real_time_save.temp_ids_rank_0_step_1").touch()
    assert not one.exists() and not other.exists()
    assert [libc.msgget(key, 0) for key in keys] == [-1, -1]


def test_a_key_that_another_queue_has_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    number = libc.msgget(libc.ftok(os.fsencode(taken), 1), 0o1600)
    free = tmp_path / "free"
    folders = iter([taken, free])

    def mkdtemp(prefix: str) -> str:
        folder = next(folders)
        folder.mkdir(exist_ok=True)
        return str(folder)

    monkeypatch.setattr(messages.tempfile, "mkdtemp", mkdtemp)
    try:
        with messages.made() as folder:
            assert folder == free
    finally:
        assert libc.msgctl(number, 0, None) == 0


def test_tokens_are_sent_in_the_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(messages.VARIABLE, str(tmp_path))
    here, left = Path.cwd(), {"not_need_stop": 3}
    places = []

    def step(inputs: dict[str, int]) -> None:
        places.append(Path.cwd())
        inputs["not_need_stop"] -= 1

    assert messages.generate(left, step) == 3
    assert places == [tmp_path] * 3 and Path.cwd() == here
    with contextlib.suppress(ZeroDivisionError):
        messages.inside(lambda: 1 / 0)
    assert Path.cwd() == here


def reader(alive: bool) -> SimpleNamespace:
    return SimpleNamespace(is_alive=lambda: alive, exitcode=1)


def test_the_reader_waits_for_a_slow_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the program waits for a slow reader; either is told when the other has ended."""
    monkeypatch.setattr(messages, "_LOOK_SECONDS", 0.01)
    ready = threading.Event()
    threading.Timer(0.1, ready.set).start()
    messages.wait(ready, reader(alive=True))
    with pytest.raises(JobError, match="has ended with exit status 1"):
        messages.wait(threading.Event(), reader(alive=False))
    rows: queue.Queue[list[object]] = queue.Queue()
    threading.Timer(0.1, rows.put, [[0, [1, 2], "x"]]).start()
    assert messages.result(rows, reader(alive=True), 2) == [0, [1, 2], "x"]
    with pytest.raises(JobError, match="has ended with exit status 1"):
        messages.result(rows, reader(alive=False), 2)


def test_tokens_that_are_lost_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: queue.Queue[list[object]] = queue.Queue()
    rows.put([0, [1, 2], "x"])
    with pytest.raises(JobError, match="3 tokens were sent, but 2 received"):
        messages.result(rows, reader(alive=True), 3)
    monkeypatch.setattr(messages, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(messages, "SECONDS", 0.05)
    with pytest.raises(JobError, match="the last message was not received"):
        messages.result(rows, reader(alive=True), 3)
