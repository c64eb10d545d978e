"""Seeded faults, and the relay that gives containers the code that has them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
SOURCE = '''\
"""At least 3 lines."""


def first(path, limit: "1" = 4):
    if (
        len(path) < limit
        or not path
    ):
        raise ValueError(f"{limit + 1}")
    path.rename(
        "other"
    )
    return path in (limit, True)
'''


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.syspath_prepend(str(BENCH / "hooks"))


def test_the_faults_of_a_module() -> None:
    import mutants

    found = mutants.Finder("plan", "module.py", SOURCE).mutants
    assert {
        (m.line, m.kind, m.old if "\n" not in m.old else "…", m.new.strip()) for m in found
    } == {
        (4, "constant", "4", "5"),
        (6, "check skipped", "…", "(False\n)"),
        (6, "comparison turned", "<", ">="),
        (6, "boundary moved", "<", "<="),
        (10, "call left out", "…", "pass"),
        (13, "comparison turned", "in", "not in"),
        (13, "constant", "True", "False"),
    }


def test_a_fault_is_applied_where_its_line_has_moved(tmp_path: Path) -> None:
    import mutants

    path = tmp_path / "module.py"
    for mutant in mutants.Finder("plan", "module.py", SOURCE).mutants:
        path.write_text(f"# another line\n{SOURCE}")
        assert mutant.locate(tmp_path) == mutant.line + 1
        assert mutant.apply(tmp_path)
        assert path.read_text().count("\n") == SOURCE.count("\n") + 1
        assert path.read_text() != f"# another line\n{SOURCE}"
    path.write_text("")
    assert not mutant.apply(tmp_path)


def test_a_seed_gives_the_same_faults_in_all_areas(tmp_path: Path) -> None:
    import mutants

    for patterns, _ in mutants.AREAS.values():
        path = tmp_path / patterns[0].replace("*", "one")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOURCE)
    chosen = mutants.choose(tmp_path, seed=1, count=28)
    assert chosen == mutants.choose(tmp_path, seed=1, count=28)
    assert {mutant.area for mutant in chosen} == set(mutants.AREAS)
    assert len({(mutant.file, mutant.line) for mutant in chosen}) == 28


def test_the_listed_faults_are_enough_and_of_all_areas() -> None:
    import mutants

    listed = [mutants.Mutant(**entry) for entry in json.loads(mutants.LIST.read_text())]
    assert len(listed) >= 30
    assert {mutant.area for mutant in listed} == set(mutants.AREAS)
    assert {mutant.kind for mutant in listed} == set(mutants.KINDS)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """A socket that records what it receives, and answers each request alike."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "e"))
    server.listen()
    received: list[bytes] = []

    def serve() -> None:
        connection, _ = server.accept()
        while chunk := connection.recv(1 << 16):
            received.append(chunk)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    threading.Thread(target=serve, daemon=True).start()
    yield str(tmp_path / "e"), received
    server.close()


def test_the_relay_adds_mounts_to_new_containers_only(
    engine: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    import measured_pytest

    path, received = engine
    mounts = ["/code:/opt/code:ro", "/data:/data"]

    def edit(document: dict[str, Any]) -> None:
        measured_pytest.add_mounts(document, mounts, tmp_path / "r", path)

    measured_pytest.Relay(tmp_path / "r", path, edit)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(tmp_path / "r"))
    wanted = {"Image": "x", "HostConfig": {"Binds": [f"{path}:/socket", "/mine:/data"]}}
    for target in ("/v1.45/containers/create?name=x", "/v1.45/containers/x/start"):
        connection.request("POST", target, json.dumps(wanted))
        assert connection.getresponse().read() == b"{}"
    connection.request("POST", "/load", iter([b"two", b"parts"]), encode_chunked=True)
    assert connection.getresponse().read() == b"{}"
    sent = b"".join(received)
    first, second = (json.loads(part[: part.rindex(b"}") + 1]) for part in _bodies(sent)[:2])
    assert first["HostConfig"]["Binds"] == [
        f"{tmp_path / 'r'}:/socket",
        "/mine:/data",
        "/code:/opt/code:ro",
    ]
    assert second == wanted
    assert sent.endswith(b"3\r\ntwo\r\n5\r\nparts\r\n0\r\n\r\n")


def _bodies(sent: bytes) -> list[bytes]:
    return sent.split(b"\r\n\r\n")[1:]
