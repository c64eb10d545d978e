"""The operators for a CPU in the images, which a process has only where a job asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from paddle_stacks.errors import MachineError

__all__ = ["VARIABLE", "variables"]

VARIABLE = "PADDLE_STACKS_CPU_OPERATORS"
"""The variable with their folder, where it is not the images'."""

_FOLDER = "/opt/cpu-operators"


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a process that computes with them.

    Args:
        environ: the variables as they are.

    Raises:
        MachineError: the image does not have them.
    """
    folder = Path(environ.get(VARIABLE) or _FOLDER)
    kernels, site = folder / "kernels", folder / "site"
    if not any(kernels.glob("*.so")) or not (site / "paddlenlp_ops.py").is_file():
        raise MachineError(
            "the operators for a CPU are not in this image",
            where=str(folder),
            remedy="build the images again: ./inv build",
        )
    paths = [str(site), *filter(None, environ.get("PYTHONPATH", "").split(":"))]
    return {
        "CUSTOM_DEVICE_ROOT": str(kernels),
        "PYTHONPATH": ":".join(paths),
        # Paddle says of every library that it loads that it is no plug-in of a whole device.
        "GLOG_minloglevel": environ.get("GLOG_minloglevel", "2"),
    }
