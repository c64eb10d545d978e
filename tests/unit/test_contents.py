"""What is in an image, read from archives that are made here, and what changed between two."""

from __future__ import annotations

import gzip
import io
import json
import stat
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.provenance import compare, contents
from paddle_stacks.provenance.contents import Contents, File

STATUS = """\
Package: libc6
Status: install ok installed
Version: 2.36-9+deb12u10
Source: glibc

Package: libgcc-s1
Status: install ok installed
Source: gcc-12 (12.2.0-14)
Version: 12.2.0-14+deb12u1

Package: removed
Status: deinstall ok config-files
Version: 1

Package: tini
Status: install ok installed
Version: 0.19.0-1+b3
"""
METADATA = "Metadata-Version: 2.1\nName: Some_Thing\nVersion: {}\n\nVersion: 9 in the text\n"
SITE = "opt/venv/lib/python3.11/site-packages"


def layer(*members: Any) -> bytes:
    """Return a layer: ``(name, content)``, ``(name, "-> target")`` or ``(name, None)``."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str) and content.startswith("-> "):
                member.type, member.linkname = tarfile.SYMTYPE, content[3:]
            elif isinstance(content, str) and content.startswith("= "):
                member.type, member.linkname = tarfile.LNKTYPE, content[2:]
            else:
                data = content.encode()
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
                continue
            archive.addfile(member)
    return stream.getvalue()


def saved(*images: tuple[str, list[bytes], dict[str, Any]]) -> bytes:
    """Return what ``docker save`` writes of images: their digits, layers and configurations."""
    blobs: dict[str, bytes] = {}
    manifest = []
    for digits, layers, config in images:
        names = [f"blobs/sha256/{abs(hash(data)):x}" for data in layers]
        blobs |= dict(zip(names, layers, strict=True))
        document = {
            "created": "2025-01-02T03:04:05Z",
            "config": config,
            "rootfs": {"diff_ids": names},
            "history": [
                {"created_by": "ENV A=1", "empty_layer": True},
                *({"created_by": f"RUN step {n}"} for n in range(len(layers))),
            ],
        }
        blobs[f"blobs/sha256/{digits}"] = json.dumps(document).encode()
        manifest.append({"Config": f"blobs/sha256/{digits}", "Layers": names})
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in [*blobs.items(), ("manifest.json", json.dumps(manifest).encode())]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``engine(archive)``: a client, and a ``docker`` whose ``save`` writes the archive."""

    def client(archive: bytes, status: int = 0) -> Any:
        (tmp_path / "archive").write_bytes(archive)
        program = tmp_path / "docker"
        program.write_text(
            f'#!/bin/sh\n[ "$1" = save ] || exit 9\ncat {tmp_path}/archive\n'
            f"echo said by docker >&2\nexit {status}\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

        def get(reference: str) -> Any:
            if reference == "gone":
                raise docker.errors.ImageNotFound("gone")
            return SimpleNamespace(id=f"sha256:{NEW if reference == 'new' else OLD}")

        return SimpleNamespace(images=SimpleNamespace(get=get))

    return client


CONFIG = {"Labels": {"l": "1", "same": "x"}, "Env": ["PATH=/bin", "A=b=c"]}
BASE = layer(
    ("etc", None),
    ("usr/lib/os-release", 'ID=debian\nVERSION_ID="12"\n'),
    ("etc/os-release", "-> ../usr/lib/os-release"),
    ("var/lib/dpkg/status", STATUS),
    ("etc/hard", "= usr/lib/os-release"),
    ("opt/old/a", "a"),
    ("opt/old/b", "b"),
)
FIRST = layer((f"{SITE}/some_thing-1.dist-info/METADATA", METADATA.format(1)), ("opt/x", "12345"))
SECOND = layer(
    (f"{SITE}/.wh.some_thing-1.dist-info", ""),
    (f"{SITE}/some_thing-2.dist-info/METADATA", METADATA.format(2)),
    ("opt/old/.wh..wh..opq", ""),
    ("opt/old/c", "c"),
    ("opt/x", "54321"),
)


def test_what_an_image_has(engine: Any) -> None:
    (found,) = contents.read(engine(saved((OLD, [BASE, FIRST], CONFIG))), ["old"])
    assert found.id == f"sha256:{OLD}" and found.os == "debian 12"
    assert found.environment == {"PATH": "/bin", "A": "b=c"}
    assert found.labels == CONFIG["Labels"]
    assert [(p.kind, p.name, p.version, p.source, p.source_version) for p in found.packages] == [
        ("deb", "libc6", "2.36-9+deb12u10", "glibc", "2.36-9+deb12u10"),
        ("deb", "libgcc-s1", "12.2.0-14+deb12u1", "gcc-12", "12.2.0-14"),
        ("deb", "tini", "0.19.0-1+b3", "tini", "0.19.0-1+b3"),
        ("pypi", "Some_Thing", "1", "", ""),
    ]
    assert [step.instruction for step in found.layers] == ["RUN step 0", "RUN step 1"]
    assert found.files["/opt/x"].size == 5 and found.files["/opt/x"].kind == "file"
    assert found.files["/etc/os-release"] == File("link", "0644", "0:0", 0, "../usr/lib/os-release")
    assert found.files["/etc/hard"].content == "/usr/lib/os-release"
    assert found.unread == ()


def test_what_a_later_layer_hides_is_gone(engine: Any) -> None:
    (found,) = contents.read(engine(saved((OLD, [BASE, FIRST, SECOND], CONFIG))), ["old"])
    assert [p.version for p in found.packages if p.kind == "pypi"] == ["2"]
    assert [name for name in found.files if name.startswith("/opt/old/")] == ["/opt/old/c"]
    assert not [name for name in found.files if ".wh." in name]


@pytest.mark.parametrize(
    ("second", "left"),
    [
        ([("a", "file now")], {"/a"}),
        ([("a", None)], {"/a", "/a/b", "/a/b/c", "/ab"}),
        ([("a/.wh.b", "")], {"/a", "/ab"}),
        ([(".wh.a", "")], {"/ab"}),
        ([(".wh.a", ""), ("a/n", "new")], {"/a/n", "/ab"}),
        ([("a/.wh..wh..opq", ""), ("a/n", "new")], {"/a", "/a/n", "/ab"}),
    ],
)
def test_how_layers_lie_on_each_other(engine: Any, second: list[Any], left: set[str]) -> None:
    first = layer(("a", None), ("a/b", None), ("a/b/c", "c"), ("ab", "x"))
    (found,) = contents.read(engine(saved((OLD, [first, layer(*second)], {}))), ["old"])
    assert set(found.files) - {"/ab"} == left - {"/ab"}
    assert ("/ab" in found.files) is True


def test_an_empty_layer_and_one_in_gzip(engine: Any) -> None:
    archive = saved((OLD, [BASE, bytes(1024), gzip.compress(FIRST)], CONFIG))
    (found,) = contents.read(engine(archive), ["old"])
    assert found.layers[1].size == 0
    assert "/opt/x" in found.files


def test_an_image_that_is_not_here(engine: Any) -> None:
    with pytest.raises(MachineError, match="there is no image gone"):
        contents.read(engine(b""), ["gone"])


@pytest.mark.parametrize("archive", [b"", b"no archive", saved((OLD, [BASE], CONFIG))[:3000]])
def test_an_archive_that_cannot_be_read(engine: Any, archive: bytes) -> None:
    with pytest.raises(MachineError, match="docker save failed"):
        contents.read(engine(archive, 1), ["old"])


def test_a_package_database_that_is_not_read_is_told(engine: Any) -> None:
    rpm = layer(("var/lib/rpm", None), ("var/lib/rpm/Packages", "binary"))
    (found,) = contents.read(engine(saved((OLD, [rpm], {}))), ["old"])
    assert found.unread == ("/var/lib/rpm",) and found.os == "unknown"


def test_a_manifest_is_read_as_it_was_written(engine: Any, tmp_path: Path) -> None:
    (found,) = contents.read(engine(saved((OLD, [BASE, FIRST], CONFIG))), ["old"])
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(found.to_json()))
    assert contents.open_manifest(path) == found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifest": 2}', '{"manifest": 1}', "\xff"])
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError, match="not a manifest") as caught:
        contents.open_manifest(path)
    assert caught.value.problems[0].where == str(path)


