"""Patches of upstream's Python code that are applied on import; its files are not changed.

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
