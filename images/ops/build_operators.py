"""Compile PaddleNLP's operator libraries for DCUs into wheels, without a DCU.

Upstream's own setup scripts are run as they are, in a clean copy, with four things
put right around them, each a trap that the tests keep open:

* the list of architectures, which Paddle 3.0.0b2 has written in
  (``cpp_extension/extension_utils.py``, ``get_rocm_arch_flags``), is ours;
* ``external_ops/setup.py`` asks for a device before it looks whether it needs one: the
  question gets an answer;
* a source that does not compile ("compile failed" is printed, then "is compiled") ends
  the build, and so does a script that ends with 0 and has built nothing;
* compilers are started by the memory there is, not by the number of cores.

usage: build_operators.py SOURCE WHEELS --archs LIST [--include DIR]

Exit status: 0 done, 1 something was not built; the last line says what.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

# What one compiler takes for one architecture: the largest of upstream's sources took
# 660 MB for gfx906 with clang 15.
_MIB_PER_COMPILER = 700
_SETUPTOOLS_BELOW = 80


class BuildFailed(Exception):
    """A library cannot be built or is not what was asked for."""


@dataclass(frozen=True)
class Library:
    """An operator library.

    Args:
        name: the module that Python imports.
        scripts: where its setup script is in PaddleNLP's tree, the newest place first.
        arguments: what the script gets.
    """

    name: str
    scripts: tuple[str, ...]
    arguments: tuple[str, ...] = ("install",)


LIBRARIES = (
    Library("paddlenlp_ops", ("csrc/setup_hip.py",)),
    Library(
        "fused_ln",
        (
            "slm/model_zoo/gpt-3/external_ops/setup.py",
            "legacy/model_zoo/gpt-3/external_ops/setup.py",
            "model_zoo/gpt-3/external_ops/setup.py",
        ),
    ),
)


def main(argv: list[str]) -> int:
    """Build the libraries and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="PaddleNLP's tree")
    parser.add_argument("wheels", type=Path, help="where the wheels go")
    parser.add_argument("--archs", required=True, help="gfx906;gfx928 …")
    parser.add_argument("--include", type=Path, action="append", default=[])
    if argv[:1] == ["--run"]:
        _run_script(argv[1], argv[2], argv[3:])
        return 0
    options = parser.parse_args(argv)
    try:
        _check(options.archs)
        options.wheels.mkdir(parents=True, exist_ok=True)
        for library in LIBRARIES:
            build(library, options.source, options.wheels, options.archs, options.include)
    except BuildFailed as error:
        print(f"build_operators: {error}", file=sys.stderr)
        return 1
    return 0


def build(library: Library, source: Path, wheels: Path, archs: str, include: list[Path]) -> None:
    """Build one library into ``wheels``, beside a JSON that says what is in it.

    Raises:
        BuildFailed: the source is missing, a file does not compile, or no library was built.
    """
    script = next((source / p for p in library.scripts if (source / p).is_file()), None)
    if script is None:
        raise BuildFailed(
            f"{library.name}: none of {', '.join(library.scripts)} is in {source}: is the build"
            " context `paddlenlp` PaddleNLP's tree?"
        )
    expected = sorted(_operators(script))
    if not expected:
        raise BuildFailed(f"{library.name}: the sources that {script} names register no operator")
    with _scratch(library) as scratch:
        folder = scratch / "source" / script.parent.name
        # A clean copy: where stale objects lie about, a source that fails to compile is
        # linked from them.
        shutil.copytree(
            script.parent, folder, ignore=shutil.ignore_patterns("build", "dist", "*.egg-info")
        )
        _compile(library, folder / script.name, archs, [*include, *_bundled(source)])
        wheel = _wheel(library, wheels)
    listed = {"archs": archs.split(";"), "operators": expected, "wheel": wheel.name}
    (wheels / f"{library.name}.json").write_text(json.dumps(listed, indent=1) + "\n")
    print(f"{library.name}: {len(expected)} operators for {archs} in {wheel.name}")


@contextlib.contextmanager
def _scratch(library: Library) -> Iterator[Path]:
    """Yield an empty folder of a name that is always the same: a compiler writes it down."""
    path = Path(tempfile.gettempdir(), f"operators-{library.name}")
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _check(archs: str) -> None:
    if not re.fullmatch(r"gfx[0-9a-f]+(;gfx[0-9a-f]+)*", archs):
        raise BuildFailed(f'--archs is "{archs}", not a list such as gfx906;gfx928')
    import setuptools

    if int(setuptools.__version__.partition(".")[0]) >= _SETUPTOOLS_BELOW:
        raise BuildFailed(
            f"setuptools {setuptools.__version__} makes libraries that cannot be imported with"
            f" this Paddle (PyInit_…): it has to be below {_SETUPTOOLS_BELOW}"
        )


