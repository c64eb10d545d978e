"""Known data is fetched from a server or a folder, checked, and whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoints import fetch_data
from entrypoints.fetching import download as fetching
from paddle_stacks.errors import JobError, RequestError, StackError, render
from paddle_stacks.jobs import records, sample_data
from tests.support.loopback import Server, serving

ROOT = Path(__file__).parents[2]
PAIR = b'{"src": "a", "tgt": "b"}\n'


def archive(files: dict[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return buffer.getvalue()


GOOD = archive({"data/train.json": PAIR * 3, "data/dev.json": PAIR, "data/._dev.json": b"x"})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with an archive, and a workspace whose row ``mine`` names it."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetching, "_ATTEMPTS", 1)
    with serving() as state:
        state.files["/mine.gz"] = GOOD
        write_row(state)
        yield state


def write_row(server: Server, sha256: str = "", **changes: str) -> None:
    row = {"title": "mine", "kind": "records", "folder": "data/mine"} | changes
    lines = [f'{key} = "{value}"' for key, value in row.items()]
    lines += ["[[file]]", f'url = "{server.url}/mine.gz"', "archive = true"]
    lines += [f'sha256 = "{sha256}"'] if sha256 else []
    path = Path("configs/datasets/mine.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def complaint(*argv: str, kind: type[StackError] = RequestError) -> str:
    with pytest.raises(kind) as caught:
        fetch_data.main(list(argv))
    assert not any(path.suffix == ".part" for path in Path("data").glob(".mine*"))
    return render(caught.value)


def test_an_archive_becomes_a_data_folder(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch_data.main(["mine"]) == 0
    output = capsys.readouterr()
    assert output.out == "data/mine\n"
    assert "3 records to train on, 1 to evaluate on" in output.err
    assert f"has the sha256 {hashlib.sha256(GOOD).hexdigest()}" in output.err
    folder = Path("data/mine")
    assert {path.name for path in folder.iterdir()} == {
        "dev.json",
        "paddle-stacks.json",
        "train.json",
    }
    assert records.check(folder) == records.Counts(3, 1)
    assert not any(Path("data/.downloads").iterdir())
    count = len(server.requests)
    assert fetch_data.main(["mine"]) == 0  # verified, and not fetched again
    assert len(server.requests) == count
    (folder / "dev.json").write_bytes(PAIR * 2)
    assert "--force replaces it" in complaint("mine")
    assert fetch_data.main(["mine", "--force"]) == 0
    assert (folder / "dev.json").read_bytes() == PAIR


def test_a_download_goes_on_where_it_stopped(server: Server) -> None:
    sha256 = hashlib.sha256(GOOD).hexdigest()
    write_row(server, sha256)
    server.cut_after = [100] * 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: None)
        assert fetch_data.main(["mine"]) == 0
    assert [headers.get("range") for _, headers in server.requests][:2] == [None, "bytes=100-"]


def test_a_folder_stands_for_the_network(server: Server) -> None:
    Path("data/usb").mkdir(parents=True)
    Path("data/usb/mine.gz").write_bytes(GOOD)
    assert fetch_data.main(["mine", "--from", "data/usb", "--output", "data/other"]) == 0
    assert server.requests == []
    assert records.check(Path("data/other")) == records.Counts(3, 1)
    assert Path("data/usb/mine.gz").read_bytes() == GOOD


@pytest.mark.parametrize(
    ("argv", "content", "words"),
    [
        (["mien"], GOOD, ['no data is known as "mien"', 'did you mean "mine"?']),
        (["mine", "--from", "gone"], GOOD, ["the folder does not exist", "wget"]),
        (["mine", "--from", "data"], GOOD, ["mine.gz is not in the folder", "wget"]),
        (["mine", "--output", "."], GOOD, ["replace the workspace"]),
        (["mine", "--output", "configs/datasets/mine.toml"], GOOD, ["not a folder"]),
        (["mine", "--output", "data"], GOOD, ["already exists", "fetch-data did not write it"]),
        (["mine"], GOOD[:-20], ["not a complete archive"]),
        (["mine"], PAIR, ["not a complete archive"]),
        (["mine"], archive({"d/train.json": b"x\n", "d/dev.json": PAIR}), ["not JSON", "mine/"]),
        (["mine"], archive({"d/train.json": PAIR}), ["has no dev.json"]),
        (["mine"], archive({"a/x.json": PAIR, "b/x.json": PAIR}), ["unexpected member"]),
        (["mine"], archive({"d/train.json": PAIR}, link="d/dev.json"), ["unexpected member"]),
    ],
)
def test_bad_requests_and_bad_files(
    server: Server, argv: list[str], content: bytes, words: list[str]
) -> None:
    Path("data").mkdir()
    server.files["/mine.gz"] = content
    text = complaint(*argv)
    for word in words:
        assert word in text
    assert not Path("data/mine").exists()


def test_a_wrong_checksum_is_refused(server: Server) -> None:
    write_row(server, "0" * 64)
    assert f"expected {'0' * 64}" in complaint("mine")
    Path("mine.gz").write_bytes(GOOD)
    assert f"expected the sha256 {'0' * 64}" in complaint("mine", "--from", ".")


def test_a_server_without_the_file(server: Server) -> None:
    server.files.clear()
    text = complaint("mine", kind=JobError)
    assert "404" in text
    assert "--from FOLDER" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "pictures"}, 'kind must be one of records, corpus, got "pictures"'),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"folder": 'x"'}, "not TOML"),
    ],
)
def test_malformed_rows(server: Server, changes: dict[str, str], words: str) -> None:
    write_row(server, **changes)
    assert words in complaint("mine")


def test_the_recipes_read_what_is_fetched() -> None:
    folders = {name: sample_data.find(name).folder for name in sample_data.known(ROOT)}
    assert folders == {"alpaca-demo": "data/alpaca", "openwebtext-100k": "data/openwebtext"}
    config = json.loads((ROOT / "configs/jobs/dcu/lora-13b.json").read_text())
    assert config["dataset_name_or_path"] == folders["alpaca-demo"]
