"""Tasks for air-gapped installation: bundle.create, bundle.verify, bundle.load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paddle_stacks.cli import ROOT, task

_SIGNERS = "Require a signature by a key of this file (ALLOWED SIGNERS in ssh-keygen(1))."


@task(
    iterable=["image", "model", "data", "python"],
    help={
        "backend": "The backend: a file in configs/backends/.",
        "image": "An image of docker-bake.hcl; repeatable. Default: all.",
        "model": "A model in models/; repeatable.",
        "data": "A folder in data/; repeatable.",
        "output": "The bundle's folder. Default: paddle-stacks-VERSION-BACKEND.bundle.",
        "split": "Cut files that are larger into parts: 4G is 4e9 bytes.",
        "python": "A Python to carry ./inv's packages for, as 3.11; repeatable. Default: all.",
        "no-rebuild": "Leave out what the images are built from.",
        "allow-dirty": "Carry files that differ from the commit, as they are.",
        "sign": "Sign the sums with this SSH key.",
    },
)
def create(
    context: Any,
    image: list[str],
    model: list[str],
    data: list[str],
    python: list[str],
    backend: str | None = None,
    output: str | None = None,
    split: str | None = None,
    no_rebuild: bool = False,
    allow_dirty: bool = False,
    sign: str | None = None,
) -> None:
    """Create a folder for an air-gapped machine.

    The same command continues after an interruption.
    """
    from paddle_stacks import __version__, settings
    from paddle_stacks.bundle.create import BundleSpec, parse_size
    from paddle_stacks.bundle.create import create as make
    from paddle_stacks.bundle.downloads import PYTHONS
    from paddle_stacks.bundle.program import log

    loaded = settings.load(ROOT, {"backend": backend})
    name = output or f"paddle-stacks-{__version__}-{loaded.backend}.bundle"
    spec = BundleSpec(
        output=Path(name).expanduser().absolute(),
        images=tuple(image),
        models=tuple(model),
        data=tuple(data),
        pythons=tuple(python) or PYTHONS,
        split=parse_size(split) if split else 0,
        rebuild=not no_rebuild,
        allow_dirty=allow_dirty,
        key=Path(sign).expanduser() if sign else None,
    )
    make(spec, loaded, log)
    print(spec.output)


@task(help={"bundle": "The bundle's folder.", "allowed-signers": _SIGNERS})
def verify(context: Any, bundle: str, allowed_signers: str | None = None) -> None:
    """Compare every file of a bundle with its checksum."""
    from paddle_stacks.bundle.program import verify_and_report

    verify_and_report(Path(bundle), Path(allowed_signers) if allowed_signers else None)


@task(
    help={
        "bundle": "The bundle's folder.",
        "to": "The project's folder. Default: this one, which has to be of the same revision.",
        "allowed-signers": _SIGNERS,
        "no-verify": "Do not test the images in the end.",
    }
)
def load(
    context: Any,
    bundle: str,
    to: str | None = None,
    allowed_signers: str | None = None,
    no_verify: bool = False,
) -> None:
    """Load a bundle's images, models and packages.

    The same command continues after an interruption.
    """
    from paddle_stacks.bundle.load import load as load_bundle
    from paddle_stacks.bundle.program import log

    load_bundle(
        Path(bundle),
        Path(to).absolute() if to else ROOT,
        log,
        allowed_signers=Path(allowed_signers) if allowed_signers else None,
        verify=not no_verify,
    )
