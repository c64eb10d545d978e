"""What is read of pickles, and which weights may be pickles."""

from __future__ import annotations

import io
import os
import pickle
import struct
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


def test_a_pickle_that_claims_to_be_huge_is_damaged_and_takes_no_memory() -> None:
    claims = b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x."
    with pytest.raises((pickle.UnpicklingError, MemoryError, OverflowError)):
        read(claims)


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