# --------------------------------------------------------------------------------- what changed


@pytest.fixture
def pair(engine: Any) -> list[Contents]:
    changed = {"Labels": {"l": "2", "same": "x"}, "Env": ["PATH=/bin", "NEW=1"]}
    archive = saved((OLD, [BASE, FIRST], CONFIG), (NEW, [BASE, SECOND], changed))
    return contents.read(engine(archive), ["old", "new"])


def test_what_changed(pair: list[Contents]) -> None:
    found = compare.difference(*pair)
    assert found.shared == 1
    told = [
        [(c.name, c.state, c.before, c.after) for c in changes]
        for changes in (found.packages, found.environment, found.labels)
    ]
    assert told == [
        [("pypi Some_Thing", "changed", "1", "2")],
        [("A", "gone", "b=c", None), ("NEW", "new", None, "1")],
        [("l", "changed", "1", "2")],
    ]
    assert {c.name: (c.state, c.aspects) for c in found.files} == {
        "/opt/old/a": ("gone", ()),
        "/opt/old/b": ("gone", ()),
        "/opt/old/c": ("new", ()),
        "/opt/x": ("changed", ("content",)),
        f"/{SITE}/some_thing-1.dist-info/METADATA": ("gone", ()),
        f"/{SITE}/some_thing-2.dist-info/METADATA": ("new", ()),
    }


def test_an_image_is_no_other_than_itself(pair: list[Contents]) -> None:
    found = compare.difference(pair[0], pair[0])
    assert found.shared == 2
    assert not (found.packages or found.environment or found.labels or found.files)


def test_the_difference_for_programs(pair: list[Contents]) -> None:
    found = json.loads(json.dumps(compare.difference(*pair).to_json()))
    assert [image["reference"] for image in found["images"]] == ["old", "new"]
    assert found["shared_layers"] == 1 and [len(rest) for rest in found["layers"]] == [1, 1]
    assert found["packages"] == [
        {"name": "pypi Some_Thing", "state": "changed", "before": "1", "after": "2"}
    ]


def test_the_difference_for_people(
    pair: list[Contents], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_SHOWN", 2)
    compare.show(compare.difference(*pair))
    short = capsys.readouterr().out
    for words in (
        "layers in common: 1",
        "packages: 0 new, 0 gone, 1 changed",
        "changed  pypi Some_Thing  1 -> 2",
        "gone     A  b=c -> -",
        "and 4 more: --files shows all",
    ):
        assert words in short
    compare.show(compare.difference(*pair), every_file=True)
    assert "/opt/x" in capsys.readouterr().out


def test_databases_that_are_not_what_they_seem() -> None:
    status = b"Status: install ok installed\n\nPackage: x\nStatus: install ok installed\n"
    assert contents.packages({contents._STATUS: status}) == ()
    assert contents._os({"/etc/os-release": b"ID=\xff\nVERSION_ID=12\n"}).endswith("12")
    for raw in (b"{", b"[" * 100_000, b"[1" + b" " * contents._LONGEST_DOCUMENT + b"]"):
        with pytest.raises(MachineError, match="cannot be read"):
            contents._document(raw, "manifest.json")
