"""Every patch of upstream's Python that is applied when we run it; its files stay as they are.

``upstream --unpatched SCRIPT`` runs a program without them.
"""

from __future__ import annotations

from entrypoints.upstream_patches import generation, layers, packages, programs
from entrypoints.upstream_patches.patch import Patch

__all__ = ["PATCHES"]

PATCHES: tuple[Patch, ...] = (
    *layers.PATCHES,
    *generation.PATCHES,
    *programs.PATCHES,
    *packages.PATCHES,
)
