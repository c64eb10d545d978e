"""The CPU operators in the images, which must be enabled per process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from paddle_stacks.errors import MachineError

__all__ = ["VARIABLE", "variables"]

VARIABLE = "PADDLE_STACKS_CPU_OPERATORS"
"""The variable with their folder, if it is not that of the images."""

_FOLDER = "/opt/cpu-operators"


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that enable the operators.

    Args:
        environ: the current environment variables.

    Raises:
        MachineError: the image does not contain them.
    """
    folder = Path(environ.get(VARIABLE) or _FOLDER)
    kernels, site = folder / "kernels", folder / "site"
    if not any(kernels.glob("*.so")) or not (site / "paddlenlp_ops.py").is_file():
        raise MachineError(
            "this image does not contain the CPU operators",
            where=str(folder),
            remedy="build the images again: ./inv build",
        )
    paths = [str(site), *filter(None, environ.get("PYTHONPATH", "").split(":"))]
    return {
        "CUSTOM_DEVICE_ROOT": str(kernels),
        "PYTHONPATH": ":".join(paths),
        # Paddle warns that these libraries are not plug-ins for a device.
        "GLOG_minloglevel": environ.get("GLOG_minloglevel", "2"),
    }
