"""Pickles, which are programs: what of them is read, and which files may be pickles at all.

Paddle writes weights, optimizers and random states as pickles (``.pdparams``, ``.pdopt``,
``.pth``), and PyTorch writes ``.bin`` and ``.pt``. Python's ``pickle.load`` runs whatever
such a file asks for. In the images it is replaced by :func:`load`
(``images/framework/paddle_stacks_startup.py``), which makes arrays and plain values of a
file and refuses everything else, in every process and with no switch that turns it off.

Standard library only: the host and the containers both import this module.
"""

from __future__ import annotations

import importlib
import os
import pickle
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from paddle_stacks.errors import Problem, RequestError

__all__ = ["Unpickler", "allowed", "check", "load"]

_CONVERT = (
    "convert it to safetensors where you trust it; arrays and numbers are all that is read here"
)
# What pickles of arrays name. Paddle 3.0.0b2 (python/paddle/framework/io.py) writes a tensor
# as a tuple, and a random generator's state by its own class; the numbers behind it are the
# C++ side's to check. NumPy moved its modules in 2.0.
_CLASSES = frozenset(
    {
        ("builtins", "bytearray"),
        ("builtins", "complex"),
        ("builtins", "frozenset"),
        ("builtins", "set"),
        ("builtins", "tuple"),
        ("collections", "OrderedDict"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("paddle.base.libpaddle", "GeneratorState"),
    }
)

# Where weights may be pickles, in the folder of a model.
_PICKLED = ("model_state*.pdparams", "pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_SAFE = ("*.safetensors", "*.pdiparams")


def allowed(module: str, name: str) -> Any:
    """Return the class or function that a pickle may name.

    Args:
        module: as the pickle has it; protocol 2 has Python 2's names.
        name: in that module.

    Raises:
        RequestError: it may not.
    """
    module = {"__builtin__": "builtins"}.get(module, module)
    if (module, name) in _STAND_INS:
        return _STAND_INS[module, name]
    if (module, name) not in _CLASSES:
        raise RequestError(
            f"it is a pickle that asks for {module}.{name}, which is no array", remedy=_CONVERT
        )
    return getattr(importlib.import_module(module), name)


def _latin_1(*arguments: Any) -> bytes:
    """Stand in for ``_codecs.encode``, by which protocol 2 writes bytes."""
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin-1")
    raise RequestError("it is a pickle that encodes what is not bytes", remedy=_CONVERT)


def _data(*arguments: Any) -> Any:
    """Stand in for ``eval``, by which Paddle writes a tensor of a static graph."""
    match arguments:
        case ("data", {"data": data, **rest}) if not rest:
            return data
    raise RequestError("it is a pickle that evaluates code", remedy=_CONVERT)


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _latin_1,
    ("builtins", "eval"): _data,
}


class Unpickler(pickle.Unpickler):
    """Makes arrays and plain values of a pickle.

    Raises:
        RequestError: it asks for something else.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle names, if it may."""
        return allowed(module, name)

    def persistent_load(self, saved: Any) -> Any:
        """Refuse what would have to be looked up elsewhere."""
        raise pickle.UnpicklingError(f"it refers to something outside of it: {saved!r:.60}")


def load(file: IO[bytes], **options: Any) -> Any:
    """Do what ``pickle.load`` does, for a file; a pipe's other end is a process of our own.

    Args:
        file: opened for reading.
        options: ``pickle.load``'s.

    Raises:
        RequestError: the pickle asks for more than arrays and plain values.
    """
    if _is_between_processes(file):
        return pickle.Unpickler(file, **options).load()
    try:
        return Unpickler(file, **options).load()
    except RequestError as error:
        where = str(getattr(file, "name", ""))
        raise RequestError(
            [Problem(p.what, p.where or where, p.remedy) for p in error.problems]
        ) from None


def _is_between_processes(file: IO[bytes]) -> bool:
    """Return whether a stream is a pipe or a socket: multiprocessing starts its children so."""
    try:
        mode = os.fstat(file.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def check(folder: Path, wanted: Sequence[str] = ()) -> None:
    """Refuse a model whose weights are pickles that nobody has asked for by name.

    Where there are safetensors too, those are what is loaded.

    Args:
        folder: the model's.
        wanted: the names of files that are asked for.

    Raises:
        RequestError: there are others; all are named.
    """
    if any(any(folder.glob(pattern)) for pattern in _SAFE):
        return
    found = sorted({path for pattern in _PICKLED for path in folder.glob(pattern)})
    problems = [
        Problem(
            f"the weights are a pickle, {path.name}, which nobody has asked for",
            str(path),
            f"get the model as safetensors, or ask for the file: --allow-pickle {path.name}",
        )
        for path in found
        if path.name not in wanted
    ]
    if problems:
        raise RequestError(problems)
