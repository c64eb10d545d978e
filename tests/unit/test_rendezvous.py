"""How nodes meet, what keeps them from it, and how each notices that another is gone."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from entrypoints.runtime import rendezvous
from entrypoints.runtime.nodes import Nodes
from entrypoints.runtime.rendezvous import Loss, RendezvousGroup, join
from paddle_stacks.errors import JobError, MachineError, RequestError, StackError, Stopped

SETTINGS = b'{"--nnodes": 2, "--ranks": 1, "--name": "j", "the checkpoint": "none"}'


class Meeting:
    """Nodes on this machine, each in a thread whose name is the node's own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.met: dict[str, RendezvousGroup] = {}
        self.failed: dict[str, StackError] = {}
        self.stack = ExitStack()
        self._threads: list[threading.Thread] = []

    def nodes(self, count: int, rank: int | None, wait: float = 30) -> Nodes:
        return Nodes(count, f"127.0.0.1:{self.port}", rank, wait)

    def come(
        self, name: str, nodes: Nodes, ranks: int = 1, job: str = "j", resume: str = "none"
    ) -> None:
        """Let a node come; it meets the others in the background."""

        def enter() -> None:
            try:
                same = {"the checkpoint": resume}
                peers = self.stack.enter_context(join(nodes, ranks, job, same))
            except StackError as error:
                self.failed[name] = error
            else:
                assert peers is not None
                self.met[name] = peers

        thread = threading.Thread(target=enter, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def come_all(self, **nodes: Nodes) -> None:
        for name, given in nodes.items():
            self.come(name, given)
        self.settle()

    def settle(self) -> None:
        """Wait until each has met the others or given up."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), thread.name

    def tend(self, *names: str, until: Callable[[], Any]) -> None:
        """Let nodes tend their connections until something is so."""
        end = time.monotonic() + 30
        while not until():
            assert time.monotonic() < end
            for name in names or self.met:
                self.met[name].poll(0.01)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    monkeypatch.setattr(socket, "gethostname", lambda: threading.current_thread().name)
    monkeypatch.setattr(socket, "getfqdn", lambda name="": name)
    monkeypatch.setattr(rendezvous, "_RETRY_SECONDS", 0.05)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        made = Meeting(probe.getsockname()[1])
    with made.stack:
        yield made


def text_of(error: StackError) -> str:
    return " | ".join(f"{p.what} | {p.where} | {p.remedy}" for p in error.problems)


def saying(at: Meeting, *lines: bytes) -> socket.socket:
    """Connect as somebody who says these lines, when node 0 is there."""
    end = time.monotonic() + 30
    while True:
        try:
            made = socket.create_connection(("127.0.0.1", at.port), 5)
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.01)
    made.sendall(b"".join(lines))
    return made


def test_all_are_given_one_address_for_the_launcher(
    at: Meeting, capsys: pytest.CaptureFixture[str]
) -> None:
    at.come_all(a=at.nodes(3, 0), b=at.nodes(3, 2), c=at.nodes(3, 1))
    assert [at.met[name].nodes.rank for name in "abc"] == [0, 2, 1]
    (master,) = {peers.nodes.master for peers in at.met.values()}
    assert master.startswith("127.0.0.1:") and master != f"127.0.0.1:{at.port}"
    said = capsys.readouterr().err
    assert "1 of 3 nodes are connected: a; waiting for 2\n" in said
    assert "3 of 3 nodes are connected: a, b, c\n" in said


def test_nodes_that_were_not_told_their_rank_are_ranked_by_name(at: Meeting) -> None:
    at.come("first", at.nodes(4, None))
    saying(at).close()  # so that it is there, and the port is taken
    at.come_all(b=at.nodes(4, None), c=at.nodes(4, 1), a=at.nodes(4, None))
    assert {n: peers.nodes.rank for n, peers in at.met.items()} == {
        "first": 0,
        "a": 2,
        "b": 3,
        "c": 1,
    }


@pytest.mark.parametrize(
    ("changes", "told", "said"),
    [
        ({"count": 4}, {}, "--nnodes is 4 on b, but 3 on node 0 (a)"),
        ({}, {"ranks": 8}, "--ranks is 8 on b, but 1 on node 0 (a)"),
        ({}, {"job": "other"}, "--name is other on b, but j on node 0 (a)"),
        ({}, {"resume": "c-20"}, "the checkpoint is c-20 on b, but none on node 0 (a)"),
        ({"rank": 2}, {}, "b has the rank 2, which c already has"),
    ],
)
def test_nodes_that_were_told_what_does_not_go_together(
    at: Meeting,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    told: dict[str, Any],
    said: str,
) -> None:
    at.come("a", at.nodes(3, 0))
    at.come("c", at.nodes(3, 2))
    while "a, c; waiting for 1" not in capsys.readouterr().err:
        time.sleep(0.01)
    at.come("b", replace(at.nodes(3, 1), **changes), **told)
    while "b" not in at.failed:
        time.sleep(0.01)
    at.come_all(late=at.nodes(3, 1))  # the others do not mind
    assert set(at.met) == {"a", "c", "late"}
    error = at.failed["b"]
    assert isinstance(error, RequestError) and said in text_of(error)
    assert "b was rejected" in capsys.readouterr().err


def test_two_nodes_of_rank_0_on_one_machine(at: Meeting) -> None:
    at.come("a", at.nodes(2, 0))
    saying(at).close()
    at.come("b", at.nodes(2, 0))
    at.come("c", at.nodes(2, 1))
    at.settle()
    assert isinstance(at.failed["b"], MachineError)
    assert f"port {at.port} is in use" in text_of(at.failed["b"])


def test_node_0_alone_gives_up_and_says_so_to_those_that_are_there(at: Meeting) -> None:
    at.come_all(a=at.nodes(3, 0, wait=1), b=at.nodes(3, 1))
    for error in at.failed.values():
        assert isinstance(error, MachineError)
        assert "2 of 3 nodes are connected: a, b; the others did not connect within 1 s" in text_of(
            error
        )
    assert set(at.failed) == {"a", "b"} and "--wait" in text_of(at.failed["a"])


def test_a_node_without_node_0_gives_up(at: Meeting, capsys: pytest.CaptureFixture[str]) -> None:
    at.come_all(b=at.nodes(2, 1, wait=0.2))
    said = f"waiting for node 0 at 127.0.0.1:{at.port}: Connection refused"
    assert capsys.readouterr().err.count(said) == 1
    assert isinstance(at.failed["b"], MachineError)
    assert said in text_of(at.failed["b"]) and "within 0.2 s" in text_of(at.failed["b"])


@pytest.mark.parametrize("rank", [0, 1, None])
def test_a_name_that_nobody_knows(
    at: Meeting, capsys: pytest.CaptureFixture[str], rank: int | None
) -> None:
    at.come_all(a=Nodes(2, f"nowhere.invalid:{at.port}", rank, 0.2))
    assert capsys.readouterr().err.count("waiting for the master nowhere.invalid") == 1
    assert isinstance(at.failed["a"], MachineError)
    message = "the master nowhere.invalid does not resolve to an address after 0.2 s"
    assert message in text_of(at.failed["a"])


def test_a_name_that_is_known_later(at: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def later(host: str) -> str | None:
        asked.append(host)
        return "127.0.0.1" if len(asked) > 6 else None

    monkeypatch.setattr(rendezvous, "address_of", later)
    at.come_all(a=Nodes(2, f"late:{at.port}", 0, 30), b=Nodes(2, f"late:{at.port}", 1, 30))
    assert [at.met[name].nodes.rank for name in "ab"] == [0, 1]
    (master,) = {peers.nodes.master for peers in at.met.values()}
    assert master.startswith("127.0.0.1:"), "the launcher takes no name"


@pytest.mark.parametrize(
    ("master", "local", "own", "said"),
    [
        ("10.0.0.9", False, "10.0.0.1", "10.0.0.9, which is not an address of this machine"),
        ("10.0.0.1", True, "127.0.1.1", "own name resolves to 127.0.1.1"),
    ],
)
def test_names_that_do_not_lead_where_they_should(
    at: Meeting, monkeypatch: pytest.MonkeyPatch, master: str, local: bool, own: str, said: str
) -> None:
    monkeypatch.setattr(rendezvous, "address_of", lambda host: master)
    monkeypatch.setattr(rendezvous, "is_local", lambda address: local)
    monkeypatch.setattr("entrypoints.runtime.nodes.own_address", lambda: own)
    at.come_all(a=Nodes(2, f"head:{at.port}", 0, 1))
    assert isinstance(at.failed["a"], MachineError)
    assert said in text_of(at.failed["a"])


def test_an_own_name_that_the_others_cannot_use_is_told_on_every_node(
    at: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "address_of", lambda host: "10.0.0.1")
    monkeypatch.setattr("entrypoints.runtime.nodes.own_address", lambda: "127.0.1.1")
    at.come_all(b=Nodes(2, f"head:{at.port}", 1, 1))
    assert "own name resolves to 127.0.1.1" in text_of(at.failed["b"])
    assert "/etc/hosts" in text_of(at.failed["b"])


@pytest.mark.parametrize(
    ("last", "said"), [(b"", "b closed its connection"), (b'{"bye": true}\n', "b left")]
)
def test_a_node_that_left_can_come_again(
    at: Meeting, capsys: pytest.CaptureFixture[str], last: bytes, said: str
) -> None:
    at.come("a", at.nodes(3, 0))
    settings = {"--nnodes": 3, "--ranks": 1, "--name": "j", "the checkpoint": "none"}
    hello = {"settings": settings, "name": "b", "rank": 1}
    with saying(at, json.dumps(hello).encode() + b"\n") as gone:
        assert b"2 of 3 nodes are connected: a, b; waiting for 1" in gone.makefile("rb").readline()
        gone.sendall(last)
    at.come_all(b=at.nodes(3, 1), c=at.nodes(3, 2))
    assert set(at.met) == {"a", "b", "c"}
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "lines",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\n",
        b"[1, 2]\n",
        b"7\n",
        b"{}\n",
        b'{"settings": 5, "name": "b", "rank": 1}\n',
        b'{"settings": {"--nnodes": 2}, "name": "b", "rank": 1}\n',
        b'{"settings": %s, "name": "b", "rank": "x"}\n' % SETTINGS,
        b'{"settings": %s, "name": "b", "rank": [1]}\n' % SETTINGS,
        b'{"settings": %s, "name": "b", "rank": 5}\n' % SETTINGS,
        b"x" * 200_000,
        b"",
    ],
)
def test_who_is_no_node_is_not_counted(at: Meeting, lines: bytes) -> None:
    at.come("a", at.nodes(2, 0))
    with saying(at, lines):
        at.come("b", at.nodes(2, 1))
        at.settle()
    assert set(at.met) == {"a", "b"}


def test_a_node_that_ends_without_a_word_is_lost_to_all(at: Meeting) -> None:
    at.come_all(a=at.nodes(3, 0), b=at.nodes(3, 1), c=at.nodes(3, 2))
    for wire in at.met["b"]._connections():  # as its kernel does when it is killed
        wire.socket.shutdown(socket.SHUT_RDWR)
    at.tend("a", "c", until=lambda: at.met["c"].loss)
    for name in "ac":
        assert at.met[name].loss == Loss("node 1 (b)", "closed its connection"), name


def test_a_node_that_says_nothing_is_lost(at: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    at.come_all(a=at.nodes(2, 0), b=at.nodes(2, 1))
    monkeypatch.setattr(rendezvous, "SILENCE_SECONDS", 0.3)
    at.tend("a", until=lambda: at.met["a"].loss)
    assert at.met["a"].loss == Loss("node 1 (b)", "sent nothing for 0.3 s")
    at.tend("b", until=lambda: at.met["b"].loss)


def test_nodes_that_are_there_are_not_lost(at: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    at.come_all(a=at.nodes(2, 0), b=at.nodes(2, 1))
    monkeypatch.setattr(rendezvous, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(rendezvous, "_HEARTBEAT_SECONDS", 0.05)
    end = time.monotonic() + 2
    at.tend(until=lambda: time.monotonic() > end)
    assert at.met["a"].loss is None and at.met["b"].loss is None


@pytest.mark.parametrize("sayer", ["a", "b"])
def test_a_failure_and_a_stop_are_told_to_all(at: Meeting, sayer: str) -> None:
    at.come_all(a=at.nodes(3, 0), b=at.nodes(3, 1), c=at.nodes(3, 2))
    others = sorted({"a", "b", "c"} - {sayer})
    at.met[sayer].stop()
    at.tend(*others, until=lambda: all(at.met[name].stopped_by for name in others))
    at.met[sayer].fail("failed with status 7")
    at.tend(*others, until=lambda: all(at.met[name].loss for name in others))
    name = {"a": "node 0 (a)", "b": "node 1 (b)"}[sayer]
    for other in others:
        assert at.met[other].loss == Loss(name, "failed with status 7")
        assert at.met[other].stopped_by == name


@pytest.mark.parametrize(
    ("error", "loss", "stopped_by"),
    [
        (
            MachineError("no python", remedy="fix it"),
            Loss("node 1 (b)", "failed: no python"),
            "",
        ),
        (Stopped(15), None, "node 1 (b)"),
        (JobError("its own", remedy="fix it"), None, ""),
    ],
)
def test_a_node_that_leaves_with_an_error_says_so(
    at: Meeting, error: StackError, loss: Loss | None, stopped_by: str
) -> None:
    def meet_and_leave() -> None:
        with pytest.raises(type(error)), join(at.nodes(2, 1), 1, "j", {"the checkpoint": "none"}):
            raise error

    other = threading.Thread(target=meet_and_leave, name="b", daemon=True)
    other.start()
    at.come_all(a=at.nodes(2, 0))
    at.tend("a", until=lambda: not at.met["a"]._connections())
    other.join()
    assert (at.met["a"].loss, at.met["a"].stopped_by) == (loss, stopped_by)


def test_a_stop_after_a_failure_is_not_told(at: Meeting) -> None:
    at.come_all(a=at.nodes(2, 0), b=at.nodes(2, 1))
    at.met["b"].fail("failed with status 7")
    at.met["b"].stop()
    at.met["b"].close()
    at.tend("a", until=lambda: not at.met["a"]._connections())
    assert at.met["a"].loss == Loss("node 1 (b)", "failed with status 7")
    assert at.met["a"].stopped_by == ""


def test_one_that_takes_leave_is_not_lost(at: Meeting) -> None:
    at.come_all(a=at.nodes(3, 0), b=at.nodes(3, 1), c=at.nodes(3, 2))
    at.met["b"].close()
    at.tend("a", "c", until=lambda: len(at.met["a"]._connections()) == 1)
    at.met["a"].close()
    at.tend("c", until=lambda: not at.met["c"]._connections())
    assert at.met["a"].loss is None and at.met["c"].loss is None


def test_a_node_too_many_is_told_that_the_others_have_begun(
    at: Meeting, capsys: pytest.CaptureFixture[str]
) -> None:
    at.come_all(a=at.nodes(2, 0), b=at.nodes(2, 1))
    at.come("c", at.nodes(2, 1, wait=1))
    at.tend("a", until=lambda: "c" in at.failed)
    said = "node 0 (a) is already training with b: waiting until it has finished"
    assert said in text_of(at.failed["c"]) and said in capsys.readouterr().err
    assert at.met["a"].loss is None


def test_one_node_meets_nobody() -> None:
    with join(Nodes(), 8, "j") as peers:
        assert peers is None
    with join(Nodes(2, "etcd://h:2379", 0), 8, "j") as peers:
        assert peers is None, "Paddle's launcher does it by itself"
