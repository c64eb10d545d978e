"""The task that makes a release."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from paddle_stacks import __version__
from paddle_stacks.cli import ROOT, task
from paddle_stacks.testing import suites

__all__ = ["release"]


@task(
    iterable=["backend"],
    help={
        "version": "What is released, as 0.2.0: the checkout's own version.",
        "backend": "A backend whose images are part of it; repeatable. Default: cpu.",
        "dry-run": "Check, say what would be done, and stop.",
    },
)
def release(
    context: Any, version: str, backend: list[str] | None = None, dry_run: bool = False
) -> None:
    """Build, verify and tag a release; nothing is pushed."""
    from paddle_stacks import release as releasing

    backends = backend or ["cpu"]
    candidate = releasing.check(ROOT, version, __version__, suites.folders())
    if dry_run:
        print(f"would build and verify the images of {', '.join(backends)}, and tag")
        print(f"{candidate.commit} as {candidate.tag}, with these notes:\n")
        print(releasing.notes(candidate, []), end="")
        return
    path = releasing.carry_out(candidate, ROOT, backends, _build, _verify)
    print(f"{candidate.tag} is tagged; the notes: {path.relative_to(ROOT)}", file=sys.stderr)
    print("nothing was pushed; to publish it:", file=sys.stderr)
    print(f"git push origin {releasing.BRANCH} {candidate.tag}")


def _build(backend: str) -> None:
    from paddle_stacks import build, engine, settings

    engine.ensure()
    build.build(["all"], settings.load(ROOT, {"backend": backend}))


def _verify(backend: str) -> Mapping[str, Any]:
    from paddle_stacks import settings, verify

    status, report = verify.check_images(settings.load(ROOT, {"backend": backend}))
    report["verified"] = report["verified"] and not status
    verify.write(ROOT, report)
    return report
