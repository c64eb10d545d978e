"""What every Python process of the images does first: threads, the math library, pickles.

A ``.pth`` file imports this module at start-up, so a job, ``docker exec``, a
notebook and a Kubernetes command all get the same settings. It uses the
standard library only and costs a few milliseconds.

Threads. Paddle starts with one thread, and its MKL takes a slow code path on
CPUs that are not Intel's. Measured on an AMD EPYC with two cores, product of
two 1536 x 1536 matrices, GFLOPS: 26 as it comes, 95 with two threads, 221 with
the AVX2 path (``MKL_DEBUG_CPU_TYPE=5``), 368 with the AVX-512 path (``=7``).
What the user has set is left alone.

Signals. ``import paddle`` takes SIGTERM and others for handlers that print a trace and end
the process; PaddleNLP gives them back to the system's. Here they are given back to who had
them, and one that comes in between waits.

PaddleNLP. ``import paddlenlp`` runs an ``__init__`` that imports every part of
the package and with it pandas, pyarrow, datasets and scikit-learn: six seconds
and 400 MB of packages that inference never uses. Here its parts are imported
when they are first used instead.

Pickles. A pickle is a program, and ``paddle.load``, ``numpy.load`` and a dozen places of
PaddleNLP run whatever program they find in a file. Here they read arrays and plain values
and refuse the rest (``paddle_stacks/jobs/pickles.py``); where that module is missing, as in
an image without the project's code, they read none.

The workspace. ``python -m`` and ``-c``, by which Paddle's launcher, pip and multiprocessing start
processes, import from the working folder first. In a job that is the workspace, whose files are
data: there none of them is imported. Python 3.10 has no PYTHONSAFEPATH.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import os
import pickle
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import IO, Any

__all__ = ["NO_IMPORTS_FROM", "describe", "mkl_code_path", "refuse_imports", "usable_cores"]

NO_IMPORTS_FROM = "PADDLE_STACKS_NO_IMPORTS_FROM"
"""The variable with the folder from which a job's processes import nothing."""

# Attributes of the package that are not modules, and the module each comes from.
_HOMES = {"SimpleServer": "server", "Taskflow": "taskflow"}
# Upstream's modules import each other in circles that close only in this order.
_FIRST = {"trainer": "prompt", "peft": "prompt", "trl": "prompt"}


def usable_cores(root: str = "/") -> int:
    """Return the physical cores this process may use: affinity, siblings, cgroup quota.

    Args:
        root: where ``sys/`` is looked for; tests give a folder.
    """
    allowed = os.sched_getaffinity(0)
    firsts = set()
    for cpu in allowed:
        siblings = _read(f"{root}sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        firsts.add(siblings.strip() or str(cpu))
    return max(1, min(len(firsts), _quota(root)))


def mkl_code_path(cpuinfo: str) -> str | None:
    """Return the MKL code path to ask for, or None where MKL chooses well by itself.

    Args:
        cpuinfo: the text of ``/proc/cpuinfo``.
    """
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in cpuinfo.splitlines()[:40])
    }
    if fields.get("vendor_id") not in ("AuthenticAMD", "HygonGenuine"):
        return None
    flags = set(fields.get("flags", "").split())
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "7"
    return "5" if {"avx2", "fma"} <= flags else None


def describe() -> str:
    """Return one line on the threads and the math library's code path, for a log."""
    paths = {"7": "AVX-512", "5": "AVX2"}
    forced = paths.get(os.environ.get("MKL_DEBUG_CPU_TYPE", ""), "its own choice of")
    cores = usable_cores()
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return f"threads: {threads} on {cores} usable cores; math library: {forced} code path"


def refuse_imports(folder: str) -> None:
    """Import no module from a folder, here and in the processes that are started from now on.

    Args:
        folder: an absolute path; what is in folders below it may be imported by their own paths.
    """
    os.environ[NO_IMPORTS_FROM] = folder
    real = os.path.realpath(folder)

    def hook(path: str) -> _Empty:
        if os.path.realpath(path or ".") != real:
            raise ImportError  # the next hook's
        return _Empty()

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()


class _Empty:
    """The finder of a folder without modules."""

    def find_spec(self, name: str, target: ModuleType | None = None) -> None:
        """Find nothing."""

    def invalidate_caches(self) -> None:
        """Have nothing to forget."""


def _set_threads() -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(usable_cores())
    if "MKL_DEBUG_CPU_TYPE" not in os.environ:
        path = mkl_code_path(_read("/proc/cpuinfo", 1 << 14))
        if path:
            os.environ["MKL_DEBUG_CPU_TYPE"] = path


