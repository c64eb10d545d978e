"""The machines that train together: what is said of them, and whether they can meet."""

from __future__ import annotations

import argparse
import importlib.util
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs.arguments import WAIT_SECONDS
from paddle_stacks.jobs.validation import node_problems

__all__ = ["ETCD", "Nodes", "address_of", "check_own_address", "is_local", "own_address"]

ETCD = "etcd://"

_HOSTS_FILE = "correct this machine's line in /etc/hosts: the address that the other nodes see"


@dataclass(frozen=True)
class Nodes:
    """The machines that train together.

    Args:
        count: how many.
        master: where they meet, as HOST:PORT; empty for one machine.
        rank: which of them this is; None: they find that out.
        wait: seconds that one waits for the others.
    """

    count: int = 1
    master: str = ""
    rank: int | None = None
    wait: float = WAIT_SECONDS

    @property
    def name(self) -> str:
        """What tells this node's files from another's: empty for one node."""
        if self.count == 1:
            return ""
        return f"-{socket.gethostname() if self.rank is None else self.rank}"

    @classmethod
    def of(cls, arguments: argparse.Namespace, environ: Mapping[str, str]) -> Nodes:
        """Return what the arguments say, or else what a cluster put into the environment.

        Args:
            arguments: with ``nnodes``, ``master``, ``rank`` and ``wait``.
            environ: the variables.

        Raises:
            RequestError: it is not complete, or cannot be; all reasons at once.
            MachineError: etcd is asked for and its package is not there.
        """
        count = arguments.nnodes or _count(environ, "PADDLE_NNODES") or 1
        master = (arguments.master or environ.get("PADDLE_MASTER", "")) if count > 1 else ""
        rank = arguments.rank
        for variable in ("PADDLE_RANK", "PADDLE_TRAINER_ID"):
            rank = _number(environ, variable) if rank is None else rank
        if problems := node_problems(count, master, rank):
            raise RequestError(problems)
        if master.startswith(ETCD) and importlib.util.find_spec("etcd3") is None:
            raise MachineError(
                "nodes that meet through etcd need the Python package etcd3, which is not here",
                where=f"--master {master}",
                remedy="--master HOST:PORT with an address of node 0: no etcd is needed",
            )
        # The launcher's own -1 means that nobody has said it.
        return cls(count, master, None if rank == -1 else rank, arguments.wait)


def address_of(host: str) -> str | None:
    """Return the IPv4 address of a name; None if it has none."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError):
        return None


def own_address() -> str:
    """Return the address that Paddle's launcher (3.0.0b2, context/node.py) takes for its own.

    It gives this one to the other nodes, and has no option for another.
    """
    return address_of(socket.getfqdn(socket.gethostname())) or "127.0.0.1"


def is_local(address: str) -> bool:
    """Return whether an IPv4 address is one of this machine's."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def check_own_address(master: str) -> None:
    """Check that the other nodes can use the address that this machine gives to them.

    Args:
        master: the address of node 0. A loopback one means that all nodes are on this machine.

    Raises:
        MachineError: it leads every other machine to itself.
    """
    own = own_address()
    if own.startswith("127.") and not master.startswith("127."):
        raise MachineError(
            f"this machine's own name leads to {own}, where no other node can reach it",
            where=f"{socket.getfqdn(socket.gethostname())}, among nodes that meet at {master}",
            remedy=_HOSTS_FILE,
        )


def _count(environ: Mapping[str, str], name: str) -> int | None:
    """Return how many nodes a variable says."""
    text = environ.get(name, "").strip()
    if re.fullmatch(r"\d+:\d+", text):
        raise RequestError(
            f"{text} nodes: a number that changes is not supported",
            where=f"{name} in the environment",
            remedy=f"{name}={text.rpartition(':')[2]}; a run whose node is lost goes on from its "
            "last checkpoint when the node is back",
        )
    number = _number(environ, name)
    if number is not None and number < 1:
        raise RequestError(f"{name} is {number}", where="environment", remedy="1 or more")
    return number


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise RequestError(
            f'{name} is "{text}", not a number',
            where="environment",
            remedy=f"set {name} to a number, or unset it",
        ) from None
