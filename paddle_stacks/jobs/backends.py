"""Devices of the backends, for containers, which do not have ``configs/backends/``.

The images set ``PADDLE_STACKS_BACKEND`` to the backend that they were built for.
"""

from __future__ import annotations

import os

__all__ = ["VARIABLE", "current", "default_dtype", "device"]

VARIABLE = "PADDLE_STACKS_BACKEND"

# Paddle's names of the devices, as in configs/backends/ (a test compares).
_DEVICES = {"cpu": "cpu", "dcu": "gpu", "dcu-sim": "cpu"}


def current() -> str:
    """Return the backend of this container; ``cpu`` if it is not set."""
    return os.environ.get(VARIABLE) or "cpu"


def device(backend: str) -> str:
    """Return Paddle's name of a backend's device: ``cpu`` or ``gpu``.

    Args:
        backend: name of the backend; unknown ones, added by a site, have accelerators.
    """
    return _DEVICES.get(backend, "gpu")


def default_dtype() -> str:
    """Return the default type of computation of inference in this container."""
    return "float32" if device(current()) == "cpu" else "float16"
