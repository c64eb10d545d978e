"""Measures the lines that a Python process executes, from its first import to its exit.

A ``.pth`` file imports this module, in the tests' environment and in containers. Without a
``coveragerc`` beside it, it does nothing. Standard library and ``coverage`` only.

Coverage's own patches for ``fork``, ``exec`` and ``_exit`` are not used: each process that
forks would add another layer of them, and a job is the child of a child.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import coverage

__all__ = ["start", "switch_context"]

_FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 (pathlib costs 5 ms)
_SETTINGS = f"{_FOLDER}/coveragerc"
_CONTEXT = "/opt/coverage/data/context"
_measured: coverage.Coverage | None = None


def start() -> None:
    """Measure this process and its forks, each for the test that runs when it starts."""
    if not os.path.exists(_SETTINGS):  # noqa: PTH110
        return
    _begin()
    atexit.register(_end)
    os.register_at_fork(after_in_child=_begin_in_child)
    for name in ("execv", "execve", "_exit"):
        setattr(os, name, _saving_first(getattr(os, name)))


def switch_context(test: str) -> None:
    """Count what this process executes from now on as executed by a test.

    Args:
        test: its id.
    """
    if _measured is not None:
        _measured.switch_context(test)


def _begin() -> None:
    global _measured
    import coverage

    # Not switch_context, which opens the data file: a job gives up its rights before it ends.
    _measured = coverage.Coverage(
        config_file=_SETTINGS, check_preimported=False, context=_running_test() or None
    )
    _measured.start()


def _begin_in_child() -> None:
    assert _measured is not None
    _measured.stop()  # the lines so far are the parent's
    _begin()


def _end() -> None:
    assert _measured is not None
    _measured.stop()
    _measured.save()


def _saving_first(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*arguments: Any, **options: Any) -> Any:
        assert _measured is not None
        _measured.save()
        return function(*arguments, **options)

    return wrapper


def _running_test() -> str:
    """Return the id of the running test: from the file in a container, else from pytest."""
    try:
        with open(_CONTEXT, encoding="utf-8") as stream:  # noqa: PTH123
            return stream.read()
    except OSError:
        return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]


start()
