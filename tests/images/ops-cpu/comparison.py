"""Run reference.py in a container and compare a device with the CPU."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def computed(container: str, device: str, changes: Sequence[str] = ()) -> Any:
    """Return what reference.py writes; ``changes`` is a function of wrong.py, then cases."""
    for name in ("reference.py", "wrong.py"):
        _run(["sh", "-c", f"cat > /tmp/{name}"], container, (HERE / name).read_text())
    words = ["/tmp/wrong.py", *changes] if changes else []
    _run(["python", "/tmp/reference.py", device, "/tmp/operators.json", *words], container)
    return json.loads(_run(["cat", "/tmp/operators.json"], container))


def _run(command: Sequence[str], container: str, text: str = "") -> str:
    done = subprocess.run(
        ["docker", "exec", "--interactive", container, *command],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
