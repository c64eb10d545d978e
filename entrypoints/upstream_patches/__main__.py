"""Run an upstream program with the patches: ``__main__.py PROGRAM [ARGUMENT …]``.

PROGRAM is a file, or a module of a package in the source. This module is run as a file, because
Paddle's launcher can only start files.
"""

from __future__ import annotations

import runpy
import sys
import types
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> None:
    """Run the program in ``argv``."""
    own = str(Path(__file__).resolve().parents[2])
    # Upstream can import no other modules of this project.
    sys.path[:] = [own, *[path for path in sys.path[1:] if path != own]]
    from entrypoints.upstream_patches import PATCHES, hook
    from paddle_stacks.errors import StackError, render
    from paddle_stacks.jobs import backends

    sys.path.remove(own)
    program = argv[0]
    backend = backends.current()
    patches = [patch for patch in PATCHES if backend in patch.backends]
    hook.install(patches)
    sys.argv[:] = list(argv)
    try:
        if program.endswith(".py"):
            _run_file(program, [p for p in patches if program.endswith(f"/{p.file}")], hook)
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except StackError as error:
        print(render(error), file=sys.stderr)
        sys.exit(error.status)


def _run_file(path: str, patches: Sequence[object], hook: types.ModuleType) -> None:
    sys.path.insert(0, str(Path(path).parent))
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    code = hook.compiled(Path(path).read_text(encoding="utf-8"), patches, path)
    exec(code, module.__dict__)


if __name__ == "__main__":
    main(sys.argv[1:])
