"""Makes a CPU Paddle answer as a ROCm build, so that operators can be compiled against it.

The headers of the wheel for a CPU are those of the wheel for a DCU; what differs is
what Paddle says of itself, by which ``paddle.utils.cpp_extension`` chooses its
compiler. Active only under ``PADDLE_AS_ROCM=1``: a job computes as what it is.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_READ_AT_IMPORT = ("extension_utils", "cpp_extension")


class _Paddle(importlib.abc.Loader):
    """Imports Paddle, then changes its answers: earlier they would break the import."""

    def __init__(self, real: importlib.abc.Loader) -> None:
        self.real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.real.exec_module(module)
        core = importlib.import_module("paddle.base.core")
        core.is_compiled_with_rocm = core.is_compiled_with_cuda = lambda: True
        package = importlib.import_module("paddle.utils.cpp_extension")
        for name in _READ_AT_IMPORT:
            importlib.reload(sys.modules[f"{package.__name__}.{name}"])
        importlib.reload(package)
        _complete_toolkit(Path(str(module.__file__)).parent / "include")


def _complete_toolkit(paddle: Path) -> None:
    """Write the toolkit's headers that no package has, where this Paddle brings its own."""
    toolkit = Path(os.environ["ROCM_PATH"], "include")
    if paddle.is_dir() and not (toolkit / "miopen").exists():
        headers = importlib.import_module("toolkit_headers")
        headers.main(paddle, toolkit)


class _Finder(importlib.abc.MetaPathFinder):
    """Stands before the import of ``paddle``, and before other finders that do."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "paddle":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Paddle(spec.loader)
        return spec


if os.environ.get("PADDLE_AS_ROCM") == "1":
    import importlib.util

    sys.meta_path.insert(0, _Finder())
