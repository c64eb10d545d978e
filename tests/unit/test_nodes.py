"""What is said of the machines that train together, and what cannot be."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from entrypoints.runtime import nodes
from entrypoints.runtime.arguments import parse
from entrypoints.runtime.nodes import Nodes
from paddle_stacks.errors import MachineError, RequestError, StackError
from paddle_stacks.jobs.options import WAIT_SECONDS, UpstreamOptions


def of(line: str, **environ: str) -> Nodes:
    return Nodes.of(parse(UpstreamOptions, [*line.split(), "x.py"]), environ)


CLUSTER = {"PADDLE_NNODES": "2", "PADDLE_MASTER": "h:1", "PADDLE_TRAINER_ID": "1"}


@pytest.mark.parametrize(
    ("line", "environ", "expected"),
    [
        ("", {}, Nodes()),
        ("--nnodes 2 --master h:1 --rank 0", {}, Nodes(2, "h:1", 0)),
        ("--nnodes 2 --master h:1", {}, Nodes(2, "h:1", None)),
        ("--nnodes 2 --master h:1 --rank=-1", {}, Nodes(2, "h:1", None)),
        ("--nnodes 2 --master h:1 --rank 1 --wait 5", {}, Nodes(2, "h:1", 1, 5)),
        ("", CLUSTER, Nodes(2, "h:1", 1)),
        ("--rank 0", CLUSTER, Nodes(2, "h:1", 0)),
        ("--master other:7", CLUSTER, Nodes(2, "other:7", 1)),
        ("", {**CLUSTER, "PADDLE_RANK": "0"}, Nodes(2, "h:1", 0)),
        ("", {**CLUSTER, "PADDLE_TRAINER_ID": "-1"}, Nodes(2, "h:1", None)),
        ("--nnodes 1", {**CLUSTER, "PADDLE_TRAINER_ID": "0"}, Nodes(1, "", 0)),
        ("--master h:1", {}, Nodes()),
    ],
)
def test_nodes_by_arguments_or_else_by_variables(
    line: str, environ: dict[str, str], expected: Nodes
) -> None:
    assert of(line, **environ) == expected


@pytest.mark.parametrize(
    ("line", "environ", "what"),
    [
        ("--nnodes 2", {}, "--nnodes 2 requires --master"),
        ("--nnodes 2 --master h", {}, "requires --master"),
        ("--nnodes 2 --master h:", {}, "requires --master"),
        ("--nnodes 2 --master :29500", {}, "requires --master"),
        ("--nnodes 2 --master h:port", {}, "requires --master"),
        ("--nnodes 2 --master h:0", {}, "1 … 65535, got 0"),
        ("--nnodes 2 --master h:70000", {}, "1 … 65535, got 70000"),
        ("--nnodes 2 --master [fd00::1]:29500", {}, "requires a name or an IPv4 address"),
        ("--nnodes 2 --master http://h:29500", {}, "requires a name or an IPv4 address"),
        ("--nnodes 2 --master h:1 --rank 2", {}, "--rank must be in 0 … 1, got 2"),
        ("--nnodes 2 --master h:1 --rank=-2", {}, "--rank must be in 0 … 1, got -2"),
        ("--rank 1", {}, "--rank must be in 0 … 0, got 1"),
        ("", {"PADDLE_NNODES": "2:4"}, "a variable number of nodes (2:4) is not supported"),
        ("", {"PADDLE_NNODES": "two"}, '"two", not a number'),
        ("", {"PADDLE_NNODES": "0"}, "PADDLE_NNODES is 0"),
        ("", {**CLUSTER, "PADDLE_RANK": "one"}, '"one", not a number'),
        ("", {**CLUSTER, "PADDLE_RANK": "5"}, "--rank must be in 0 … 1, got 5"),
        ("--nnodes 2:4 --master h:1", {}, "a range of nodes"),
        ("--nnodes 0", {}, "at least 1"),
        ("--nnodes x", {}, "--nnodes"),
        ("--wait 0", {}, "--wait"),
    ],
)
def test_what_is_refused(line: str, environ: dict[str, str], what: str) -> None:
    with pytest.raises(RequestError) as caught:
        of(line, **environ)
    assert what in " | ".join(problem.what for problem in caught.value.problems)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        of("--nnodes 2 --rank 7")
    assert len(caught.value.problems) == 2


def test_etcd_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "--nnodes 2 --master etcd://h:2379 --rank 0"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError) as caught:
        of(line)
    assert "etcd3" in str(caught.value) and "--master HOST:PORT" in caught.value.problems[0].remedy
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert of(line).master == "etcd://h:2379"


@pytest.mark.parametrize(
    ("master", "own", "good"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "192.168.7.1", True),  # another network of the same machine
        ("127.0.0.1", "127.0.1.1", True),  # all nodes on this machine
        ("10.0.0.1", "127.0.1.1", False),
        ("10.0.0.1", None, False),  # no address at all: the launcher takes 127.0.0.1
    ],
)
def test_the_address_that_the_launcher_gives_to_the_others(
    monkeypatch: pytest.MonkeyPatch, master: str, own: str | None, good: bool
) -> None:
    monkeypatch.setattr(nodes, "address_of", lambda host: own)
    if good:
        nodes.check_own_address(master)
        return
    with pytest.raises(StackError) as caught:
        nodes.check_own_address(master)
    assert caught.value.status == 3
    assert "/etc/hosts" in caught.value.problems[0].remedy


def test_addresses_of_this_machine_and_of_another() -> None:
    assert nodes.is_local("127.0.0.1")
    assert not nodes.is_local("192.0.2.1"), "it is reserved for documentation"
    assert nodes.address_of("127.0.0.1") == "127.0.0.1"
    assert nodes.address_of("nowhere.invalid") is None
    assert nodes.address_of("x" * 80) is None, "a label of a name has up to 63 letters"


def test_the_names_of_a_nodes_files() -> None:
    assert Nodes().name == ""
    assert Nodes(2, "h:1", 0).name == "-0"
    assert Nodes(2, "h:1").name == f"-{socket.gethostname()}"
    assert Nodes().wait == WAIT_SECONDS
