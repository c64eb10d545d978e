"""Owners of files: what jobs write belongs to the calling user."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["hand_over", "may_write", "run_as"]


def run_as(workspace: Path) -> str:
    """Return the ``uid:gid`` that containers run as: the caller's.

    For root it is the owner of the workspace, because root without capabilities cannot write
    to another user's folder.
    """
    if os.geteuid() != 0:
        return f"{os.geteuid()}:{os.getegid()}"
    owner = workspace.stat()
    return f"{owner.st_uid}:{owner.st_gid}"


def may_write(folder: Path, user: str) -> bool:
    """Return whether ``uid:gid`` can create files in a folder; root has no capabilities."""
    uid, gid = map(int, user.split(":"))
    if uid == os.geteuid() and uid != 0:
        return os.access(folder, os.W_OK | os.X_OK)
    state = folder.stat()
    shift = 6 if state.st_uid == uid else 3 if state.st_gid == gid else 0
    return (state.st_mode >> shift) & 0o3 == 0o3


def hand_over(file: Path | int, user: str) -> None:
    """Change the owner of a file to ``uid:gid`` if this process is root.

    Args:
        file: its path, or its descriptor if another user could replace it by a link.
        user: ``uid:gid``.
    """
    if os.geteuid() == 0:
        uid, _, gid = user.partition(":")
        os.chown(file, int(uid), int(gid), follow_symlinks=isinstance(file, int))
