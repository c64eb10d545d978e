"""What benchmarks make of what they measured, and where they write it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paddle_stacks.errors import JobError

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test import them as they import each other."""
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import report

    monkeypatch.setattr(report, "_DOCS", tmp_path)
    return tmp_path / "page.md"


def test_tables_are_written_between_their_marks(page: Path) -> None:
    import report

    page.write_text("a\n<!-- bench/x.py -->\nold\n<!-- end -->\nb\n<!-- bench/y.py --><!-- end -->")
    report.write("page.md", "x.py", r"new \1")
    assert page.read_text() == (
        "a\n<!-- bench/x.py -->\n\nnew \\1\n\n<!-- end -->\nb\n<!-- bench/y.py --><!-- end -->"
    )


@pytest.mark.parametrize("text", ["", "<!-- bench/x.py --><!-- end -->" * 2])
def test_a_page_without_one_place_for_them_stays_as_it_is(page: Path, text: str) -> None:
    import report

    page.write_text(text)
    with pytest.raises(JobError, match=r"bench/x\.py"):
        report.write("page.md", "x.py", "new")
    assert page.read_text() == text


def test_every_place_for_tables_is_a_benchmarks() -> None:
    marks = {
        name
        for path in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"^<!-- bench/(\S+) -->$", path.read_text(), re.MULTILINE)
    }
    writing = {
        path.name
        for path in BENCH.glob("*.py")
        if re.search(r"report\.(write|publish)\(", path.read_text())
    }
    assert marks == writing


@pytest.mark.parametrize(
    ("memory", "grown"),
    [
        ((500, 1000, 1000, 1000), 0.0),  # what is needed once is needed at the beginning
        ((500, 1000, 1000, 1100), 0.1),
        ((500, 1000, 990, 980), -0.01),
    ],
)
def test_what_counts_as_growth(memory: tuple[int, ...], grown: float) -> None:
    import soak

    samples = [{"seconds": number * 20, "memory_mib": seen} for number, seen in enumerate(memory)]
    assert soak.growth(samples) == grown


def test_percentiles() -> None:
    import serve

    assert serve.percentiles([value / 100 for value in range(100)]) == [0.5, 0.95, 0.99, 0.99]
