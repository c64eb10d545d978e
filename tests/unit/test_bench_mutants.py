"""Seeded faults, and the relay that gives containers the code that has them."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

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


def test_the_relay_adds_mounts_to_new_containers_only(tmp_path: Path) -> None:
    import measured_pytest

    engine, relay = tmp_path / "e", tmp_path / "r"
    received: list[bytes] = []

    def receive() -> None:
        connection, _ = server.accept()
        with connection:
            while chunk := connection.recv(1 << 16):
                received.append(chunk)
            connection.sendall(b"the answer")

    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(engine))
        server.listen()
        threading.Thread(target=receive, daemon=True).start()
        measured_pytest.Relay(
            relay,
            str(engine),
            lambda document: measured_pytest.add_mounts(
                document, ["/code:/opt/code:ro", "/data:/data"], relay, str(engine)
            ),
        )
        client.settimeout(30)
        client.connect(str(relay))
        wanted = {"Image": "x", "HostConfig": {"Binds": [f"{engine}:/socket", "/mine:/data"]}}
        body = json.dumps(wanted).encode()
        sized = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        others = b"POST /v1.45/containers/x/start HTTP/1.1\r\n" + sized
        others += b"POST /load HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"
        others += b"POST /attach HTTP/1.1\r\nUpgrade: tcp\r\n\r\nPOST /containers/create \r\n"
        client.sendall(b"POST /v1.45/containers/create?name=x HTTP/1.1\r\n" + sized + others)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(64) == b"the answer"
    sent = b"".join(received)
    assert sent.endswith(others)
    head, _, changed = sent.removesuffix(others).partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(changed) in head
    mounts = [f"{relay}:/socket", "/mine:/data", "/code:/opt/code:ro"]
    assert json.loads(changed) == {"Image": "x", "HostConfig": {"Binds": mounts}}