def _quota(root: str) -> int:
    """Return the whole cores that the cgroup's CPU quota allows, version 2 or 1."""
    limit, _, period = _read(f"{root}sys/fs/cgroup/cpu.max").strip().partition(" ")
    if not limit:
        limit = _read(f"{root}sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
        period = _read(f"{root}sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    if not limit.isdigit() or not period.isdigit() or int(period) == 0:
        return sys.maxsize  # "max", "-1" or no cgroup: no quota
    return max(1, int(limit) // int(period))


def _read(path: str, size: int = 4096) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:  # noqa: PTH123 (pathlib costs 5 ms)
            return stream.read(size)
    except OSError:
        return ""


class _Imports:
    """Stands before the import of ``paddle`` and ``paddlenlp``."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, part = name.partition(".")
        if package == "paddlenlp" and part in _FIRST:
            importlib.import_module("paddlenlp." + _FIRST[part])
        loader = _LOADERS.get(name)
        if loader is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = loader(spec.loader)
        return spec


class _Loader:
    """Stands before a module's own loader. importlib.abc's base class takes 10 ms to import."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Have Python make the module as it makes others."""


class _Paddle(_Loader):
    """Imports Paddle without its word on OMP_NUM_THREADS, which is wrong for this wheel.

    It warns that more than one thread will fail with OpenBLAS; the wheel has
    MKL. Its advice to install ccache concerns compiling operators.
    """

    def exec_module(self, module: ModuleType) -> None:
        warnings.filterwarnings("ignore", message="No ccache found")
        warnings.filterwarnings("ignore", message="Setuptools is replacing distutils")
        with (
            _termination_kept(module),
            contextlib.redirect_stderr(_WithoutThreadWarning()),  # type: ignore[type-var]
        ):
            self.real.exec_module(module)


@contextlib.contextmanager
def _termination_kept(paddle: ModuleType) -> Iterator[None]:
    """Leave SIGTERM, which a container is stopped by, to the handler that it has."""
    import signal
    import threading

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
        paddle.__dict__["disable_signal_handler"]()
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _WithoutThreadWarning:
    """Standard error, less the two lines in question."""

    def __init__(self) -> None:
        self.real = sys.stderr
        self.line = ""

    def write(self, text: str) -> int:
        self.line += text
        while "\n" in self.line:
            line, _, self.line = self.line.partition("\n")
            if "OMP_NUM_THREADS" not in line:
                self.real.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self.real.flush()


class _PaddleNLP(_Loader):
    """Gives ``paddlenlp`` a short ``__init__``: its parts are imported when they are used."""

    def exec_module(self, module: ModuleType) -> None:
        import importlib.metadata  # 10 ms, which most processes need not wait for

        importlib.import_module("paddle")
        module.__dict__["__version__"] = importlib.metadata.version("paddlenlp")
        module.__dict__["__getattr__"] = _attribute
        # First, as upstream has it: data and transformers import each other.
        importlib.import_module("paddlenlp.data")


class _StaticStates(_Loader):
    """Gives the reader of a static graph's state, which has an unpickler of its own, ours."""

    def exec_module(self, module: ModuleType) -> None:
        self.real.exec_module(module)
        module.__dict__["_safe_load_pickle"] = _load_pickle


class _TorchWeights(_Loader):
    """Gives the reader of PyTorch's weights, which has an unpickler of its own, ours."""

    def exec_module(self, module: ModuleType) -> None:
        self.real.exec_module(module)
        names = module.__dict__

        def unpickler(file: IO[bytes], **options: Any) -> object:
            from paddle_stacks.jobs import pickles

            rebuilt = {
                "_rebuild_tensor_v2": names["_rebuild_tensor_stage"],
                "_rebuild_parameter": names["_rebuild_parameter"],
                "_rebuild_parameter_with_state": names["_rebuild_parameter_with_state"],
            }
            storages = names["_storage_type_to_dtype_to_map"]()

            class Unpickler(pickles.Unpickler):
                def find_class(self, module_name: str, name: str) -> object:
                    if module_name == "torch" and name in storages:
                        return names["StorageType"](name)
                    if module_name == "torch._utils" and name in rebuilt:
                        return pickles.StandIn(f"torch._utils.{name}", rebuilt[name])
                    return super().find_class(module_name, name)

            return Unpickler(file, **options)

        names["UnpicklerWrapperStage"] = unpickler


_LOADERS = {
    "paddle": _Paddle,
    "paddle.static.io_utils": _StaticStates,
    "paddlenlp": _PaddleNLP,
    "paddlenlp.utils.serialization": _TorchWeights,
}


def _load_pickle(file: IO[bytes], **options: Any) -> Any:
    """Stand in for ``pickle.load``; in modules that are imported later, under that name."""
    # Most processes read no pickle, and this import takes longer than all of the above.
    from paddle_stacks.jobs import pickles

    return pickles.load(file, **options)


def _attribute(name: str) -> object:
    if name.startswith("_"):
        raise AttributeError(name)
    if name in _HOMES:
        return getattr(importlib.import_module("paddlenlp." + _HOMES[name]), name)
    try:
        return importlib.import_module("paddlenlp." + name)
    except ModuleNotFoundError as error:
        if error.name != "paddlenlp." + name:
            raise
        raise AttributeError(f"module 'paddlenlp' has no attribute '{name}'") from None


_set_threads()
if NO_IMPORTS_FROM in os.environ:
    refuse_imports(os.environ[NO_IMPORTS_FROM])
pickle.load = _load_pickle
sys.meta_path.insert(0, _Imports())
