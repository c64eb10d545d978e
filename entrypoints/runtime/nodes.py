"""The nodes of a distributed run: their number, rank and addresses."""

from __future__ import annotations

import importlib.util
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.jobs.options import WAIT_SECONDS, NodeOptions, node_problems

__all__ = ["ETCD", "Nodes", "address_of", "check_own_address", "is_local", "own_address"]

ETCD = "etcd://"

_HOSTS_FILE = "set this machine's line in /etc/hosts to the address that the other nodes use"


@dataclass(frozen=True)
class Nodes:
    """The nodes of a run.

    Args:
        count: the number of nodes.
        master: node 0, as HOST:PORT; empty for a single node.
        rank: of this node; None: assigned during the rendezvous.
        wait: seconds to wait for the other nodes.
    """

    count: int = 1
    master: str = ""
    rank: int | None = None
    wait: float = WAIT_SECONDS

    @property
    def name(self) -> str:
        """Suffix of this node's file names; empty for a single node."""
        if self.count == 1:
            return ""
        return f"-{socket.gethostname() if self.rank is None else self.rank}"

    @classmethod
    def of(cls, arguments: NodeOptions, environ: Mapping[str, str]) -> Nodes:
        """Return the nodes from the arguments, or else from a cluster's environment variables.

        Args:
            arguments: with ``nnodes``, ``master``, ``rank`` and ``wait``.
            environ: the environment variables.

        Raises:
            RequestError: settings are missing or invalid; all faults at once.
            MachineError: etcd is requested and its package is not installed.
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
                "rendezvous through etcd requires the Python package etcd3, which is not installed",
                where=f"--master {master}",
                remedy="use --master HOST:PORT with an address of node 0, which needs no etcd",
            )
        # -1 is the launcher's own value for "not set".
        return cls(count, master, None if rank == -1 else rank, arguments.wait)


def address_of(host: str) -> str | None:
    """Return the IPv4 address of a host name; None if it does not resolve."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError):
        return None


def own_address() -> str:
    """Return the address that Paddle's launcher (3.0.0b2, context/node.py) uses as its own.

    It sends this address to the other nodes, and has no option for another one.
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
    """Check that the other nodes can reach this machine at its own address.

    Args:
        master: the address of node 0. A loopback address means that all nodes are on this machine.

    Raises:
        MachineError: the own address is a loopback address.
    """
    own = own_address()
    if own.startswith("127.") and not master.startswith("127."):
        raise MachineError(
            f"this machine's own name resolves to {own}, where no other node can reach it",
            where=f"{socket.getfqdn(socket.gethostname())}, with node 0 at {master}",
            remedy=_HOSTS_FILE,
        )


def _count(environ: Mapping[str, str], name: str) -> int | None:
    """Return the number of nodes from a variable."""
    text = environ.get(name, "").strip()
    if re.fullmatch(r"\d+:\d+", text):
        raise RequestError(
            f"a variable number of nodes ({text}) is not supported",
            where=f"{name} in the environment",
            remedy=f"set {name}={text.rpartition(':')[2]}; a run that lost a node continues "
            "from its last checkpoint when the node is back",
        )
    number = _number(environ, name)
    if number is not None and number < 1:
        raise RequestError(
            f"{name} is {number}", where="environment", remedy=f"set {name} to 1 or more"
        )
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
