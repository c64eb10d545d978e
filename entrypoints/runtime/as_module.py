"""Runs a script that is part of a package: ``as_module.py PACKAGE.MODULE [ARGUMENT …]``.

As ``python -m`` does, without putting the working directory, which is the user's, where
modules are looked for; and as a file, which is all that Paddle's launcher can start.
"""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    sys.path.pop(0)  # this file's own folder
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
