"""The packages that the locks install in an image."""

from __future__ import annotations

import re

from paddle_stacks.build.variables import paddle_version
from tests.support.stages import PLATFORM, ROOT, stages_in

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)

# The stages that install a lock.
_LOCKS = {
    "framework": "framework/requirements",
    "training": "train/requirements",
    "training-dcu": "train/quantize",
    "serving": "infer/requirements",
}


def locked(image: str) -> dict[str, str]:
    """Return the packages that an image's locks name, and their versions."""
    versions: dict[str, str] = {}
    for stage, name in _LOCKS.items():
        if stage in stages_in(image):
            text = (ROOT / "images" / f"{name}.{PLATFORM.lock}.lock").read_text()
            versions |= {re.sub(r"[-_.]+", "-", name).lower(): v for name, v in _PIN.findall(text)}
    if PLATFORM.lock == "dcu":
        versions["paddlepaddle-dcu"] = paddle_version(ROOT)
    if PLATFORM.architectures and "ops" in stages_in(image):
        # Upstream gives them no version.
        versions |= dict.fromkeys(("paddlenlp-ops", "fused-ln"), "0.0.0")
    assert versions, f"the locks of {image} name no package"
    return versions
