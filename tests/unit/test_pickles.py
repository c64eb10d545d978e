"""What is read of pickles, and which weights may be pickles."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import threading
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import pickles

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
STATE = OrderedDict(
    [("weight", ARRAY), ("named", ("w_0", ARRAY)), ("step", np.int64(3)), ("raw", b"\x00\xff")]
)


class Asks:
    """Is pickled as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def read(raw: bytes) -> Any:
    return pickles.load(io.BytesIO(raw), encoding="latin1")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_plain_values_are_read_as_they_were(protocol: int) -> None:
    found = read(pickle.dumps(STATE, protocol=protocol))
    assert list(found) == list(STATE) and found["step"] == 3 and found["raw"] == b"\x00\xff"
    np.testing.assert_array_equal(found["weight"], ARRAY)
    assert found["named"][0] == "w_0" and found["weight"].dtype == np.float32


def test_a_tensor_of_a_static_graph_is_read_without_eval() -> None:
    found = read(pickle.dumps(Asks(eval, "data", {"data": ARRAY})))
    np.testing.assert_array_equal(found, ARRAY)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ((os.system, "touch {}"), "posix.system"),
        ((exec, "open({!r}, 'w')"), "builtins.exec"),
        ((eval, "open({!r}, 'w')"), "evaluates code"),
        ((eval, "data", {"data": 1, "__builtins__": {}}), "evaluates code"),
        ((eval, "open({!r}, 'w')", {"data": 1}), "evaluates code"),
        ((getattr, OrderedDict, "clear"), "builtins.getattr"),
        ((open, "{}", "w"), "open"),
        ((np.load, "{}"), "numpy.load"),
        ((np.fromfile, "{}"), "fromfile"),
    ],
)
def test_whatever_else_is_asked_for_is_refused_by_its_name(
    call: tuple[Any, ...], said: str, protocol: int, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    words = [word.format(str(mark)) if isinstance(word, str) else word for word in call[1:]]
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({"weight": Asks(call[0], *words)}, protocol=protocol))
    with path.open("rb") as stream, pytest.raises(RequestError) as caught:
        pickles.load(stream)
    problem = caught.value.problems[0]
    assert said in problem.what.replace("__builtin__", "builtins")
    assert problem.where == str(path) and "safetensors" in problem.remedy
    assert not mark.exists()


def test_the_mark_would_be_there_if_it_were_read_as_python_does(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Asks(os.system, f"touch {mark}")))
    assert mark.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",  # another codec
        b"cpaddle_stacks.jobs.pickles\nUnpickler\n.",  # this module itself
        b"cbuiltins\n__import__\n(X\x02\x00\x00\x00ostR.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.data\x93.",  # a dotted name goes through attributes
    ],
)
def test_no_way_around_the_list_of_names(raw: bytes) -> None:
    with pytest.raises(RequestError):
        read(raw)


class Forged:
    """Is pickled as a call whose result then gets a state."""

    def __init__(self, call: tuple[Any, ...], state: Any) -> None:
        self.call, self.state = call, state

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:], self.state


def dtype_of(kind: str, *state: Any) -> Forged:
    return Forged((np.dtype, kind, False, True), state)


OBJECTS = dtype_of("O8", 3, "|", None, None, None, -1, -1, 63)
FIELDS = dtype_of("V8", 3, "|", None, ("a",), {"a": (np.dtype("i8"), 0)}, 8, 1, 16)
_reconstruct, _frombuffer = np.empty(0).__reduce__()[0], np.empty(0).__reduce_ex__(5)[0]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (OBJECTS, "numpy.dtype('O8')"),
        (FIELDS, "numpy.dtype('V8')"),
        (dtype_of("i8", 3, "<", None, None, None, -1, -1, 63), "sets the state of a dtype"),
        (dtype_of("i8", 3, "<", None, None, None, 64, -1, 0), "sets the state of a dtype"),
        (dtype_of("i8", 3, "<", None, ("a",), {}, -1, -1, 0), "sets the state of a dtype"),
        (dtype_of("i8", 3, "<", (np.dtype("i4"), 2), None, None, -1, -1, 0), "sets the state"),
        (dtype_of("i8", 3, "O", None, None, None, -1, -1, 0), "sets the state of a dtype"),
        (Asks(np.dtype, "object"), "numpy.dtype('object')"),
        (Asks(np.dtype, "i4,O"), "numpy.dtype('i4,O')"),
        (Asks(np.dtype, [("a", "O")]), "without a numeric kind"),
        (Asks(_reconstruct, np.matrix, (0,), b"b"), "numpy.matrix"),
        (Asks(_reconstruct, np.ndarray, (1 << 40,), b"b"), "a class of its own"),
        (Asks(_reconstruct, np.ndarray, (0,), b"O"), "a class of its own"),
        (Asks(np.ndarray, (8,), "O"), "a call of numpy.ndarray"),
        (Forged((OrderedDict,), (None, {"__class__": set})), "the state of OrderedDict"),
        (np.array([Path()]), "numpy.dtype('O8')"),
        (np.array(["2026-01-01"], dtype="M8[D]"), "numpy.dtype('M8')"),
        (np.zeros(2, dtype=[("a", "i4")]), "numpy.dtype('V4')"),
    ],
)
def test_numpy_gets_no_dtype_but_a_byte_order_and_a_numeric_kind(
    value: Any, said: str, protocol: int
) -> None:
    with pytest.raises(RequestError) as caught:
        read(pickle.dumps({"weight": value}, protocol=protocol))
    assert said in caught.value.problems[0].what


