"""Tasks that build the images, resolve their locks, and set up Docker."""

from __future__ import annotations

import sys
from typing import Any

from paddle_stacks.cli import ROOT, task

_BACKEND = {"backend": "The backend: a file in configs/backends/."}


@task(
    iterable=["image"],
    help={
        "image": "An image or group of docker-bake.hcl; can be repeated. Default: all.",
        "plan": "Print what would be run, as a shell script, and stop.",
        "record-hash": "Accept and record different digests of the build's inputs.",
        "archs": "The architectures of a DCU's operators: 'gfx928;gfx936'.",
        "paddlenlp-src": "The source of a DCU's operators: a folder, or a git URL#COMMIT.",
        **_BACKEND,
    },
)
def build(
    context: Any,
    image: list[str],
    backend: str | None = None,
    paddlenlp_src: str | None = None,
    archs: str | None = None,
    plan: bool = False,
    record_hash: bool = False,
) -> None:
    """Build the images.

    Each step is shown with its log and the reason why it ran again.
    """
    from paddle_stacks import build as building
    from paddle_stacks import engine, settings
    from paddle_stacks.build.variables import check_request

    flags = {"backend": backend, "paddlenlp_src": paddlenlp_src, "gfx_archs": archs}
    loaded = settings.load(ROOT, flags)
    targets = image or ["all"]
    if plan:
        print(building.plan_text(targets, loaded))
        return
    check_request(loaded)
    engine.ensure()
    building.build(targets, loaded, record=record_hash)


@task(
    iterable=["package"],
    help={
        "backend": "Whose locks: cpu or dcu. Default: cpu.",
        "package": "Upgrade this package only, within its pin; can be repeated.",
    },
)
def lock(context: Any, package: list[str], backend: str = "cpu") -> None:
    """Resolve all requirements again and show what changed.

    These are the requirements of the images and of .venv.
    """
    from paddle_stacks import locks

    for line in locks.relock(ROOT, backend, package):
        print(line, file=sys.stderr)


@task()
def setup(context: Any) -> None:
    """Start Docker with buildx and Compose v2, or install it."""
    from paddle_stacks import engine

    engine.ensure()
    version = engine.connect().version()
    print(f"Docker Engine {version['Version']} answers", file=sys.stderr)
