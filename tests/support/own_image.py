"""Images for tests, built from the project's base image and Debian's packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

from paddle_stacks import settings
from paddle_stacks.build.variables import secrets

ROOT = Path(__file__).parents[2]


def build(dockerfile: Path, tag: str) -> None:
    """Build an image like the project's, with the machine's network settings and CA bundle."""
    line = ["docker", "build", "--quiet", "--file", str(dockerfile), "--tag", tag]
    with secrets(settings.load(ROOT)) as files:
        line += ["--secret", f"id=ca_bundle,src={files['CA_BUNDLE']}"]
        line += ["--secret", f"id=network,src={files['NETWORK']}"]
        done = subprocess.run([*line, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
