"""Whose files are whose: what a job writes, and what is written for it, is the caller's."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["hand_over", "may_write", "run_as"]


def run_as(workspace: Path) -> str:
    """Return the ``uid:gid`` that a container runs as: the caller's.

    For root it is the owner of the workspace. Without capabilities root could not
    write to somebody else's folder, and files of root's there would be a nuisance.
    """
    if os.geteuid() != 0:
        return f"{os.geteuid()}:{os.getegid()}"
    owner = workspace.stat()
    return f"{owner.st_uid}:{owner.st_gid}"


def may_write(folder: Path, user: str) -> bool:
    """Whether ``uid:gid`` may make files in a folder; root is taken without capabilities."""
    uid, gid = map(int, user.split(":"))
    if uid == os.geteuid() and uid != 0:
        return os.access(folder, os.W_OK | os.X_OK)
    found = folder.stat()
    shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
    return (found.st_mode >> shift) & 0o3 == 0o3


def hand_over(file: Path | int, user: str) -> None:
    """Give a file that this process made to ``uid:gid``, as far as it may: root only may.

    Args:
        file: its path, or its descriptor where somebody else could put a link in its place.
        user: ``uid:gid``.
    """
    if os.geteuid() == 0:
        uid, _, gid = user.partition(":")
        os.chown(file, int(uid), int(gid), follow_symlinks=isinstance(file, int))
