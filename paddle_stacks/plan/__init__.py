"""Plans: complete specifications of a job's container. Making one has no side effects.

:func:`make` computes a plan, :mod:`.show` prints it, an executor runs it.
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
    node_devices,
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
    "node_devices",
]
