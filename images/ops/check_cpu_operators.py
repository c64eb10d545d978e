"""Check the operators for the CPU: they load, register and link.

usage: check_cpu_operators.py FOLDER LIST   LIST is the JSON that build_cpu_operators.py wrote

Exit status: 0 all is there, 1 the lines before say what is not.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Load everything in FOLDER as a job does; return the exit status."""
    folder, listed = Path(argv[0]), json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    kernels = listed.pop("kernels")
    # A Paddle with custom devices loads the plug-ins of this folder when it is imported.
    os.environ["CUSTOM_DEVICE_ROOT"] = str(folder / "kernels")
    sys.path.insert(0, str(folder / "site"))
    if missing_kernels(kernels):  # a Paddle without custom devices; loading registers them
        ctypes.CDLL(str(folder / "kernels" / "libpaddle_stacks_cpu_kernels.so"))
    problems = [
        f"{path.name} requires {name}, which the loader does not find"
        for path in sorted(folder.glob("*/*.so"))
        for name in unresolved(path)
    ]
    problems += [f"no kernel {name} on a CPU" for name in missing_kernels(kernels)]
    for name, operators in listed.items():
        module = importlib.import_module(name)
        if Path(str(module.__dict__.get("so_path"))).parent != folder / "site":
            problems.append(f"{name} is not that of {folder}")
        problems += [f"{name} does not register {o}" for o in operators if not hasattr(module, o)]
    for problem in problems:
        print(f"check_cpu_operators: {problem}", file=sys.stderr)
    if not problems:
        count = sum(map(len, listed.values()))
        print(f"{len(kernels)} kernels and {count} operators, code for the CPU")
    return 1 if problems else 0


def missing_kernels(names: list[str]) -> list[str]:
    """Return the kernels that Paddle has not registered for float16 or int8 on a CPU."""
    from paddle.framework import core

    registered = core._get_all_register_op_kernels("phi")
    # Paddle lists these kernels by the names of older operators.
    renamed = {"matmul": "matmul_v2", "add": "elementwise_add"}
    ours = re.compile(r"data_type\[.*(?:float16|int|int8_t)\].*place\[Place\(cpu\)\]")
    return [
        name
        for name in names
        if not any(ours.search(key) for key in registered.get(renamed.get(name, name), []))
    ]


def unresolved(path: Path) -> list[str]:
    """Return the libraries that the loader does not find."""
    done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    return re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
