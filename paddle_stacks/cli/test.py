"""Tasks that prove the project: linters, tests, images."""

from __future__ import annotations

import sys
from typing import Any

from paddle_stacks.cli import ROOT, finish, task
from paddle_stacks.testing import lint as linters
from paddle_stacks.testing.suites import NAMES


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
    from paddle_stacks.testing import session

    choice = session.Choice(all, suite, only, failed, tuple(without or ()))
    finish(session.run(ROOT, choice))


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
