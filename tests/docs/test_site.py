"""The site in a real browser without a network: it needs nobody, and its search knows Chinese."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks import site
from tests.support import own_image
from tests.support.doc_pages import ROOT

IMAGE = "paddle-stacks-test/browser"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def read() -> dict[str, Any]:
    """What a reader sees (browse.py), by where the site is read from."""
    built = site.build(ROOT)
    own_image.build(ROOT / "tests" / "page" / "Dockerfile", IMAGE)
    line = ["docker", "run", "--rm", "--network", "none", "--volume", f"{HERE}:/docs:ro"]
    line += ["--volume", f"{built}:/site:ro", "--entrypoint", "/opt/venv/bin/python", IMAGE]
    line += ["/docs/browse.py", "/usr/bin/chromium"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(params=["a server", "a disk"])
def seen(request: pytest.FixtureRequest, read: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = read[request.param]
    return found


def test_it_asks_nobody_else_and_complains_of_nothing(seen: dict[str, Any]) -> None:
    assert seen["elsewhere"] == [] and seen["console"] == []
    assert seen["asked"] > 5


def test_its_links_and_pictures_are_there(seen: dict[str, Any]) -> None:
    assert seen["clicked"] == "for-laptops.html"
    assert seen["pictures"] >= 1 and seen["broken pictures"] == []


def test_its_diagrams_are_drawn(seen: dict[str, Any]) -> None:
    assert seen["diagrams"] == 1


def test_what_is_searched_is_found_in_both_languages(seen: dict[str, Any]) -> None:
    found = seen["found"]
    for text in ("微调", "内网"):
        assert found[text][0] == "readme.zh-CN.html"
    assert "pretraining.html" in found["virtual_pp_degree"]
    assert found["zqxj"] == []
