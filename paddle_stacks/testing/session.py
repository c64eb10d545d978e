"""What ``./inv test`` runs: linters, images and suites, in the order in which they can start."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from paddle_stacks.errors import RequestError, suggest
from paddle_stacks.testing import lint
from paddle_stacks.testing.progress import progress_for
from paddle_stacks.testing.runner import TestSession, failed_last
from paddle_stacks.testing.suites import FAST, LINT, NAMES, SUITES, Suite

__all__ = ["Choice", "run"]


@dataclass(frozen=True)
class Choice:
    """The tests to run.

    Args:
        all: whether all of them; otherwise those of the fast tier.
        suite: all tests of one suite.
        only: an expression of pytest's ``-k``, or a test's id.
        failed: whether those that failed last.
        without: the suites to leave out.
    """

    all: bool = False
    suite: str | None = None
    only: str | None = None
    failed: bool = False
    without: tuple[str, ...] = ()


def run(root: Path, choice: Choice) -> int:
    """Run tests after what they require, and return the exit status.

    Raises:
        RequestError: there is no such suite.
        StackError: a linter found something, or an image cannot be built.
    """
    ids = failed_last(root) if choice.failed else {}
    left_out = {name for word in choice.without for name in _selected(word)}
    names = [name for name in (ids or _selected(choice.suite)) if name not in left_out]
    if choice.failed and not ids:
        print("no test failed when it was last run", file=sys.stderr)
        return 0
    is_fast = not (choice.all or choice.suite or choice.failed)
    suites = {
        name: SUITES[name]
        for name in names
        if name in SUITES and (SUITES[name].in_fast_tier or not is_fast)
    }
    if LINT in names or any(suite.images for suite in suites.values()):
        from paddle_stacks import engine

        engine.ensure()
    if LINT in names:
        print(lint.run(root), file=sys.stderr)
    if not suites:
        return 0
    arguments = [*FAST] if is_fast else []
    if choice.only and "::" in choice.only:
        ids = {name: [choice.only] for name in suites}
    elif choice.only:
        arguments += ["-k", choice.only]
    is_complete = not (is_fast or choice.only or choice.failed)
    session = TestSession(root, progress_for(), arguments, is_complete=is_complete)
    # What needs no images does not wait for them.
    session.run({name: one for name, one in suites.items() if not one.images}, ids)
    with_images = {name: one for name, one in suites.items() if one.images}
    _build_images(root, with_images)
    session.run(with_images, ids)
    return session.finish()


def _selected(suite: str | None) -> list[str]:
    if suite is None:
        return list(NAMES)
    if suite not in NAMES:
        raise RequestError(f'no suite is named "{suite}"', remedy=suggest(suite, NAMES, "suites"))
    return [suite]


def _build_images(root: Path, suites: dict[str, Suite]) -> None:
    from paddle_stacks import build, settings

    for backend in sorted({suite.backend for suite in suites.values()}):
        build.build(["all"], settings.load(root, {"backend": backend}))
