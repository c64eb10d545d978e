"""Whatever is read from outside is read, or refused with a word on what is wrong and where.

Inputs are whole ones that hypothesis damages. CI tries the same ones every time;
``FUZZ_EXAMPLES=20000 pytest tests/fuzz`` tries others, and more. An input that was found that
way goes into ``corpus/TARGET/``, which is tried first.
"""

from __future__ import annotations

import copy
import json
import os
import struct
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_stacks.errors import StackError
from tests.support.fuzz_targets import TARGETS, examples

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
MEMORY = 48 * 2**20  # bytes above the input's own, a hundredfold
FUZZ = settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = (0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
# What stands in for a value of JSON: the edges of every type.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *(2**31, 2**63, 2**64, 10**400, "", "x", "\ud800", "../../x", "/etc/passwd", "a" * 5000),
    *([], [None], [[]], {}, {"": None}, {"x": {}}, [0] * 200),
)
DEEP = b"[" * 100_000


def check(name: str, raw: bytes) -> None:
    """Read an input; nothing but an error of ours may come of it, in little memory."""
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside, "a", "b")
        folder.mkdir(parents=True)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            TARGETS[name].run(raw, folder)
        except StackError as error:
            assert error.problems
            assert all(problem.what.strip() for problem in error.problems), error.problems
        peak = tracemalloc.get_traced_memory()[1] - before
        assert peak < MEMORY + 100 * len(raw), f"{peak} bytes for an input of {len(raw)}"
        written = {*Path(outside).rglob("*")} - {folder.parent, folder, *folder.rglob("*")}
        assert not written, "written outside of its folder"


@pytest.fixture(autouse=True, scope="module")
def _measured() -> Any:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A whole input with one to four things about it changed."""
    raw = bytearray(draw(st.sampled_from(examples(name))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        kind = draw(st.integers(0, 6))
        if kind == 0:
            del raw[at:]
        elif kind == 1:
            del raw[at : at + draw(st.integers(1, 64))]
        elif kind == 2:
            raw[at:at] = draw(st.binary(min_size=1, max_size=32))
        elif kind == 3:
            raw[at : at + 8] = struct.pack("<Q", draw(st.sampled_from(NUMBERS)))
        elif kind == 4:
            raw[at : at + 4] = struct.pack("<I", draw(st.sampled_from(NUMBERS)) & 0xFFFFFFFF)
        elif kind == 5:
            other = draw(st.integers(0, len(raw)))
            raw[at:at] = raw[other : other + draw(st.integers(1, 200))]
        elif raw:
            raw[at % len(raw)] ^= 1 << draw(st.integers(0, 7))
    return bytes(raw)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value in a JSON value, itself included."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(way for key, each in inner for way in _paths(each, (*path, key)))]


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    made = copy.copy(value)
    made[path[0]] = _replaced(value[path[0]], path[1:], new)
    return made


def _as_values(raw: bytes) -> list[tuple[bytes, Any, bytes]]:
    """Return what stands before, the value and what stands behind, for every JSON in an input."""
    try:
        return [(b"", json.loads(raw), b"")]
    except ValueError:
        pass
    found, lines = [], raw.split(b"\n")
    for number, line in enumerate(lines):
        start = line.find(b"{")
        if start >= 0:
            try:
                value = json.loads(line[start:])
            except ValueError:
                continue
            head = b"\n".join([*lines[:number], line[:start]])
            found.append((head, value, b"\n" + b"\n".join(lines[number + 1 :])))
    return found


@st.composite
def reshaped(draw: st.DrawFn, name: str) -> bytes:
    """A whole input in which a value of its JSON is another one."""
    before, value, behind = draw(
        st.sampled_from([part for raw in examples(name) for part in _as_values(raw)])
    )
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(_paths(value)))
        value = _replaced(value, path, draw(st.sampled_from(VALUES)))
    try:
        return before + json.dumps(value).encode() + behind
    except ValueError:  # more digits than Python likes to print
        return before + b'{"x": 1' + b"0" * 5000 + b"}" + behind


WITH_JSON = [name for name in TARGETS if any(_as_values(raw) for raw in examples(name))]


@pytest.mark.parametrize("name", TARGETS)
def test_whole_and_remembered_inputs(name: str) -> None:
    for raw in examples(name):
        check(name, raw)


# Of these the first example is refused at its end: it names files that are not there.
PARTS = ("static", "adapter-base")


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in PARTS])
def test_the_whole_ones_are_whole(name: str, tmp_path: Path) -> None:
    """An input that is refused at its first byte would try nothing behind it."""
    TARGETS[name].run(TARGETS[name].examples()[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
@FUZZ
@given(data=st.data())
def test_damaged_inputs(name: str, data: st.DataObject) -> None:
    check(name, data.draw(damaged(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_JSON)
@FUZZ
@given(data=st.data())
def test_values_of_other_types(name: str, data: st.DataObject) -> None:
    check(name, data.draw(reshaped(name)))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 4096,
        b"\xff" * 4096,
        DEEP,
        b'{"a":' * 100_000,
        b'{"x": ' + b"9" * 5000 + b"}",
        b"x = " + b"9" * 5000,
        b"x = " + DEEP,
        b"null",
        b'"text"',
    ],
    ids=[
        "empty",
        "zeros",
        "ones",
        "lists",
        "objects",
        "digits",
        "toml-digits",
        "toml",
        "null",
        "s",
    ],
)
def test_what_is_nothing_of_the_kind(name: str, raw: bytes) -> None:
    check(name, raw)
