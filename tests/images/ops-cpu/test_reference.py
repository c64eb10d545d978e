"""The comparison of a device's operators with the CPU's finds operators that are wrong."""

from __future__ import annotations

import importlib.util
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks import operators
from paddle_stacks.plan import image_name
from tests.support.stages import BACKEND, IMAGES

# The folder has the name of a stage, which cannot be imported as a package.
_SPEC = importlib.util.spec_from_file_location(
    "operator_comparison", Path(__file__).with_name("comparison.py")
)
assert _SPEC is not None and _SPEC.loader is not None
comparison: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(comparison)

# What makes an operator wrong, the cases to run, and those that must find it: others must not.
WRONG = {
    "non_causal": ("block_attention", "block_attention_prompt block_attention_prompt_is_causal"),
    "empty_body": ("masked_attention", "masked_attention"),
    "off_by_one_block": ("block_attention", "block_attention_steps block_attention_int8_cache"),
    "wrong_rounding": ("quant_int8", "quant_int8_rounds_halves"),
}


@pytest.fixture(scope="module")
def started() -> Iterator[str]:
    """One container of the image that has the operators."""
    name = f"paddle-stacks-test-reference-{uuid.uuid4().hex[:8]}"
    command = ["docker", "run", "--detach", "--rm", f"--name={name}", "--network=none"]
    command += ["--tmpfs=/tmp", "--env=HOME=/tmp", "--env=GLOG_minloglevel=2", "--entrypoint=sleep"]
    subprocess.run(
        [*command, image_name(IMAGES[-1], BACKEND), "infinity"], check=True, capture_output=True
    )
    yield name
    subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


@pytest.fixture(scope="module")
def reference(started: str) -> Any:
    return comparison.computed(started, "cpu")


def test_every_case_can_be_computed_and_equals_itself(started: str, reference: Any) -> None:
    rows = operators.compare(reference, reference)
    assert len(rows) > 30
    assert [row for row in rows if row.state != "right" or row.error != 0] == []


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_operator_is_named(started: str, reference: Any, name: str) -> None:
    prefix, cases = WRONG[name]
    device = comparison.computed(started, "cpu", [name, prefix])
    expected = {case: entry for case, entry in reference.items() if case.startswith(prefix)}
    rows = operators.compare(expected, device)
    wrong = {row.case.rpartition("-")[0] for row in rows if row.state == "wrong"}
    assert wrong == set(cases.split())
    right = {row.case.rpartition("-")[0] for row in rows if row.state == "right"}
    assert not wrong & right, "one of the types was not found"


def test_a_missing_kernel_is_told_apart_from_a_wrong_one(started: str, reference: Any) -> None:
    device = comparison.computed(started, "cpu", ["missing", "block_attention"])
    expected = {c: e for c, e in reference.items() if c.startswith("block_attention")}
    rows = operators.compare(expected, device)
    assert {row.state for row in rows} == {"missing"}
    assert all("not registered" in row.message for row in rows)