def _operators(script: Path) -> set[str]:
    """Return the operators that the sources named in a setup script register."""
    text = script.read_text(encoding="utf-8")
    operators: set[str] = set()
    for name in re.findall(r"[\"']([\w./-]+\.(?:cu|cc|cpp))[\"']", text):
        path = script.parent / name
        if path.is_file() and "fast_ln" not in name:  # which is not built for ROCm, by design
            body = path.read_text(encoding="utf-8", errors="replace")
            operators.update(re.findall(r"\bPD_BUILD_OP\(\s*(\w+)\s*\)", body))
    return operators


def _bundled(source: Path) -> list[Path]:
    """Return the headers that newer trees bring as submodules."""
    third_party = source / "csrc" / "third_party"
    folders = (third_party / "cutlass/include", third_party / "nlohmann_json/single_include")
    return [folder for folder in folders if folder.is_dir()]


def _compile(library: Library, script: Path, archs: str, include: list[Path]) -> None:
    """Run the setup script in a process of its own and look at what it says."""
    path = os.pathsep.join([*map(str, include), os.environ.get("CPLUS_INCLUDE_PATH", "")])
    environment = {
        **os.environ,
        "CPLUS_INCLUDE_PATH": path.rstrip(os.pathsep),
        "PYTHONUNBUFFERED": "1",
        # Only the simulated toolkit heeds it: images/dcu-sim.
        "PADDLE_AS_ROCM": "1",
    }
    command = [sys.executable, __file__, "--run", archs, str(script), *library.arguments]
    failed: list[str] = []
    with subprocess.Popen(
        command,
        cwd=script.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if match := re.search(r"(\S+) compile failed, ", line):
                failed.append(match[1].rpartition("/")[2])
    if failed:
        raise BuildFailed(f"{library.name}: does not compile: {', '.join(failed)} (see above)")
    if process.returncode:
        raise BuildFailed(f"{library.name}: {script.name} ended with {process.returncode}")


def _wheel(library: Library, wheels: Path) -> Path:
    """Make a wheel of the egg that the script installed, and return it."""
    site = Path(next(p for p in sys.path if p.endswith("site-packages")))
    eggs = sorted(site.glob(f"{library.name}-*.egg"))
    if not eggs:
        raise BuildFailed(
            f"{library.name}: the setup script ended with 0 and installed nothing (see above)"
        )
    egg = eggs[-1]
    for left in egg.glob("*.o"):  # Paddle builds them where the library goes
        left.unlink()
    # Paddle's note for the next compilation, by one name for all libraries: the one that is
    # installed last would be the one that stays.
    (egg / "version.txt").unlink(missing_ok=True)
    _run_wheel(site, "convert", "--dest-dir", str(wheels), str(egg))
    wheel = next(wheels.glob(f"{library.name}-*.whl"))
    # An egg knows a version of Python, a wheel an implementation and its ABI.
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    _run_wheel(site, "tags", "--remove", "--python-tag", tag, "--abi-tag", tag, str(wheel))
    return next(wheels.glob(f"{library.name}-*.whl"))


def _run_wheel(site: Path, *arguments: str) -> None:
    # The `wheel` that setuptools brings: it is of no use to a job, so it is in no lock.
    environment = {**os.environ, "PYTHONPATH": str(site / "setuptools" / "_vendor")}
    command = [sys.executable, "-m", "wheel", *arguments]
    subprocess.run(command, check=True, env=environment)


def _run_script(archs: str, script: str, arguments: list[str]) -> None:
    """In the process of its own: put Paddle right, then run the script."""
    import paddle
    from paddle.utils.cpp_extension import cpp_extension, extension_utils

    flags = [f"-amdgpu-target={arch}" for arch in archs.split(";")]
    extension_utils.get_rocm_arch_flags = lambda options: [*options, "-fno-gpu-rdc", *flags]
    workers = compilers(len(flags))
    cpp_extension.os = SimpleNamespace(**{**vars(os), "cpu_count": lambda: workers})
    # Its answer goes into flags for another vendor's compiler, which ROCm does not use.
    paddle.device.cuda.get_device_properties = lambda *_: SimpleNamespace(major=0, minor=0)
    _answer_git()
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


def compilers(archs: int) -> int:
    """Return how many compilers fit into the memory that is free."""
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    mib = int(match[1]) // 1024 if match else _MIB_PER_COMPILER
    return max(1, min(os.cpu_count() or 1, mib // (_MIB_PER_COMPILER * archs)))


def _answer_git() -> None:
    """Let a script's ``git submodule update`` pass: a build context has no history.

    Newer trees fetch their headers so; here they come with the context, or are put on
    the include path.
    """
    real = subprocess.run

    def run(command, *args, **kwargs):  # type: ignore[no-untyped-def]
        if isinstance(command, (list, tuple)) and list(command[:2]) == ["git", "submodule"]:
            return subprocess.CompletedProcess(command, 0)
        return real(command, *args, **kwargs)

    subprocess.run = run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
