"""A reader of pickles that builds arrays and plain values, and a check of which files may be one.

A pickle is a program for a stack machine. Paddle writes weights, optimizers and random states
as pickles (``.pdparams``, ``.pdopt``, ``.pth``), and PyTorch writes ``.bin`` and ``.pt``.
Python's ``pickle.load`` imports and calls whatever such a file names, and lets it set the
attributes of every object it made. In the images it is replaced by :func:`load`
(``images/framework/paddle_stacks_startup.py``) in every process, without a switch that turns
it off.

:class:`Unpickler` interprets the opcodes itself. A name in the file never becomes the object of
that name: it becomes a stand-in of this module, which checks its arguments. NumPy never sees a
dtype's state from a file; an array is built from a byte order, a numeric kind, a shape and as
many bytes as these need.

Standard library only: the host and the containers both import this module. NumPy and Paddle are
imported when a file needs them.
"""

from __future__ import annotations

import importlib
import math
import os
import pickle
import pickletools
import stat
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from paddle_stacks.errors import Problem, RequestError, StackError

__all__ = ["StandIn", "Unpickler", "check", "load", "refuse"]

_CONVERT = (
    "convert it to safetensors where you trust it; arrays and numbers are all that is read here"
)
# NumPy's kinds of numbers, and the sizes in bytes that each has on every platform. Without
# "g" and "G" (long double, whose size depends on the platform).
_SIZES = {
    "b": (1,),
    "i": (1, 2, 4, 8),
    "u": (1, 2, 4, 8),
    "f": (2, 4, 8),
    "c": (8, 16),
}
# ndarray has at most so many dimensions (NPY_MAXDIMS of NumPy 1.26).
_MAX_DIMENSIONS = 32
# What may be a key of a dict or in a set. Hashing nested tuples can take exponential time.
_KEYS = (str, bytes, int, float, complex, type(None))

