"""The list of licences: what packages say of themselves, and what is not known."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks.errors import MachineError
from paddle_stacks.images import Image
from paddle_stacks.provenance import licences

ROOT = Path(__file__).parents[2]

DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+ with exception

Files: debian/*
License: Expat

License: Expat
 Permission is hereby granted
"""
FREE = """\
It is under the GPL: see /usr/share/common-licenses/GPL-3, and
`/usr/share/common-licenses/LGPL-2.1'.
"""


@pytest.fixture(scope="module")
def script() -> Any:
    """images/steps/licences.py, which runs in a step of the Dockerfile."""
    spec = importlib.util.spec_from_file_location("licences", ROOT / "images/steps/licences.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    status = [
        ("gpl", "install ok installed", DEP5),
        ("free", "install ok installed", FREE),
        ("mute", "install ok installed", "All rights are somebody's.\n"),
        ("bare", "install ok installed", None),
        ("shared", "install ok installed", None),
        ("purged", "deinstall ok config-files", DEP5),
    ]
    stanzas = []
    for name, state, text in status:
        stanzas.append(f"Package: {name}\nStatus: {state}\nVersion: 1-{name}\n")
        if text is not None:
            put(tmp_path / "usr/share/doc" / name / "copyright", text)
    (tmp_path / "usr/share/doc/shared").symlink_to("gpl")
    put(tmp_path / "var/lib/dpkg/status", "\n".join(stanzas))
    put(tmp_path / "usr/share/common-licenses/Apache-2.0", "Apache License")
    site = tmp_path / "opt/venv/lib/python3.11/site-packages"
    put(site / "a-1.dist-info/METADATA", "Name: a\nVersion: 1\nLicense-Expression: MIT\n")
    put(site / "a-1.dist-info/licenses/LICENSE", "text")
    classifier = "Classifier: License :: OSI Approved :: BSD License\nLicense: whatever\n"
    put(site / "b-2.dist-info/METADATA", f"Name: b\nVersion: 2\n{classifier}")
    put(site / "b-2.dist-info/COPYING", "text")
    put(site / "c-3.dist-info/METADATA", f"Name: c\nVersion: 3\nLicense: {'long ' * 50}\n")
    put(site / "b/_vendor/d-4.dist-info/METADATA", "Name: d\nVersion: 4\nLicense: UNKNOWN\n")
    put(site / "e-5.egg-info/PKG-INFO", "Name: e\nVersion: 5\nLicense: Apache-2.0\n")
    put(site / "f-6.dist-info/RECORD", "no metadata")
    return tmp_path


def test_what_is_known_of_every_package(script: Any, root: Path) -> None:
    script.main(root)
    found = licences.parse((root / "opt/licenses.json").read_bytes())
    assert [(row.kind, row.name, row.version, row.licence) for row in found] == [
        ("deb", "bare", "1-bare", ""),
        ("deb", "free", "1-free", "GPL-3, LGPL-2.1"),
        ("deb", "gpl", "1-gpl", "Expat, GPL-2+ with exception"),
        ("deb", "mute", "1-mute", ""),
        ("deb", "shared", "1-shared", "Expat, GPL-2+ with exception"),
        ("pypi", "a", "1", "MIT"),
        ("pypi", "b", "2", "BSD License"),
        ("pypi", "c", "3", ""),
        ("pypi", "d", "4", ""),
        ("pypi", "e", "5", "Apache-2.0"),
        ("source", "paddle-stacks", "", "Apache-2.0"),
    ]
    site = "/opt/venv/lib/python3.11/site-packages"
    assert {row.name: row.texts for row in found if row.texts} == {
        "free": ("/usr/share/doc/free/copyright",),
        "gpl": ("/usr/share/doc/gpl/copyright",),
        "mute": ("/usr/share/doc/mute/copyright",),
        "shared": ("/usr/share/doc/gpl/copyright",),
        "a": (f"{site}/a-1.dist-info/licenses/LICENSE",),
        "b": (f"{site}/b-2.dist-info/COPYING",),
        "paddle-stacks": ("/usr/share/common-licenses/Apache-2.0",),
    }


def test_upstreams_source_has_its_own_text_or_none(script: Any, root: Path) -> None:
    put(root / "opt/PaddleNLP/llm/run.py", "")
    rows = {row["name"]: row for row in script.sources(root)}
    assert (rows["PaddleNLP"]["license"], rows["PaddleNLP"]["texts"]) == ("", [])
    put(root / "opt/PaddleNLP/LICENSE", "Apache License\nVersion 2.0\n")
    rows = {row["name"]: row for row in script.sources(root)}
    assert rows["PaddleNLP"]["license"] == "Apache-2.0"


def test_the_list_is_the_same_twice(script: Any, root: Path) -> None:
    script.main(root)
    first = (root / "opt/licenses.json").read_bytes()
    script.main(root)
    assert (root / "opt/licenses.json").read_bytes() == first


def test_what_is_unknown_is_not_hidden(
    script: Any, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(root)
    found = licences.parse((root / "opt/licenses.json").read_bytes())
    licences.show(Image("base", ("paddle-stacks/base:cpu",), "", 0, (), {}), found)
    out = capsys.readouterr().out
    assert "4 of unknown licence: bare, mute, c, d" in out
    assert "4 without a text in the image: bare, c, d, e" in out


@pytest.mark.parametrize("content", ["", "{}", '{"packages": [{}]}', '{"packages": 1}'])
def test_a_list_that_cannot_be_read(content: str) -> None:
    with pytest.raises(MachineError, match="cannot be read"):
        licences.parse(json.dumps(content).encode() if content == "" else content.encode())
