"""Import hook that applies patches to upstream's modules without changing files.

``paddle.jit.to_static`` reads the source of functions through :mod:`linecache`, so the patched
text is added there; tracebacks show it as well.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from entrypoints.upstream_patches.patch import Patch, apply

__all__ = ["compiled", "install"]


def install(patches: Iterable[Patch]) -> None:
    """Apply patches to the modules that are imported from now on.

    Args:
        patches: of modules that are not imported yet.
    """
    by_module: dict[str, list[Patch]] = {}
    for patch in patches:
        by_module.setdefault(patch.module, []).append(patch)
    if imported := sorted(set(by_module) & set(sys.modules)):
        raise AssertionError(f"already imported: {', '.join(imported)}")
    sys.meta_path.insert(0, _Finder(by_module))


def compiled(source: str, patches: Iterable[Patch], path: str) -> CodeType:
    """Return the code of a file with patches applied.

    Args:
        source: the file's text.
        patches: those of the file.
        path: the file's.

    Raises:
        MachineError: a patch was written for another file.
    """
    patched = apply(source, patches, path)
    # Without a modification time, an entry is never compared with the file.
    linecache.cache[path] = (len(patched), None, patched.splitlines(keepends=True), path)
    return compile(patched, path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, patches: dict[str, list[Patch]]) -> None:
        self._patches = patches

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that has patches."""
        if name not in self._patches:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None:
            return None
        spec.loader = _Loader(name, spec.origin, self._patches[name])
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, patches: Sequence[Patch]) -> None:
        super().__init__(name, path)
        self._patches = patches

    def get_code(self, fullname: str) -> CodeType:
        """Return the patched code, which is never cached."""
        source = self.get_source(fullname)
        assert source is not None
        return compiled(source, self._patches, self.path)
