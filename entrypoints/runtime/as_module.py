"""Run a module of a package: ``as_module.py PACKAGE.MODULE [ARGUMENT …]``.

Like ``python -m``, but without the working directory, which is the user's, in ``sys.path``; and
as a file, because Paddle's launcher can only start files.
"""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    sys.path.pop(0)  # this file's own folder
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
