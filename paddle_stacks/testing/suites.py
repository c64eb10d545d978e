"""The suites of tests, and the two tiers that they are run in.

The fast tier, ``./inv test``, has every test that is not marked ``slow`` (tests/conftest.py).
``./inv test --all`` has all of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CORES", "FAST", "LINT", "NAMES", "SUITES", "Suite", "folders"]

CORES = len(os.sched_getaffinity(0))
FAST = ("-m", "not slow")
"""Pytest's arguments that select the fast tier."""


@dataclass(frozen=True)
class Suite:
    """Tests that are run together, by one pytest.

    Args:
        folders: of the tests.
        backend: the backend whose images they need.
        images: whether they need its images at all.
        in_fast_tier: whether some of them belong to the fast tier.
        is_parallel: whether its tests may run beside each other, on all cores.
    """

    folders: tuple[str, ...]
    backend: str = "cpu"
    images: bool = True
    in_fast_tier: bool = True
    is_parallel: bool = False

    @property
    def workers(self) -> int:
        """Return how many processes run the suite's tests."""
        return CORES if self.is_parallel else 1


# In the order in which they start: what fails fastest first, then the longest.
SUITES: Mapping[str, Suite] = {
    "unit": Suite(
        ("tests/unit", "tests/fuzz"),
        images=False,
        is_parallel=True,
    ),
    "images": Suite(("tests/images",)),
    "jobs": Suite(("tests/jobs",), is_parallel=True),
    "bundle": Suite(
        ("tests/bundle",),
        in_fast_tier=False,
    ),
    "faults": Suite(
        ("tests/faults",),
        in_fast_tier=False,
        is_parallel=True,
    ),
    "dcu-sim": Suite(
        ("tests/images", "tests/dcu_sim"),
        "dcu-sim",
    ),
    "clients": Suite(
        ("tests/clients",),
        images=False,
        in_fast_tier=False,
    ),
    "docs": Suite(("tests/docs",), in_fast_tier=False),
    "cluster": Suite(("tests/cluster",), in_fast_tier=False),
    "isolation": Suite(
        ("tests/isolation",),
        in_fast_tier=False,
    ),
}

LINT = "lint"
"""What runs before the suites, and can be asked for like one."""
NAMES = (LINT, *SUITES)


def folders() -> dict[str, list[str]]:
    """Return the folders of all suites, for each backend that they are run on."""
    by_backend: dict[str, list[str]] = {}
    for suite in SUITES.values():
        by_backend.setdefault(suite.backend, []).extend(suite.folders)
    return by_backend
