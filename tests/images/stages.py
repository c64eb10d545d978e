"""The images and the Dockerfile's stages, read from the files that define them."""

from __future__ import annotations

import re
from pathlib import Path

from paddle_stacks.build.reasons import parents

ROOT = Path(__file__).parents[2]
BACKEND = "cpu"

_DOCKERFILE = (ROOT / "Dockerfile").read_text()
IMAGES = tuple(re.findall(r'^target "([a-z]\w*)"', (ROOT / "docker-bake.hcl").read_text(), re.M))


def stages_in(image: str) -> set[str]:
    """Return the Dockerfile's stages that an image consists of, itself among them."""
    bodies = re.split(r"^FROM ", _DOCKERFILE, flags=re.M)[1:]
    copies = {
        body.split()[2]: re.findall(r"^COPY --from=(\S+)", body, flags=re.M) for body in bodies
    }
    start = parents(_DOCKERFILE)
    found: set[str] = set()
    todo = [image]
    while todo:
        stage = todo.pop()
        if stage in start and stage not in found:
            found.add(stage)
            todo += [start[stage], *copies[stage]]
    return found
