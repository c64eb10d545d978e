"""Check installed operator libraries: they import, register, link, and hold the code asked for.

usage: check_operators.py LISTS…   the JSON files that build_operators.py wrote

It needs no DCU. Exit status: 0 all is there, 1 the lines before say what is not.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

_MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
_ENTRY = struct.Struct("<QQQ")  # offset, size, length of the name that follows


def main(argv: list[str]) -> int:
    """Check the libraries of the manifests; return the exit status."""
    problems: list[str] = []
    for name in argv:
        manifest = json.loads(Path(name).read_text(encoding="utf-8"))
        library = Path(name).stem
        faults = check(library, manifest["operators"], manifest["archs"])
        problems += faults
        if not faults:
            count = len(manifest["operators"])
            print(f"{library}: {count} operators, code for {', '.join(manifest['archs'])}")
    for problem in problems:
        print(f"check_operators: {problem}", file=sys.stderr)
    return 1 if problems else 0


def check(library: str, operators: list[str], archs: list[str]) -> list[str]:
    """Return the faults of an installed library, one line each."""
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        # Not find_spec: it also finds a library that cannot be loaded.
        return [f"{library} cannot be imported: {error}"]
    missing = [name for name in operators if not hasattr(module, name)]
    problems = [f"{library} does not register {name}" for name in missing]
    path = shared_object(library)
    there = architectures(path.read_bytes())
    problems += [
        f"{path.name} has no code for {arch}: it has {', '.join(sorted(there)) or 'none'}"
        for arch in archs
        if arch not in there
    ]
    return problems + [
        f"{path.name} needs {name}, which no library has" for name in unresolved(path)
    ]


def shared_object(library: str) -> Path:
    """Return the file that holds a library's code: Paddle names it ``<library>_pd_.so``."""
    spec = importlib.util.find_spec(library)
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent
    return next(path for path in sorted(folder.glob(f"{library}*.so")))


def architectures(content: bytes) -> set[str]:
    """Return the DCU architectures that a shared object holds code for.

    Clang puts the code of all architectures into one bundle
    (https://clang.llvm.org/docs/ClangOffloadBundler.html): a magic word, a count, and
    for each entry its offset, size and the triple it is for.
    """
    archs: set[str] = set()
    start = content.find(_MAGIC)
    while start >= 0:
        at = start + len(_MAGIC)
        (count,) = struct.unpack_from("<Q", content, at)
        at += 8
        for _ in range(count if count < 1000 else 0):
            _, size, length = _ENTRY.unpack_from(content, at)
            triple = content[at + _ENTRY.size :][:length].decode("ascii", "replace")
            at += _ENTRY.size + length
            if size and (arch := re.search(r"amdgcn.*-(gfx[0-9a-f]+)", triple)):
                archs.add(arch[1])
        start = content.find(_MAGIC, at)
    return archs


def unresolved(path: Path) -> list[str]:
    """Return the libraries that the loader does not find."""
    listed = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    return re.findall(r"^\s*(\S+) => not found", listed.stdout, re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
