"""The revision of the project, in a checkout or in a copy without history.

Standard library only, because the loader of bundles imports this module.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

__all__ = ["ARCHIVAL", "commit_seconds", "git", "revision"]

ARCHIVAL = ".git_archival.txt"
"""The file that ``git archive`` (``export-subst``) and bundles fill with the revision."""


def revision(root: Path) -> str:
    """Return the commit, with ``-dirty`` if files differ from it; ``unknown`` if it is."""
    commit = git(root, "rev-parse", "HEAD")
    if not commit:
        return _archived(root, "node") or "unknown"
    return commit + ("-dirty" if git(root, "status", "--porcelain") else "")


def commit_seconds(root: Path) -> int:
    """Return the time of the commit in seconds since 1970; 0 if it is unknown."""
    seconds = git(root, "log", "-1", "--format=%ct") or _archived(root, "node-date")
    return int(seconds) if seconds.isdigit() else 0


def git(root: Path, *arguments: str) -> str:
    """Return git's output; empty if ``root`` is not a checkout or git is not installed."""
    if not (root / ".git").exists():
        return ""  # otherwise git would use a repository around this folder
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _archived(root: Path, key: str) -> str:
    try:
        text = (root / ARCHIVAL).read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(rf"^{key}: ([0-9a-z-]+)$", text, re.MULTILINE)
    return match.group(1) if match else ""
