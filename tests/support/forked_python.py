"""Start Python programs by fork instead of exec, from a process that has imported Paddle.

A job of several processes starts Paddle's launcher, which starts a worker for each rank. Each of
them imports Paddle, which takes most of the time of a small test. A fork of a warm job
(warm_server.py) avoids that. The effects of exec are reproduced: descriptors, session, signals,
environment, arguments and our modules are new, and the exit status is the program's. Programs with
another interpreter setup (``PYTHONPATH``, ``-c``) are executed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

_OWN = ("entrypoints", "paddle_stacks")


def install(fork: Callable[[], int]) -> None:
    """Let ``subprocess`` fork Python programs.

    Args:
        fork: as :func:`os.fork`, when it is safe.
    """
    execute = subprocess._fork_exec  # type: ignore[attr-defined]

    def fork_exec(*arguments: Any) -> int:
        words = [os.fsdecode(word) for word in arguments[0]]
        environ = dict(os.fsdecode(entry).split("=", 1) for entry in arguments[5] or ())
        if not _can_fork(words, environ):
            return int(execute(*arguments))
        sys.stdout.flush()
        sys.stderr.flush()
        child = fork()
        if child == 0:
            _become(_words_after_options(words), environ, arguments)
        return child

    subprocess._fork_exec = fork_exec  # type: ignore[attr-defined]


def _can_fork(words: Sequence[str], environ: dict[str, str]) -> bool:
    """Return whether a command line runs Python with this interpreter."""
    if words[0] != sys.executable or environ.get("PYTHONPATH") != os.environ.get("PYTHONPATH"):
        return False
    rest = _words_after_options(words)
    return bool(rest) and (rest[0] == "-m" or rest[0].endswith(".py"))


def _words_after_options(words: Sequence[str]) -> list[str]:
    return list(words[2:] if words[1:2] == ["-u"] else words[1:])


def _become(words: list[str], environ: dict[str, str], arguments: Sequence[Any]) -> NoReturn:
    """Run a program in this new child, and exit like its interpreter.

    Args:
        words: ``-m MODULE`` or a file, and the arguments.
        environ: all of its environment.
        arguments: of ``subprocess._fork_exec`` (CPython 3.11).
    """
    with_arguments = functools.partial(_start, words, environ, arguments)
    end_with_status_of(with_arguments)


def _start(words: list[str], environ: dict[str, str], arguments: Sequence[Any]) -> None:
    _take_over(*arguments)
    os.environ.clear()
    os.environ.update(environ)
    _forget_parent()
    _run(words)


def end_with_status_of(program: Callable[[], None]) -> NoReturn:
    """Run a program in this forked process, and exit with the status of an interpreter.

    Exit handlers run, but destructors of libraries do not, because Paddle's statistics wait up to
    a second for their thread. Tests in separate containers cover them.
    """
    status = 1
    try:
        program()
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        # Not through the frames of the process that forked, nor through its exit handlers.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _take_over(
    _words: Any,
    _paths: Any,
    _close: Any,
    _keep: Any,
    cwd: str | None,
    _environ: Any,
    *rest: Any,
) -> None:
    """Set up what happens between fork and exec: descriptors, session, signals, folder."""
    stdin, parents_stdin, parents_stdout, stdout, parents_stderr, stderr = rest[:6]
    sees_failure, tells_failure, _restore, own_session = rest[6:10]
    preexec = rest[-2]
    for descriptor in (parents_stdin, parents_stdout, parents_stderr, sees_failure):
        if descriptor != -1:
            os.close(descriptor)
    for target, descriptor in enumerate((stdin, stdout, stderr)):
        if descriptor != -1:
            os.dup2(descriptor, target)
    for descriptor in {stdin, stdout, stderr} - {-1, 0, 1, 2}:
        os.close(descriptor)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if cwd is not None:
        os.chdir(cwd)
    if own_session:
        os.setsid()
    if preexec is not None:
        preexec()
    os.close(tells_failure)  # by which the parent sees that the program has started


def _forget_parent() -> None:
    """Remove state that a new interpreter would not have."""
    atexit._clear()
    signal.alarm(0)
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    for name in [name for name in sys.modules if name.partition(".")[0] in _OWN]:
        del sys.modules[name]
    random.seed()
    sys.modules["numpy"].random.seed()
    # Read once and kept: how many threads and processes there are.
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    sys.modules["paddle.base.core"].__dict__["set_num_threads"](threads)
    sys.modules["paddle.distributed.parallel"].__dict__["_global_parallel_env"] = None
    if module := sys.modules.get("paddlenlp.utils.distributed"):
        module.__dict__["world_size"] = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def _run(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
