"""Which tests belong to the fast tier, ``./inv test``."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SLOW_FOLDERS = ("bundle", "clients", "cluster", "dcu_sim", "docs", "faults", "isolation", "jobs")
"""Their tests are slow, but for those that are marked ``fast``; elsewhere it is the reverse."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow folders, before pytest selects by markers."""
    for item in items:
        in_slow_folder = item.path.relative_to(HERE).parts[0] in SLOW_FOLDERS
        if in_slow_folder and not item.get_closest_marker("fast"):
            item.add_marker(pytest.mark.slow)
