"""Compile the operators for the CPU, images/ops/cpu: a kernel plug-in and two modules.

usage: build_cpu_operators.py SOURCE OUTPUT

They go to OUTPUT/kernels and OUTPUT/site, beside a JSON that says what is in them. A compiler
for C++17 is all that it needs: GCC 8 or newer.

Exit status: 0 done, 1 something was not built; the last line says what.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_operators import BuildFailed, compilers

PLUGIN = "libpaddle_stacks_cpu_kernels.so"
MODULES = ("paddlenlp_ops", "fused_ln")

_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fopenmp",
    "-fPIC",
    # The processor is asked at run time (common/simd.cc); a plain x86-64 must load it too.
    "-march=x86-64",
    "-w",  # of warnings Paddle's own headers are full
    "-DPADDLE_WITH_CUSTOM_KERNEL",
    "-DPADDLE_NO_PYTHON",
    "-D_GLIBCXX_USE_CXX11_ABI=1",
)


def main(argv: list[str]) -> int:
    """Build the plug-in and the modules and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="images/ops/cpu")
    parser.add_argument("output", type=Path, help="the folder for what is built")
    if argv[:1] == ["--stub"]:
        _write_stub(argv[1], Path(argv[2]))
        return 0
    arguments = parser.parse_args(argv)
    try:
        build(arguments.source, arguments.output)
    except BuildFailed as error:
        print(f"build_cpu_operators: {error}", file=sys.stderr)
        return 1
    return 0


def build(source: Path, output: Path) -> None:
    """Compile all sources and link them.

    Raises:
        BuildFailed: a source does not compile, or a library does not link.
    """
    kernels, site = output / "kernels", output / "site"
    for folder in (kernels, site):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        objects = _compile(source, Path(scratch))
        common = objects["common"]
        _link(kernels / PLUGIN, [*common, *objects["kernels"]])
        listed = {"kernels": _names(source / "kernels", "PD_REGISTER_KERNEL")}
        for name in MODULES:
            # Paddle's generated module loads the library of this name.
            _link(site / f"{name}_pd_.so", [*common, *objects[name]])
            _run([sys.executable, __file__, "--stub", name, str(site)], f"{name}: no module")
            listed[name] = _names(source / name, "PD_BUILD_OP")
    (output / "cpu-operators.json").write_text(json.dumps(listed, indent=1) + "\n")
    print(", ".join(f"{name}: {len(names)} operators" for name, names in listed.items()))


def _compile(source: Path, scratch: Path) -> dict[str, list[str]]:
    """Compile each folder's sources and return their objects."""
    paddle = _paddle()
    include = [f"-I{paddle / 'include'}", f"-I{paddle / 'include' / 'third_party'}"]
    objects: dict[str, list[str]] = {}
    commands = []
    for path in sorted(source.glob("*/*.cc")):
        target = str(scratch / f"{path.parent.name}-{path.stem}.o")
        objects.setdefault(path.parent.name, []).append(target)
        commands.append(["g++", *_FLAGS, *include, "-c", str(path), "-o", target])
    with ThreadPoolExecutor(compilers(1)) as pool:
        running = [pool.submit(_run, c, f"{c[-3]} does not compile") for c in commands]
    for compilation in running:
        compilation.result()
    return objects


def _link(target: Path, objects: list[str]) -> None:
    """Link a library with Paddle's, by the names that a Paddle in the process has loaded."""
    libraries = [_paddle() / "base" / "libpaddle.so"]
    # OpenMP is Paddle's own where it brings one, or there would be two pools of threads.
    names = ("libcommon.so", "libiomp5.so")
    libraries += [path for n in names if (path := _paddle() / "libs" / n).is_file()]
    openmp = [] if libraries[-1].name == "libiomp5.so" else ["-lgomp"]
    command = ["g++", "-shared", "-s", "-o", str(target), *objects]
    command += ["-nodefaultlibs", "-lstdc++", "-lm", "-lgcc_s", "-lgcc", "-lc"]
    command += [*map(str, libraries), *openmp, "-Wl,--no-undefined"]
    command += [f"-Wl,-rpath,{folder}" for folder in sorted({str(p.parent) for p in libraries})]
    _run(command, f"{target.name} does not link")


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise BuildFailed(f"{failure} (see above)")


def _paddle() -> Path:
    """Return the folder of the installed Paddle, without importing it."""
    from importlib.util import find_spec

    spec = find_spec("paddle")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _names(folder: Path, macro: str) -> list[str]:
    """Return what the sources of a folder register by a macro."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.cc")))
    return sorted(set(re.findall(rf"\b{macro}\(\s*(\w+)", text)))


def _write_stub(name: str, site: Path) -> None:
    """In a process of its own: let Paddle write the Python module of a library."""
    from paddle.utils.cpp_extension import extension_utils

    path = str(site / f"{name}_pd_.so")
    extension_utils.CustomOpInfo.instance().add(name, so_name=name, so_path=path)
    extension_utils.custom_write_stub(f"{name}.so", str(site / f"{name}.py"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
