"""Where the nodes of a job meet, as Paddle's launcher has to be told it.

The launcher (3.0.0b2, ``launch/controllers/master.py``) serves the meeting on the node whose
own address is the one in ``--master``, compared letter by letter. Where that is a name, as a
cluster gives it, no node serves and all wait for ever.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from entrypoints.console import note
from paddle_stacks.errors import MachineError

if TYPE_CHECKING:
    from entrypoints.launching import Nodes

__all__ = ["PATIENCE_SECONDS", "own_address", "with_address"]

PATIENCE_SECONDS = 900
"""How long a name may be unknown: the first node's image may have to be pulled first."""

_LOOK_AGAIN_SECONDS = 2

Resolve = Callable[[str], str]


def with_address(
    nodes: Nodes,
    *,
    resolve: Resolve | None = None,
    own: Callable[[], str] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Nodes:
    """Return the nodes with an address in the place of the name where they meet.

    Args:
        nodes: which there are.
        resolve: returns a name's IPv4 address, or raises an OSError.
        own: returns this node's address, as the launcher takes it.
        pause: waits so many seconds.

    Raises:
        MachineError: the name is not known, or the nodes would wait for each other for ever.
    """
    host, _, port = nodes.master.rpartition(":")
    if nodes.count == 1 or nodes.master.startswith("etcd://") or host.startswith("127."):
        return nodes
    address = host if _is_address(host) else _address(host, resolve or socket.gethostbyname, pause)
    _check_own(nodes, address, (own or own_address)())
    return replace(nodes, master=f"{address}:{port}")


def own_address() -> str:
    """Return what the launcher takes for this node's address (``launch/context/node.py``)."""
    try:
        return socket.gethostbyname(socket.getfqdn(socket.gethostname()))
    except OSError:
        return "127.0.0.1"


def _is_address(host: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+){3}", host) is not None


def _address(host: str, resolve: Resolve, pause: Callable[[float], None]) -> str:
    """Return a name's address, as soon as it has one."""
    for tried in range(PATIENCE_SECONDS // _LOOK_AGAIN_SECONDS):
        try:
            return resolve(host)
        except OSError:
            if tried == 0:
                note(f"waiting for the first node: {host} has no address yet")
            pause(_LOOK_AGAIN_SECONDS)
    raise MachineError(
        f"{host}, where the nodes are to meet, has no address after {PATIENCE_SECONDS} s",
        where="--master",
        remedy="does the first node run, and is its name known here? An address does as well",
    )


def _check_own(nodes: Nodes, address: str, own: str) -> None:
    if own.startswith("127."):
        raise MachineError(
            f"this node takes {own} for its own address, at which no other node reaches it",
            where=socket.gethostname(),
            remedy="give its line in /etc/hosts the address that the others see",
        )
    if nodes.rank == 0 and address != own:
        raise MachineError(
            f"the nodes are to meet at {address}, and node 0 takes {own} for its own address:"
            " nobody would serve there",
            where=f"--master {nodes.master}",
            remedy="name that address, or correct node 0's line in /etc/hosts",
        )
