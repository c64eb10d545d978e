"""The image that answers: no heavier than it has to be."""

from __future__ import annotations

import pytest

from tests.support.locked_packages import locked
from tests.support.stages import PLATFORM


@pytest.mark.skipif(bool(PLATFORM.architectures), reason="upstream's predictor imports them")
@pytest.mark.parametrize("package", ["datasets", "matplotlib", "pandas", "pyarrow"])
def test_what_training_alone_needs_is_left_out(image: str, package: str) -> None:
    # test_framework.py holds the image to its lock.
    assert package not in locked(image)
    assert package in locked("train")
