"""What a platform computes on, for jobs, which do not have ``configs/backends/``.

The images set ``PADDLE_STACKS_BACKEND`` to the platform that they were built for.
"""

from __future__ import annotations

import os

__all__ = ["VARIABLE", "current", "device", "usual_dtype"]

VARIABLE = "PADDLE_STACKS_BACKEND"

# What Paddle calls the thing, as the files of the platforms have it (a test compares).
_DEVICES = {"cpu": "cpu", "dcu": "gpu", "dcu-sim": "cpu"}


def current() -> str:
    """Return the platform of this container; ``cpu`` where nothing says so."""
    return os.environ.get(VARIABLE) or "cpu"


def device(backend: str) -> str:
    """Return what Paddle calls the device of a platform: ``cpu`` or ``gpu``.

    Args:
        backend: its name; one that a site has added is for an accelerator.
    """
    return _DEVICES.get(backend, "gpu")


def usual_dtype() -> str:
    """Return what answers are computed in where nobody says otherwise, on this platform."""
    return "float32" if device(current()) == "cpu" else "float16"
