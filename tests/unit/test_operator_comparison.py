"""A device's operators against the reference: what is right, wrong, missing and known."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

import pytest

from paddle_stacks import operators


def output(*values: float, allowed: float = 0.0, shape: list[int] | None = None) -> dict[str, Any]:
    data = zlib.compress(struct.pack(f"<{len(values)}d", *values))
    return {
        "data": base64.b64encode(data).decode(),
        "shape": shape or [len(values)],
        "allowed": allowed,
    }


def document(operator: str = "quant_int8", **outputs: Any) -> dict[str, Any]:
    entry = {"operator": operator, "dtype": "float16", "state": "computed", "outputs": outputs}
    return {"case-float16": entry}


def without(state: str, message: str) -> dict[str, Any]:
    entry = document()["case-float16"]
    return {"case-float16": {**entry, "state": state, "message": message, "outputs": {}}}


@pytest.mark.parametrize(
    ("got", "state", "error"),
    [
        (output(1.0, 2.0), "right", 0.0),
        (output(1.0, 2.5), "right", 0.5),
        (output(1.0, 2.6), "wrong", pytest.approx(0.6)),
        (output(1.0, math.nan), "wrong", math.inf),
        (output(1.0, math.inf), "wrong", math.inf),
    ],
)
def test_an_output_is_right_within_its_tolerance(
    got: dict[str, Any], state: str, error: Any
) -> None:
    (row,) = operators.compare(document(out=output(1.0, 2.0, allowed=0.5)), document(out=got))
    assert (row.state, row.error) == (state, error)
    assert (row.message == "") == (state == "right")


def test_the_same_infinity_and_what_is_no_number_in_both_are_right() -> None:
    both = document(out=output(-math.inf, math.nan))
    (row,) = operators.compare(both, both)
    assert (row.state, row.error) == ("right", 0.0)


def test_the_output_that_is_wrong_is_named() -> None:
    reference = document(near=output(1.0, allowed=9.0), far=output(1.0, allowed=0.1))
    (row,) = operators.compare(reference, document(near=output(5.0), far=output(2.0)))
    assert (row.state, row.message) == ("wrong", "far: off by 1, allowed 0.1")


def test_another_shape_and_no_output_are_wrong() -> None:
    reference = document(out=output(1.0, 2.0))
    (row,) = operators.compare(reference, document(out=output(1.0, 2.0, shape=[2, 1])))
    assert (row.state, row.message) == ("wrong", "out: shape [2, 1], not [2]")
    (row,) = operators.compare(reference, document())
    assert row.state == "wrong"


@pytest.mark.parametrize("state", ["missing", "failed"])
def test_what_was_not_computed_is_told_apart(state: str) -> None:
    (row,) = operators.compare(document(out=output(1.0)), without(state, "why"))
    assert (row.state, row.error, row.message) == (state, None, "why")
    assert operators.faults([row]) == [row]


def test_a_reference_that_was_not_computed_is_an_error() -> None:
    with pytest.raises(ValueError, match="the reference failed: why"):
        operators.compare(without("failed", "why"), document())


def test_known_faults_are_in_the_table_and_are_no_faults() -> None:
    name = next(iter(operators.KNOWN))
    reference, card = document(name, out=output(1.0)), document(name, out=output(2.0))
    right = operators.Row("another", "matmul", "int8", "right", 0.0, 0.0)
    rows = [right, *operators.compare(reference, card)]
    assert operators.faults(rows) == []
    first, second = operators.as_table(rows).splitlines()[2:]
    assert "| wrong | 1 | 0 | out: off by 1, allowed 0; known: " in first
    assert second == "| another | matmul | int8 | right | 0 | 0 |  |"
