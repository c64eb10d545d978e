"""Tasks that prove the project: linters, tests, images."""

from __future__ import annotations

import sys
from typing import Any

from paddle_stacks.cli import ROOT, finish, task
from paddle_stacks.errors import RequestError, suggest
from paddle_stacks.testing import lint as linters
from paddle_stacks.testing.suites import FAST, LINT, NAMES, SUITES, Suite


@task(
    iterable=["without"],
    help={
        "all": "Run all tests. Default: those that take ten minutes together.",
        "suite": f"All tests of one suite: {', '.join(NAMES)}.",
        "only": "The tests that match: an expression of pytest's -k, or a test's id.",
        "failed": "Repeat the tests that failed last.",
        "without": "A suite to leave out; repeatable.",
    },
)
def test(
    context: Any,
    all: bool = False,
    suite: str | None = None,
    only: str | None = None,
    failed: bool = False,
    without: list[str] | None = None,
) -> None:
    """Run the tests; their requirements are built first."""
    from paddle_stacks.testing.progress import progress_for
    from paddle_stacks.testing.runner import TestSession, failed_last

    ids = failed_last(ROOT) if failed else {}
    left_out = {name for word in without or () for name in _selected(word)}
    names = [name for name in (ids or _selected(suite)) if name not in left_out]
    if failed and not ids:
        print("no test failed when it was last run", file=sys.stderr)
        return
    is_fast = not (all or suite or failed)
    suites = {name: SUITES[name] for name in names if name in SUITES}
    if is_fast:
        suites = {name: one for name, one in suites.items() if one.in_fast_tier}
    if LINT in names or any(wanted.images for wanted in suites.values()):
        _ensure_engine()
    if LINT in names:
        print(linters.run(ROOT), file=sys.stderr)
    if not suites:
        return
    is_everything = (all or suite is not None) and not (only or failed)
    arguments = [*FAST] if is_fast else []
    if only and "::" in only:
        ids = {name: [only] for name in suites}
    elif only:
        arguments += ["-k", only]
    session = TestSession(ROOT, progress_for(), arguments, is_complete=is_everything)
    # What needs no images does not wait for them.
    session.run({name: one for name, one in suites.items() if not one.images}, ids)
    with_images = {name: one for name, one in suites.items() if one.images}
    _build_images(with_images)
    session.run(with_images, ids)
    finish(session.finish())


@task(
    help={
        "image": "One image. Default: all that are built.",
        "backend": "The backend: a file in configs/backends/.",
    }
)
def verify(context: Any, image: str | None = None, backend: str | None = None) -> None:
    """Test the built images and write a report.

    The report includes this machine; attach it to an issue.
    """
    from paddle_stacks import settings, verify

    status, report = verify.check_images(settings.load(ROOT, {"backend": backend}), image)
    path = verify.write(ROOT, report)
    print(f"{report['result']}; the report: {path.relative_to(ROOT)}", file=sys.stderr)
    finish(status)


@task()
def lint(context: Any) -> None:
    """Run the linters and the type checker.

    These are ruff, mypy, shellcheck and hadolint; Compose and bake files are checked too.
    """
    print(linters.run(ROOT), file=sys.stderr)


def _selected(suite: str | None) -> list[str]:
    """Return the names of the suites to run.

    Raises:
        RequestError: there is no such suite.
    """
    if suite is None:
        return list(NAMES)
    if suite not in NAMES:
        raise RequestError(f'no suite is named "{suite}"', remedy=suggest(suite, NAMES, "suites"))
    return [suite]


def _ensure_engine() -> None:
    from paddle_stacks import engine

    engine.ensure()


def _build_images(suites: dict[str, Suite]) -> None:
    from paddle_stacks import build, settings

    for backend in sorted({suite.backend for suite in suites.values()}):
        build.build(["all"], settings.load(ROOT, {"backend": backend}))
