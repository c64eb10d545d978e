"""The documentation as a site, built by MkDocs and served to this machine only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from paddle_stacks.errors import BuildError, Problem, RequestError

__all__ = ["ADDRESS", "FOLDER", "build", "serve"]

FOLDER = Path(".cache", "site")
"""The folder of the site, in the repository."""

ADDRESS = "127.0.0.1"

_MKDOCS = (sys.executable, "-m", "mkdocs")
_FAULTS = ("WARNING", "ERROR")


def build(root: Path, output: Path | None = None) -> Path:
    """Build the site and return its folder.

    Pages outside of the menu and broken links or anchors are errors.

    Args:
        root: the repository's root, with ``mkdocs.yml``.
        output: the site's folder, whose content is replaced; ``.cache/site`` by default.

    Raises:
        BuildError: the documents have errors. Reports all of them.
    """
    folder = (output or root / FOLDER).absolute()
    command = [*_MKDOCS, "build", "--strict", "--clean", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        remedy = "fix the links; a new page needs a line in the nav of mkdocs.yml"
        lines = [line for line in done.stderr.splitlines() if line.startswith(_FAULTS)]
        messages = [" ".join(line.split()[2:]) for line in lines] or [done.stderr.strip()[-2000:]]
        raise BuildError([Problem(message, "mkdocs.yml", remedy) for message in messages])
    return folder


def serve(root: Path, port: int) -> None:
    """Serve the site on the loopback address; it is rebuilt when a page changes.

    Args:
        root: the repository's root.
        port: the port.

    Raises:
        RequestError: the port is invalid or in use.
    """
    if not 0 < port < 65536:
        message = f"--port must be in 1 … 65535, got {port}"
        raise RequestError(message, where="--port", remedy="--port 8000")
    command = [*_MKDOCS, "serve", "--no-strict", "--dev-addr", f"{ADDRESS}:{port}"]
    if subprocess.run(command, cwd=root, check=False).returncode:
        remedy = "if the port is in use, choose another one: --port N"
        raise RequestError("the site cannot be served, see above", where="--port", remedy=remedy)
