"""Which revision of the project this is, in a checkout and in a copy that has no history.

Standard library only: what loads a bundle imports this module too.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

__all__ = ["ARCHIVAL", "commit_seconds", "git", "revision"]

ARCHIVAL = ".git_archival.txt"
"""What ``git archive`` fills in (``export-subst`` in ``.gitattributes``), and a bundle too."""


def revision(root: Path) -> str:
    """Return the commit, with ``-dirty`` where files differ from it; ``unknown`` if none is."""
    found = git(root, "rev-parse", "HEAD")
    if not found:
        return _archived(root, "node") or "unknown"
    return found + ("-dirty" if git(root, "status", "--porcelain") else "")


def commit_seconds(root: Path) -> int:
    """Return when the commit was made, in seconds since 1970; 0 if nobody knows."""
    found = git(root, "log", "-1", "--format=%ct") or _archived(root, "node-date")
    return int(found) if found.isdigit() else 0


def git(root: Path, *arguments: str) -> str:
    """Return what git says, or an empty string where ``root`` is no checkout or git is not here."""
    if not (root / ".git").exists():
        return ""  # or git would tell of a repository that this folder lies in
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
    found = re.search(rf"^{key}: ([0-9a-z-]+)$", text, re.MULTILINE)
    return found.group(1) if found else ""