# Where weights may be pickles, in the folder of a model.
_PICKLED = ("model_state*.pdparams", "pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_SAFE = ("*.safetensors", "*.pdiparams")


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...
    def readline(self, size: int = ..., /) -> bytes: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class StandIn:
    """A callable that a pickle gets instead of the object that it names.

    Args:
        name: the object's full name, for messages.
        call: builds the value from the arguments; raises for others than it expects.
    """

    name: str
    call: Callable[..., Any]


class _DType:
    """The dtype of an array, which takes a byte order and nothing else from a pickle's state."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.order = "="

    def numpy(self) -> Any:
        """Return NumPy's own dtype of this kind and byte order."""
        return importlib.import_module("numpy").dtype(self.order + self.kind)

    @property
    def itemsize(self) -> int:
        return int(self.kind[1:])


def refuse(name: str) -> RequestError:
    """Return the error for a pickle that names something it may not."""
    return RequestError(f"the pickle contains {name}, which is not an array", remedy=_CONVERT)


# ------------------------------------------------------------------ stand-ins


def _latin_1(*arguments: Any) -> bytes:
    """Stand in for ``_codecs.encode``, by which protocol 2 writes bytes."""
    match arguments:
        case (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1")
    raise RequestError("it is a pickle that encodes what is not bytes", remedy=_CONVERT)


def _data(*arguments: Any) -> Any:
    """Stand in for ``eval``, by which Paddle writes a tensor of a static graph."""
    match arguments:
        case ("data", {"data": data, **rest}) if not rest:
            return data
    raise RequestError("it is a pickle that evaluates code", remedy=_CONVERT)


def _bytearray(*arguments: Any) -> bytearray:
    """Stand in for ``bytearray``, which would also take a size and allocate it."""
    match arguments:
        case ():
            return bytearray()
        case (bytes(raw),):
            return bytearray(raw)
        case (str(text), "latin-1"):
            return bytearray(text.encode("latin-1"))
    raise _damaged("a bytearray is not made of bytes")


def _complex(*arguments: Any) -> complex:
    match arguments:
        case (int() | float() as real, int() | float() as imaginary):
            return complex(real, imaginary)
    raise _damaged("a complex number is not made of two numbers")


def _collection(kind: type) -> Callable[..., Any]:
    def made(*arguments: Any) -> Any:
        match arguments:
            case ():
                return kind()
            case (list() | tuple() as items,):
                return kind(items if kind is tuple else map(_key, items))
        raise _damaged(f"a {kind.__name__} is not made of a list")

    return made


def _ordered(*arguments: Any) -> OrderedDict[Any, Any]:
    match arguments:
        case ():
            return OrderedDict()
        case (list() as pairs,) if all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
        ):
            return OrderedDict((_key(key), value) for key, value in pairs)
    raise _damaged("an OrderedDict is not made of pairs")


def _dtype(*arguments: Any) -> _DType:
    """Stand in for ``numpy.dtype``, which takes names of Python types and descriptions."""
    match arguments:
        case (str(text), *_):
            kind = text.lstrip("<>=|")
            if kind[1:].isdecimal() and int(kind[1:]) in _SIZES.get(kind[0], ()):
                return _DType(kind)
            raise refuse(f"numpy.dtype({text[:20]!r})")
    raise refuse("numpy.dtype without a numeric kind")


def _empty_array(*arguments: Any) -> Any:
    """Stand in for ``_reconstruct``, which NumPy makes an array with before its state is set."""
    match arguments:
        case (StandIn(name="numpy.ndarray"), (0,), "b" | b"b"):
            numpy = importlib.import_module("numpy")
            return numpy.ndarray((0,), "b")
    raise refuse("an array of a class of its own")


def _array_of_buffer(*arguments: Any) -> Any:
    """Stand in for ``_frombuffer``, by which protocol 5 writes an array."""
    match arguments:
        case (
            bytes() | bytearray() as raw,
            _DType() as dtype,
            tuple() as shape,
            "C" | "F" as order,
        ):
            _check_size(shape, dtype, raw)
            numpy = importlib.import_module("numpy")
            return numpy.frombuffer(raw, dtype=dtype.numpy()).reshape(shape, order=order)
    raise _damaged("an array is not made of bytes, a dtype, a shape and an order")


def _scalar(*arguments: Any) -> Any:
    match arguments:
        case (_DType() as dtype, bytes() | str() as raw):
            content = raw.encode("latin-1") if isinstance(raw, str) else raw
            _check_size((), dtype, content)
            return importlib.import_module("numpy").frombuffer(content, dtype=dtype.numpy())[0]
    raise _damaged("a scalar is not made of a dtype and bytes")


def _not_callable(name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        raise refuse(f"a call of {name}")

    return call


def _generator_state(*arguments: Any) -> Any:
    """Stand in for the state of a random generator, which only its own numbers are put into."""
    if arguments:
        raise _damaged("a GeneratorState takes no arguments")
    of = importlib.import_module("paddle.base.libpaddle").GeneratorState
    return of.__new__(of)


def _numpys(name: str) -> list[tuple[str, str]]:
    """Return where a private function of NumPy is; 2.0 moved its modules."""
    module, _, function = name.rpartition(".")
    return [(f"numpy.{core}.{module}", function) for core in ("core", "_core")]


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _latin_1,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "complex"): _complex,
    ("builtins", "eval"): _data,
    **{("builtins", kind.__name__): _collection(kind) for kind in (frozenset, set, tuple)},
    ("collections", "OrderedDict"): _ordered,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _not_callable("numpy.ndarray"),
    **dict.fromkeys(_numpys("multiarray._reconstruct"), _empty_array),
    **dict.fromkeys(_numpys("multiarray.scalar"), _scalar),
    **dict.fromkeys(_numpys("numeric._frombuffer"), _array_of_buffer),
    ("paddle.base.libpaddle", "GeneratorState"): _generator_state,
}
_STAND_INS: Mapping[tuple[str, str], StandIn] = {
    names: StandIn(".".join(names), call) for names, call in _CALLS.items()
}


