"""The documents as a site, by mkdocs: built strictly, and served to this machine only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from paddle_stacks.errors import BuildError, Problem, RequestError

__all__ = ["ADDRESS", "FOLDER", "build", "serve"]

FOLDER = Path(".cache", "site")
"""Where the site is built, in the repository."""

ADDRESS = "127.0.0.1"

_MKDOCS = (sys.executable, "-m", "mkdocs")
_FAULTS = ("WARNING", "ERROR")


def build(root: Path, output: Path | None = None) -> Path:
    """Build the site and return its folder.

    A page that is in no menu and a link or an anchor that leads nowhere are errors.

    Args:
        root: the repository's root, with ``mkdocs.yml``.
        output: the site's folder, whose content is replaced; ``.cache/site`` by default.

    Raises:
        BuildError: the documents are not in order; every fault is told.
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
    """Serve the site on the loopback address, built anew whenever a page is saved.

    Args:
        root: the repository's root.
        port: of this machine.

    Raises:
        RequestError: the port is none, or taken.
    """
    if not 0 < port < 65536:
        raise RequestError(f"{port} is no port", where="--port", remedy="1024 to 65535")
    command = [*_MKDOCS, "serve", "--no-strict", "--dev-addr", f"{ADDRESS}:{port}"]
    if subprocess.run(command, cwd=root, check=False).returncode:
        remedy = "--port with another one, if the port is taken"
        raise RequestError("the site is not served: see above", where="--port", remedy=remedy)
