"""The images and the Dockerfile's stages, read from the files that define them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from paddle_stacks.build.reasons import parents
from paddle_stacks.plan.backend import load

ROOT = Path(__file__).parents[2]
BACKEND = os.environ.get("PADDLE_STACKS_BACKEND", "cpu")
PLATFORM = load(BACKEND, ROOT)

_DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("${BACKEND}", BACKEND)
_TARGETS = re.findall(r'^target "([a-z]\w*)"', (ROOT / "docker-bake.hcl").read_text(), re.M)
# Without a DCU's operators, ops is a stage only, the parent of train and infer.
IMAGES = tuple(name for name in _TARGETS if name != "ops" or PLATFORM.architectures)


def is_stage(name: str) -> bool:
    """Return whether the Dockerfile has a stage of that name, for this backend or another."""
    return name in parents(_DOCKERFILE)


def stages_in(image: str) -> set[str]:
    """Return the Dockerfile's stages of an image, including its own."""
    bodies = re.split(r"^FROM ", _DOCKERFILE, flags=re.M)[1:]
    # Files of another stage that become part of a layer are mounted at /srv/code.
    taken = re.compile(r"type=bind,from=([\w-]+),source=\S+,target=/srv/code\s")
    copies = {body.split()[2]: taken.findall(body) for body in bodies}
    start = parents(_DOCKERFILE)
    stages: set[str] = set()
    todo = [image]
    while todo:
        stage = todo.pop()
        if stage in start and stage not in stages:
            stages.add(stage)
            todo += [start[stage], *copies[stage]]
    return stages


def instructions_of(image: str) -> list[str]:
    """Return the keywords of the instructions of an image's stages, in order."""
    bodies = {body.split()[2]: body for body in re.split(r"^FROM ", _DOCKERFILE, flags=re.M)[1:]}
    start = parents(_DOCKERFILE)
    instructions: list[str] = []
    stage = image
    while stage in start:
        # Without continuation lines and without FROM.
        text = re.sub(r"\\\n", " ", bodies[stage].partition("\n")[2])
        instructions = [*re.findall(r"^([A-Z]+) ", text, flags=re.M), *instructions]
        stage = start[stage]
    return instructions