def _damaged(reason: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(reason)


def _key(value: Any) -> Any:
    """Return a value that may be a key; hashing it takes time linear in its size."""
    if isinstance(value, _KEYS):
        return value
    if isinstance(value, tuple) and all(isinstance(item, _KEYS) for item in value):
        return value
    raise _damaged(f"a {type(value).__name__} cannot be a key or in a set here")


def _check_size(shape: tuple[Any, ...], dtype: _DType, raw: bytes | bytearray) -> None:
    if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise _damaged("an array's shape is not a tuple of sizes")
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(raw):
        raise _damaged(f"an array's shape needs {expected} bytes, and it has {len(raw)}")


# ------------------------------------------------------------------ what BUILD may set


def _set_dtype(dtype: _DType, state: Any) -> None:
    """Take the byte order; fields, subarrays, alignment and flags have to be those of a number."""
    match state:
        case (int(), "<" | ">" | "=" | "|" | b"<" | b">" | b"=" | b"|" as order, *rest) if rest in (
            [None, None, None, -1, -1, 0],
            [None, None, None, -1, -1, 0, None],
        ):
            dtype.order = order.decode() if isinstance(order, bytes) else order
            return
    raise RequestError(
        "it is a pickle that sets the state of a dtype beyond its byte order", remedy=_CONVERT
    )


def _set_array(array: Any, state: Any) -> None:
    match state:
        case (1, tuple() as shape, _DType() as dtype, bool() | int() as fortran, raw):
            if isinstance(raw, str):  # Python 2's bytes
                raw = raw.encode("latin-1")
            if isinstance(raw, list):
                raise refuse("an array of objects")
            if not isinstance(raw, (bytes, bytearray)):
                raise _damaged("an array's content is not bytes")
            if array.shape != (0,):
                raise _damaged("an array is set twice")
            _check_size(shape, dtype, raw)
            array.__setstate__((1, shape, dtype.numpy(), bool(fortran), bytes(raw)))
            return
    raise _damaged("an array's state is not a shape, a dtype, an order and bytes")


def _set_generator(generator: Any, state: Any) -> None:
    match state:
        case (int(device), int(seed), int(offset)) if (
            -1 <= device < 2**15 and 0 <= seed < 2**64 and 0 <= offset < 2**64
        ):
            generator.__setstate__((device, seed, offset))
            return
    raise _damaged("a generator's state is not three numbers")


def _set_state(instance: Any, state: Any) -> None:
    """Carry out BUILD, which in Python sets whatever attributes a file names."""
    kind = type(instance)
    if kind is _DType:
        _set_dtype(instance, state)
    elif (kind.__module__, kind.__name__) == ("numpy", "ndarray"):
        _set_array(instance, state)
    elif (kind.__module__, kind.__name__) == ("paddle.base.libpaddle", "GeneratorState"):
        _set_generator(instance, state)
    elif kind is OrderedDict and isinstance(state, dict):
        pass  # PyTorch's _metadata, which is not used
    else:
        name = instance.name if kind is StandIn else kind.__name__
        raise RequestError(f"it is a pickle that sets the state of {name}", remedy=_CONVERT)


# ------------------------------------------------------------------ the machine


class _Bounded:
    """A stream that gives no more bytes than it has, whatever length a pickle claims.

    ``pickletools`` reads it. Without a ``tell`` it saves a system call per opcode.
    """

    def __init__(self, file: _Readable) -> None:
        self._file = file
        self.count = 0

    def read(self, size: int) -> bytes:
        if size > 1 << 20:
            self._check_left(size)
        self.count += size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline()
        self.count += len(line)
        return line

    def _check_left(self, size: int) -> None:
        try:
            here = self._file.tell()
            left = self._file.seek(0, os.SEEK_END) - here
            self._file.seek(here)
        except (OSError, ValueError, AttributeError):
            left = 1 << 30  # a stream that cannot seek: a reader of bytes allocates all of it
        if size > left:
            raise _damaged(f"it claims {size} bytes, and {left} are left")


class Unpickler:
    """Builds arrays and plain values from a pickle.

    Args:
        file: where it is read from.
        encoding: of byte strings of Python 2: ``bytes`` keeps them as bytes, any other
            gives text, each byte a character.
        options: others of ``pickle.Unpickler``, which make no difference here.
    """

    def __init__(self, file: _Readable, *, encoding: str = "ASCII", **options: Any) -> None:
        self._file = _Bounded(file)
        self._encoding = encoding
        self._copied = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for what the pickle names.

        Raises:
            RequestError: it does not exist.
        """
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) not in _STAND_INS:
            raise refuse(f"{module}.{name}")
        return _STAND_INS[module, name]

    def persistent_load(self, saved: Any) -> Any:
        """Refuse what would have to be looked up elsewhere."""
        raise _damaged("it refers to something outside of it")

    def load(self) -> Any:
        """Return the value that the pickle makes.

        Raises:
            RequestError: it asks for something else than arrays and plain values.
            pickle.UnpicklingError: it is damaged.
        """
        self._stack, self._marks, self._memo = [], [], {}
        try:
            for opcode, argument, _ in pickletools.genops(cast(IO[bytes], self._file)):
                if opcode.name == "STOP":
                    if self._marks or len(self._stack) != 1:
                        raise _damaged("it ends with a value too many")
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except (StackError, pickle.UnpicklingError, MemoryError):
            raise
        except Exception as error:
            # A stack that is empty, a number that is none: all of it is damage.
            raise _damaged(f"it is damaged: {type(error).__name__}: {error}") from error
        raise _damaged("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _BYTE_STRINGS:
            stack.append(argument.encode("latin-1") if self._encoding == "bytes" else argument)
        elif name in _BUILT:
            items = self._items(_TUPLES.get(name))
            self._stack.append(_BUILT[name](items))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("PROTO", "FRAME"):
            pass
        elif operation := _OPERATIONS.get(name):
            operation(self, argument)
        else:
            raise refuse(f"the opcode {name}")

    def _items(self, count: int | None = None) -> list[Any]:
        """Take items from the stack: that many, or all down to the last mark."""
        if count is None:
            items, self._stack = self._stack, self._marks.pop()
            return items
        if len(self._stack) < count:
            raise _damaged("it takes what is not there")
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _append(self, _: Any) -> None:
        self._extend(self._items(1))

    def _appends(self, _: Any) -> None:
        self._extend(self._items())

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise _damaged("it appends to what is not a list")
        self._stack[-1].extend(items)

    def _set_item(self, _: Any) -> None:
        self._set_pairs(self._items(2))

    def _set_items(self, _: Any) -> None:
        self._set_pairs(self._items())

    def _set_pairs(self, items: list[Any]) -> None:
        if type(self._stack[-1]) not in (dict, OrderedDict):
            raise _damaged("it sets an item of what is not a dict")
        self._stack[-1].update(_pairs(items))

    def _add_items(self, _: Any) -> None:
        items = self._items()
        if type(self._stack[-1]) is not set:
            raise _damaged("it adds to what is not a set")
        self._stack[-1].update(map(_key, items))

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._items()

    def _pop_mark(self, _: Any) -> None:
        self._items()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self.find_class(module, name))

    def _stack_global(self, _: Any) -> None:
        module, name = self._items(2)
        if type(module) is not str or type(name) is not str:
            raise _damaged("a name is not text")
        self._stack.append(self.find_class(module, name))

    def _call(self, _: Any) -> None:
        function, arguments = self._items(2)
        if type(function) is not StandIn:
            raise refuse(f"a call of a {type(function).__name__}")
        if type(arguments) is not tuple:
            raise _damaged("a call's arguments are not a tuple")
        self._count_copies(arguments)
        self._stack.append(function.call(*arguments))

    def _build(self, _: Any) -> None:
        (state,) = self._items(1)
        if type(state) is tuple:
            self._count_copies(state)
        _set_state(self._stack[-1], state)

    def _count_copies(self, arguments: tuple[Any, ...]) -> None:
        """Refuse to copy more than the file has: a list that is named again takes two bytes."""
        self._copied += sum(
            len(each)
            for each in arguments
            if isinstance(each, (str, bytes, bytearray, list, tuple)) and len(each) > 64
        )
        if self._copied > self._file.count:
            raise _damaged("it copies the same content again and again")

    def _persistent(self, argument: str) -> None:
        self._stack.append(self.persistent_load(argument))

    def _binary_persistent(self, _: Any) -> None:
        (saved,) = self._items(1)
        self._stack.append(self.persistent_load(saved))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise _damaged("a key has no value")
    return dict(zip(map(_key, items[::2]), items[1::2], strict=True))


# The opcodes by what they do (pickletools has them all); any other is refused by its name:
# INST and OBJ, which are Python 2's, copyreg's extensions, and buffers from outside of the file.
_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_BYTE_STRINGS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_BUILT: Mapping[str, Callable[[list[Any]], Any]] = {
    **dict.fromkeys(("TUPLE", *_TUPLES), tuple),
    "LIST": list,
    "DICT": _pairs,
    "FROZENSET": lambda items: frozenset(map(_key, items)),
}
_OPERATIONS: Mapping[str, Callable[[Unpickler, Any], None]] = {
    "MARK": Unpickler._mark,
    "APPEND": Unpickler._append,
    "APPENDS": Unpickler._appends,
    "SETITEM": Unpickler._set_item,
    "SETITEMS": Unpickler._set_items,
    "ADDITEMS": Unpickler._add_items,
    "POP": Unpickler._pop,
    "POP_MARK": Unpickler._pop_mark,
    "DUP": Unpickler._duplicate,
    "GLOBAL": Unpickler._global,
    "STACK_GLOBAL": Unpickler._stack_global,
    "REDUCE": Unpickler._call,
    "NEWOBJ": Unpickler._call,
    "BUILD": Unpickler._build,
    "PERSID": Unpickler._persistent,
    "BINPERSID": Unpickler._binary_persistent,
}


# ------------------------------------------------------------------ files


def load(file: IO[bytes], **options: Any) -> Any:
    """Do what ``pickle.load`` does, for a file; a pipe's other end is a process of our own.

    Args:
        file: opened for reading.
        options: ``pickle.load``'s.

    Raises:
        RequestError: the pickle asks for more than arrays and plain values.
        pickle.UnpicklingError: it is damaged.
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
    """Return whether a stream is a pipe or a socket: multiprocessing starts its children so.

    One that was opened by a name is a file of somebody's, whatever kind it is.
    """
    if not isinstance(getattr(file, "name", None), int):
        return False
    try:
        mode = os.fstat(file.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def check(folder: Path, allowed: Sequence[str] = ()) -> None:
    """Check that a model's weights are not pickles, except for allowed ones.

    Where there are safetensors too, those are what is loaded. The files are not opened.

    Args:
        folder: the model's.
        allowed: names of pickles that are read anyway.

    Raises:
        RequestError: there are others; all are named.
    """
    if any(any(folder.glob(pattern)) for pattern in _SAFE):
        return
    paths = sorted({path for pattern in _PICKLED for path in folder.glob(pattern)})
    problems = [
        Problem(
            f"the weights are a pickle, {path.name}, which is not allowed",
            str(path),
            f"get the model as safetensors, or ask for the file: --allow-pickle {path.name}",
        )
        for path in paths
        if path.name not in allowed
    ]
    if problems:
        raise RequestError(problems)
