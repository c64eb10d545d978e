"""Attention that is composed for a DCU, against kernels of the CPU and against plain sums."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import fused_operators
from tests.jobs.conftest import run


@pytest.fixture(scope="module")
def found(job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    workspace = tmp_path_factory.mktemp("operators")
    shutil.copy(Path(fused_operators.__file__), workspace)
    run(job, ["python", "fused_operators.py"], workspace, 600)
    differences: dict[str, Any] = json.loads((workspace / "found.json").read_text())
    return differences


@pytest.mark.parametrize("who", ["composed", "kernels"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("heads", [4, 2])
def test_composed_attention_equals_plain_attention(found, heads: int, dtype: str, who: str) -> None:
    """Prompts of three lengths, then tokens behind them; the cache is of the type.

    A result is rounded once, and a key or a value of a token before it: 2**-11 each in float16;
    sums of float32 differ in their last bits.
    """
    worst = found[f"{who} {heads} {dtype}"]
    tolerance = {"float32": 2**-20, "float16": 2**-9}[dtype]
    assert 0 < worst["prompt"] < tolerance
    assert 0 < worst["token"] < tolerance


def test_composed_attention_quantizes_as_a_kernel_does(found) -> None:
    """Whole numbers in and out; a value next to a half may be rounded to either side."""
    assert found["int8"]["dtype"].endswith("int8")
    assert found["int8"]["steps"] <= 1
    assert found["int8"]["values"] > 20


def test_a_norm_quantizes_its_result(found) -> None:
    assert found["norm"]["dtype"].endswith("int8")
    assert found["norm"]["same"]
    assert found["norm"]["values"] > 10
