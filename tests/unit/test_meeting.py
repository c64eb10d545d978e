"""Where nodes meet: a name becomes an address, and what would never end is told at once."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from entrypoints import launching, meeting
from entrypoints.launching import Nodes
from paddle_stacks.errors import MachineError

KNOWN = {"first.job": "10.0.0.5"}


def resolve(name: str) -> str:
    if name not in KNOWN:
        raise socket.gaierror("Name or service not known")
    return KNOWN[name]


@pytest.mark.parametrize(
    ("nodes", "own", "master"),
    [
        (Nodes(2, "first.job:36543", 0), "10.0.0.5", "10.0.0.5:36543"),
        (Nodes(2, "first.job:36543", 1), "10.0.0.6", "10.0.0.5:36543"),
        (Nodes(2, "first.job:36543"), "10.0.0.6", "10.0.0.5:36543"),
        (Nodes(2, "10.0.0.5:1", 0), "10.0.0.5", "10.0.0.5:1"),
        (Nodes(2, "10.0.0.5:1", 1), "10.0.0.6", "10.0.0.5:1"),
        (Nodes(2, "etcd://store:2379", 0), "127.0.1.1", "etcd://store:2379"),
        (Nodes(2, "127.0.0.1:1", 0), "127.0.0.1", "127.0.0.1:1"),
        (Nodes(), "127.0.1.1", ""),
    ],
)
def test_the_launcher_gets_an_address(nodes: Nodes, own: str, master: str) -> None:
    found = meeting.with_address(nodes, resolve=resolve, own=lambda: own)
    assert found == Nodes(nodes.count, master, nodes.rank)


@pytest.mark.parametrize(
    ("nodes", "own", "said"),
    [
        (Nodes(2, "first.job:1", 0), "10.0.0.9", "nobody would serve"),
        (Nodes(2, "10.0.0.5:1", 0), "10.0.0.9", "nobody would serve"),
        (Nodes(2, "first.job:1", 0), "127.0.1.1", "no other node reaches it"),
        (Nodes(2, "first.job:1", 1), "127.0.1.1", "no other node reaches it"),
        (Nodes(2, "10.0.0.5:1"), "127.0.0.1", "no other node reaches it"),
    ],
)
def test_what_would_never_end(nodes: Nodes, own: str, said: str) -> None:
    with pytest.raises(MachineError, match=said) as caught:
        meeting.with_address(nodes, resolve=resolve, own=lambda: own)
    assert caught.value.problems[0].remedy


def test_a_name_that_is_known_later(capsys: pytest.CaptureFixture[str]) -> None:
    waited: list[float] = []

    def later(name: str) -> str:
        if len(waited) < 3:
            raise socket.gaierror("not yet")
        return "10.0.0.5"

    nodes = Nodes(2, "late:1", 1)
    found = meeting.with_address(nodes, resolve=later, own=lambda: "10.0.0.6", pause=waited.append)
    assert found.master == "10.0.0.5:1" and len(waited) == 3
    assert capsys.readouterr().err.count("late has no address yet") == 1


def test_a_name_that_nobody_knows() -> None:
    waited: list[float] = []
    with pytest.raises(MachineError, match="has no address after 900 s"):
        meeting.with_address(
            Nodes(2, "nowhere:1", 1), resolve=resolve, own=lambda: "10.0.0.6", pause=waited.append
        )
    assert sum(waited) == meeting.PATIENCE_SECONDS


def test_every_launch_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(
        launching, "carry_out", lambda argv, *rest, **more: started.append(list(argv))
    )
    monkeypatch.setattr(meeting.socket, "gethostbyname", lambda name: "10.0.0.5")
    launching.launch(
        ["p.py"], {}, "it", tmp_path, ranks=1, nodes=Nodes(2, "first.job:7", 0), job="j"
    )
    (argv,) = started
    assert argv[argv.index("--master") + 1] == "10.0.0.5:7"