def test_the_state_of_a_name_cannot_be_set() -> None:
    """Python sets attributes of whatever is on the stack, functions and classes as well."""
    for name in (b"c_codecs\nencode\n", b"cnumpy\nndarray\n", b"ccollections\nOrderedDict\n"):
        with pytest.raises(RequestError, match="sets the state of"):
            read(name + b"N}X\x01\x00\x00\x00xX\x01\x00\x00\x00ys\x86b.")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["?", "i1", "<i2", ">i4", "u8", "f2", ">f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_numeric_kind_in_either_order(kind: str, order: Any, protocol: int) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=kind, order=order)
    found, scalar = read(pickle.dumps((array, array[1, 2]), protocol=protocol))
    np.testing.assert_array_equal(found, array)
    # NumPy swaps the bytes of another machine's when it sets an array's state.
    assert type(found) is np.ndarray
    assert found.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert scalar == array[1, 2] and scalar.dtype == array[1, 2].dtype
    assert found.flags.f_contiguous == array.flags.f_contiguous


def test_arrays_can_be_changed_and_share_what_they_shared() -> None:
    first, second = read(pickle.dumps((ARRAY, ARRAY), protocol=4))
    first[0, 0] = 7
    assert first is second and second[0, 0] == 7


def test_states_of_random_generators() -> None:
    import random

    state = {"python": random.getstate(), "numpy": np.random.get_state()}
    found = read(pickle.dumps(state))
    random.setstate(found["python"])
    np.random.set_state(found["numpy"])


def test_what_pytorch_writes_about_a_dict_is_left_out() -> None:
    state = OrderedDict(weight=1)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    found = read(pickle.dumps(state, protocol=2))
    assert found == {"weight": 1} and not vars(found)


@pytest.mark.parametrize(
    "raw",
    [
        b"cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x10\x85R.",  # of 2^44 bytes
        b"\x80\x02Nr\xff\xff\xff\x7f\x91.",  # a memo of 2^31 entries, then a bad end
        # A list of 9000 that is made a tuple of 999 times.
        b"(" + b"N" * 9000 + b"lq\0(" + b"cbuiltins\ntuple\nh\0\x85R" * 999 + b"l\x86.",
        b"N" + b"\x85" * 100_000 + b".",
    ],
    ids=["bytearray", "memo", "copies", "deep"],
)
def test_memory_and_time_are_bounded_by_the_file(raw: bytes) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(RequestError, pickle.UnpicklingError):
            read(raw)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_a_key_is_hashed_in_linear_time() -> None:
    """A tuple of a tuple of a tuple, each twice in the next, has a hash that takes 2^40 steps."""
    nested = b")\x940" + b"".join(b"h%ch%c\x86\x940" % (n, n) for n in range(40))
    with pytest.raises(pickle.UnpicklingError, match="cannot be a key"):
        read(b"\x80\x04" + nested + b"}h\x28Ns.")


def test_a_pickle_that_claims_to_be_huge_is_damaged_and_takes_no_memory() -> None:
    claims = b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x."
    with pytest.raises((pickle.UnpicklingError, MemoryError, OverflowError)):
        read(claims)


def test_a_pipe_that_has_a_name_is_a_file_of_somebodys(tmp_path: Path) -> None:
    path = tmp_path / "model_state.pdparams"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(pickle.dumps(Path("x"))))
    writer.start()
    with path.open("rb") as stream, pytest.raises(RequestError):
        pickles.load(stream)
    writer.join()


def test_processes_may_say_anything_to_each_other() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reading, os.fdopen(write_end, "wb") as writing:
        writing.write(pickle.dumps(Path("x")))
        writing.flush()
        assert pickles.load(reading) == Path("x")


@pytest.mark.parametrize(
    ("files", "wanted", "refused"),
    [
        (["model.safetensors"], [], []),
        (["model_state.pdparams"], [], ["model_state.pdparams"]),
        (["model_state.pdparams"], ["model_state.pdparams"], []),
        (["model_state.pdparams"], ["*"], ["model_state.pdparams"]),
        (["pytorch_model.bin"], [], ["pytorch_model.bin"]),
        (["consolidated.00.pth", "x.pt"], ["x.pt"], ["consolidated.00.pth"]),
        (["model_state.tp00.pdparams", "model_state.tp01.pdparams"], [], ["tp00", "tp01"]),
        (["model.safetensors", "pytorch_model.bin"], [], []),
        (["static.pdmodel", "static.pdiparams"], [], []),
        ([], [], []),
    ],
)
def test_pickled_weights_are_asked_for_by_name(
    files: list[str], wanted: list[str], refused: list[str], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    try:
        pickles.check(tmp_path, wanted)
        problems = ()
    except RequestError as error:
        problems = error.problems
    assert len(problems) == len(refused)
    for problem, name in zip(problems, refused, strict=True):
        assert name in problem.where and "--allow-pickle" in problem.remedy
