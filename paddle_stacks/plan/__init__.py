"""A plan is a job with everything decided; making one has no side effects.

:func:`make` computes it, :mod:`.show` prints it, an executor carries it out.
"""

from paddle_stacks.plan.backend import Backend
from paddle_stacks.plan.make import (
    PLAIN_ENVIRONMENT,
    Device,
    Mount,
    Plan,
    Port,
    Secret,
    image_name,
    make,
)

__all__ = [
    "PLAIN_ENVIRONMENT",
    "Backend",
    "Device",
    "Mount",
    "Plan",
    "Port",
    "Secret",
    "image_name",
    "make",
]
