"""What is somebody else's reaches a terminal, a log and a message without doing anything there."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from paddle_stacks.errors import RequestError, printable, render, without_login
from paddle_stacks.executors.docker import Lines, PrintableStream
from paddle_stacks.executors.record import LOG, RunRecord
from paddle_stacks.jobs.events import Event, parse

TITLE = "\x1b]0;owned\x07"
CLIPBOARD = "\x1b]52;c;cm0gLXJm\x07"
BIDI = "\u202egnp.exe\u2069"


@pytest.mark.parametrize(
    "text",
    [
        *(TITLE, CLIPBOARD, "\x1b[2J", "\x9b2J", "\x7f", "\x00", "\b\b\b", "over\rwritten"),
        *(BIDI, "\u2066", "\u200f", "\u2028", "\U000e0041", "\ud800"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(f"a{text}b")
    assert shown.isprintable() and shown.startswith("a") and shown.endswith("b")
    assert "\\" in shown, "it can be seen that something was there"


@pytest.mark.parametrize(
    "text", ["plain", "tabs\tand\nlines\r\n", "两 行", "émoji 🙂👩‍🔬", "a ▁▂█ b"]
)
def test_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_a_long_field_is_cut() -> None:
    assert printable("x" * 50, 10) == "xxxxxxxxxx… (40 more)"
    assert len(render(RequestError("x" * 10**6, remedy="fix it"))) < 5000


def test_a_message_with_a_name_from_a_file() -> None:
    error = RequestError(f"no {TITLE}", where=f"/m/{BIDI}", remedy="https://me:p@ss@host/x")
    assert render(error).replace("\n", "").isprintable()
    assert "p@ss" not in render(error) and "https://***@host/x" in render(error)


def test_a_result_on_a_terminal() -> None:
    sink = io.BytesIO()
    stream = PrintableStream(sink)
    for byte in f"两 {TITLE}🙂\r\n".encode() + b"\xe4\xb8":
        stream.write(bytes([byte]))
    stream.finish()
    assert sink.getvalue().decode() == "两 \\x1b]0;owned\\x07🙂\\r\n�"


def test_an_event_of_a_job() -> None:
    line = Event("note", {"text": f"a{TITLE}\n{BIDI}", "list": [TITLE], "number": 3}).encoded()
    event = parse(line)
    assert event is not None and event.fields["number"] == 3
    assert all(str(value).isprintable() for value in event.fields.values())
    assert parse("@event " + json.dumps({"kind": TITLE})).kind.isprintable()  # type: ignore[union-attr]
    assert Event("warning", {"text": TITLE}).plain().isprintable()


def test_a_line_without_an_end_is_cut() -> None:
    lines = Lines()
    found = [line for _ in range(40) for line in lines.feed(b"x" * 2**16)]
    assert found and sum(map(len, found)) > 2**20


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    user = f"{os.geteuid()}:{os.getegid()}"
    return RunRecord(tmp_path / "runs" / "x", tmp_path, {}, user)


def test_the_log_of_a_run(record: RunRecord, tmp_path: Path) -> None:
    record.write(f"a{TITLE}{BIDI}")
    record.write("x" * 10**6)
    text = (tmp_path / "runs" / "x" / LOG).read_text()
    assert text.replace("\n", "").isprintable() and len(text) < 11_000


def test_the_log_of_a_run_is_rotated(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddle_stacks.executors.record._MAX_LOG", 1000)
    for number in range(100):
        record.write(f"{number} {'x' * 90}")
    logs = sorted((tmp_path / "runs" / "x").glob(f"{LOG}*"))
    assert [path.name for path in logs] == [LOG, f"{LOG}.1"]
    assert all(path.stat().st_size < 1200 for path in logs)
    assert "99 xxx" in (tmp_path / "runs" / "x" / LOG).read_text()


@pytest.mark.parametrize("target", ["..", "../.git", "../paddle_stacks"])
def test_the_host_writes_to_no_folder_that_a_job_has_linked(target: str, tmp_path: Path) -> None:
    for name in ("runs", ".git", "paddle_stacks"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs" / "x").symlink_to(target)
    before = sorted(tmp_path.rglob("*"))
    RunRecord(tmp_path / "runs" / "x", tmp_path, {}, "0:0").write("from the job")
    assert sorted(tmp_path.rglob("*")) == before


def test_runs_on_another_disk_keep_their_log(tmp_path: Path) -> None:
    (tmp_path / "big" / "x").mkdir(parents=True)
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "runs").symlink_to(tmp_path / "big")
    user = f"{os.geteuid()}:{os.getegid()}"
    RunRecord(tmp_path / "ws" / "runs" / "x", tmp_path / "ws", {}, user).write("line")
    assert (tmp_path / "big" / "x" / LOG).read_text() == "line\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/simple", "https://***@host/simple"),
        ("HTTPS://me:pw@host", "HTTPS://***@host"),
        ("http://token@host/x", "http://***@host/x"),
        ("http://me:p@ss@host/x", "http://***@host/x"),
        ("http://me:p/w@host/x", "http://***@host/x"),
        ("http://me:p?w#@host/x", "http://***@host/x"),
        ("http://me:8080x@host", "http://***@host"),
        ("http://:pw@host", "http://***@host"),
        ("//me:pw@host/x", "//***@host/x"),
        ("socks5h://me:pw@[::1]:1080", "socks5h://***@[::1]:1080"),
        ("git+ssh://git:pw@host/x.git", "git+ssh://***@host/x.git"),
        ("me:pw@proxy:3128", "***@proxy:3128"),
        ("me:p@ss@proxy:3128", "***@proxy:3128"),
        ("http_proxy=me:pw@proxy:3128", "http_proxy=***@proxy:3128"),
        ("a http://a:b@h b http://c:d@i/", "a http://***@h b http://***@i/"),
        ("https://host/x?token=abc&y=1", "https://host/x?token=***&y=1"),
        ("https://host/x?y=1&access_token=abc#z", "https://host/x?y=1&access_token=***#z"),
        ("https://host:8443/simple/@scope/x", "https://host:8443/simple/@scope/x"),
        ("https://host/a@b", "https://host/a@b"),
        ("paddle:2.6@sha256:abc", "paddle:2.6@sha256:abc"),
        ("registry:5000/paddle@sha256:abc", "registry:5000/paddle@sha256:abc"),
        ("localhost,127.0.0.1", "localhost,127.0.0.1"),
    ],
)
def test_a_login_in_any_form_is_hidden(text: str, shown: str) -> None:
    assert without_login(text) == shown
