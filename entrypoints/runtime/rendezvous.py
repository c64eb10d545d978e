"""How the nodes of a run meet, and how each notices that another is gone.

Paddle's own rendezvous waits for a missing node forever and without a word, takes two nodes
of one rank for two nodes, and says nothing of a node that is lost later. So the nodes meet
here first: node 0 listens at the master's port, the others connect and say what they were
told. When all are there node 0 gives them the address at which Paddle's launcher is to meet.
The connections stay for as long as the run: both ends say something every few seconds, so
that silence means a loss, and what ends a node's run is told to all of them.

Every message is a JSON object on a line of its own. As with Paddle's own, whoever reaches
the port can take part: it is for a network that is the nodes' own.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from entrypoints.runtime.console import note
from entrypoints.runtime.nodes import (
    ETCD,
    Nodes,
    address_of,
    check_own_address,
    is_local,
    own_address,
)
from paddle_stacks.errors import MachineError, Problem, RequestError, StackError, Stopped

__all__ = ["PORTS", "SILENCE_SECONDS", "Loss", "Peers", "meet"]

SILENCE_SECONDS = 30.0
"""A node that has said nothing for so long is lost."""

_BEAT_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_AGAIN_SECONDS = 0.5
_LONGEST = 64 * 1024
PORTS = "all TCP ports from 1024 have to be open between the nodes"

_Message = dict[str, Any]


@dataclass(frozen=True)
class Loss:
    """A node that is gone, so that the run cannot go on.

    Args:
        node: which, as ``node 1 (its name)``.
        why: what it did, as ``has not been heard for 30 s``.
    """

    node: str
    why: str


class Peers(ABC):
    """The other nodes, from when all have met until the end.

    Attributes:
        nodes: what Paddle's launcher is to be told.
        loss: the first node that was lost; None as long as all are there.
        stopped_by: the node that was told to stop, if one was.
    """

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.loss: Loss | None = None
        self.stopped_by = ""
        self._failed = False
        self._selector = selectors.DefaultSelector()
        self._beat = time.monotonic()

    def tend(self, seconds: float) -> None:
        """Listen to the others for at most so long, and let them know that this one is there."""
        for key, _ in self._selector.select(seconds):
            self._ready(key.fileobj)
        now = time.monotonic()
        if now - self._beat >= _BEAT_SECONDS:
            self._beat = now
            for wire in self._wires():
                wire.say()
        for wire in self._wires():
            if wire.broken:
                self._gone(wire, "has ended its connection")
            elif now - wire.heard > SILENCE_SECONDS:
                self._gone(wire, f"has not been heard for {SILENCE_SECONDS:g} s")

    def stop(self) -> None:
        """Tell the others that this node was told to stop, unless they know that it failed."""
        if self._failed:
            return
        for wire in self._wires():
            wire.say(stop=self._own_name())

    def fail(self, why: str) -> None:
        """Tell the others that this node cannot go on.

        Args:
            why: what went wrong, as ``failed with status 1``.
        """
        self._failed = True
        for wire in self._wires():
            wire.say(failed=why)

    def close(self) -> None:
        """Take leave of the others, for whom this is no loss."""
        for wire in self._wires():
            wire.say(bye=True)
            self._hang_up(wire)
        self._selector.close()

    @abstractmethod
    def _ready(self, connection: Any) -> None:
        """Take what has come on a connection."""

    @abstractmethod
    def _wires(self) -> list[_Wire]:
        """Return the connections to nodes that have met."""

    @abstractmethod
    def _gone(self, wire: _Wire, why: str) -> None:
        """Take note of the end of a connection."""

    @abstractmethod
    def _own_name(self) -> str:
        """Return how messages call this node."""

    @abstractmethod
    def _hang_up(self, wire: _Wire) -> None:
        """End a connection, and forget it."""

    def _drop(self, wire: _Wire) -> None:
        self._selector.unregister(wire.socket)
        wire.socket.close()

    def _lose(self, node: str, why: str) -> None:
        self.loss = self.loss or Loss(node, why)


class _Wire:
    """A connection on which both ends say JSON objects, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_CONNECT_SECONDS)
        self.socket = connection
        self.heard = time.monotonic()
        self.broken = False
        self._rest = b""

    def say(self, **message: Any) -> None:
        """Send a message; an empty one says that this end is there."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.broken = True

    def hear(self) -> list[_Message]:
        """Return the messages that have come; what is none breaks the connection."""
        try:
            new = self.socket.recv(_LONGEST)
        except OSError:
            new = b""
        *lines, self._rest = (self._rest + new).split(b"\n")
        self.broken |= not new or len(self._rest) > _LONGEST
        self.heard = time.monotonic()
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            self.broken = True
            return []
        self.broken |= not all(isinstance(message, dict) for message in messages)
        return [message for message in messages if isinstance(message, dict)]


@contextmanager
def meet(
    nodes: Nodes, ranks: int, job: str, same: Mapping[str, str] | None = None
) -> Iterator[Peers | None]:
    """Wait for all nodes, and keep in touch with them.

    Args:
        nodes: as this one was told.
        ranks: processes on each.
        job: what the nodes call the run.
        same: what else has to be the same on all, by what it is called.

    Yields:
        the others; None for one node, and where nodes meet through etcd, as Paddle does it.

    Raises:
        MachineError: a name does not lead where it should, or nodes do not come in time.
        RequestError: the nodes were told what does not go together.
    """
    if nodes.count == 1 or nodes.master.startswith(ETCD):
        yield None
        return
    told = {"--nnodes": nodes.count, "--ranks": ranks, "--name": job, **(same or {})}
    own = {"name": socket.gethostname(), "told": told}
    peers = _met(nodes, own)
    try:
        yield peers
    except MachineError as error:
        peers.fail(f"cannot go on: {error}")
        raise
    except Stopped:
        peers.stop()
        raise
    finally:
        peers.close()


def _met(nodes: Nodes, own: _Message) -> Peers:
    end = time.monotonic() + nodes.wait
    host, _, port = nodes.master.rpartition(":")
    address = _found(host, nodes, end)
    if nodes.rank == 0 and not is_local(address):
        raise MachineError(
            f"{host} leads to {address}, which is no address of this machine; node 0 has to be "
            "there",
            where=f"--master {nodes.master} --rank 0",
            remedy="name an address of this machine, or give --rank 0 to the one that is named",
        )
    check_own_address(address)
    if nodes.rank in (0, None) and is_local(address):
        listener = _listen(int(port))
        if listener is not None:
            return _First(nodes, own, listener, end)
        if nodes.rank == 0:
            raise MachineError(
                f"port {port} is taken on this machine, which is node 0",
                where=f"--master {nodes.master}",
                remedy="another port, the same on all nodes; or end what has it: ss -ltnp",
            )
    return _Other(nodes, own, end)


def _found(host: str, nodes: Nodes, end: float) -> str:
    """Return the address of a name as soon as it has one, as a container's has when it runs.

    That goes for node 0 as well: a cluster can know the names of its pods later than they do.
    """
    address = address_of(host)
    if address is None:
        note(f"waiting for {host}, where the nodes are to meet: it has no address yet")
    while address is None:
        if time.monotonic() > end:
            raise MachineError(
                f"{host}, where the nodes are to meet, has no address after {nodes.wait:g} s",
                where=f"--master {nodes.master}",
                remedy="start node 0, and see that its name is known here: getent hosts "
                f"{host}; an address does as well",
            )
        time.sleep(_AGAIN_SECONDS)
        address = address_of(host)
    return address


def _listen(port: int) -> socket.socket | None:
    """Return a socket that listens at a port; None if another has it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("", port))
        listener.listen()
    except OSError:
        listener.close()
        return None
    return listener


@dataclass(frozen=True)
class _Member:
    rank: int | None
    name: str

    def __str__(self) -> str:
        return f"node {self.rank} ({self.name})"


class _First(Peers):
    """Node 0, to which the others connect.

    Args:
        nodes: as this node was told.
        own: what this node was told, as the others say it.
        listener: at the master's port.
        end: when it gives up, as :func:`time.monotonic` tells the time.
    """

    def __init__(self, nodes: Nodes, own: _Message, listener: socket.socket, end: float) -> None:
        super().__init__(nodes)
        self._own = own
        self._listener = listener
        self._guests: list[_Wire] = []
        self._members: dict[_Wire, _Member] = {}
        self._began = False
        self._selector.register(listener, selectors.EVENT_READ)
        try:
            self._gather(end)
        except StackError as error:
            # Of a signal they need not hear: this node may come again.
            if isinstance(error, MachineError):
                self._tell_others(None, refused=error.problems[0].what, status=error.status)
            self.close()
            raise
        self._begin()

    def close(self) -> None:
        """End the connections, and listen no more."""
        for wire in list(self._guests):
            self._hang_up(wire)
        self._listener.close()
        super().close()

    def _gather(self, end: float) -> None:
        self._say_who_is_here()
        while len(self._members) + 1 < self.nodes.count:
            if time.monotonic() > end:
                raise MachineError(
                    f"{self._here()}; the others did not come within {self.nodes.wait:g} s",
                    where=f"--master {self.nodes.master}",
                    remedy="start the same command on each of them with a --rank of its own, and "
                    "look there for what keeps them; longer: --wait SECONDS",
                )
            self.tend(_AGAIN_SECONDS)

    def _begin(self) -> None:
        """Give each node its rank, and all the address for Paddle's launcher.

        The launcher serves on the node whose own address this is, compared letter by letter.
        """
        with socket.socket() as probe:
            probe.bind(("", 0))
            master = f"{own_address()}:{probe.getsockname()[1]}"
        taken = {0, *(member.rank for member in self._members.values())}
        free = iter(rank for rank in range(self.nodes.count) if rank not in taken)
        for wire, member in sorted(self._members.items(), key=lambda pair: pair[1].name):
            rank = next(free) if member.rank is None else member.rank
            self._members[wire] = replace(member, rank=rank)
            wire.say(go=master, rank=rank, first=self._own_name())
        self.nodes = replace(self.nodes, master=master, rank=0)
        self._began = True

    def _wires(self) -> list[_Wire]:
        return list(self._members)

    def _own_name(self) -> str:
        return f"node 0 ({self._own['name']})"

    def _ready(self, connection: Any) -> None:
        if connection is self._listener:
            self._accept()
            return
        wire = next(w for w in (*self._members, *self._guests) if w.socket is connection)
        messages = wire.hear()
        if wire in self._guests:
            if messages:
                self._welcome(wire, messages[0])
            elif wire.broken:
                self._hang_up(wire)
            return
        member = self._members[wire]
        for message in messages:
            self._take(wire, member, message)
            if "bye" in message:
                break

    def _accept(self) -> None:
        for wire in [w for w in self._guests if time.monotonic() - w.heard > SILENCE_SECONDS]:
            self._hang_up(wire)
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        wire = _Wire(connection)
        self._guests.append(wire)
        self._selector.register(connection, selectors.EVENT_READ)

    def _hang_up(self, wire: _Wire) -> None:
        if wire in self._guests:
            self._guests.remove(wire)
        self._members.pop(wire, None)
        self._drop(wire)

    def _welcome(self, wire: _Wire, message: _Message) -> None:
        """Let a node in, or say why not."""
        if self._began:
            wire.say(busy=f"{self._own_name()} is training already with {self._names()}")
            self._hang_up(wire)
            return
        member = _Member(message.get("rank"), str(message.get("name")))
        refusal = self._refusal(member, message)
        if refusal is not None:
            wire.say(refused=refusal.what, where=refusal.where, remedy=refusal.remedy)
            self._hang_up(wire)
            note(f"{member.name} was turned away: {refusal.what}")
            return
        self._guests.remove(wire)
        self._members[wire] = member
        self._say_who_is_here()

    def _refusal(self, member: _Member, message: _Message) -> Problem | None:
        theirs, ours = message.get("told"), self._own["told"]
        if not isinstance(theirs, dict):
            return Problem(f"{member.name} is no node of this version", "", "the same image")
        for key in {**ours, **theirs}:
            if theirs.get(key) != ours.get(key):
                return Problem(
                    f"{key} is {theirs.get(key)} on {member.name}, and {ours.get(key)} on "
                    f"{self._own_name()}",
                    key,
                    "the same on all nodes; and start this one again",
                )
        if member.rank is not None and member.rank not in range(self.nodes.count):
            return Problem(
                f"there is no node {member.rank} among {self.nodes.count}",
                "--rank",
                f"from 0 to {self.nodes.count - 1}, on each node another",
            )
        others = {0: str(self._own["name"])}
        others |= {m.rank: m.name for m in self._members.values() if m.rank is not None}
        if member.rank in others:
            return Problem(
                f"{member.name} says that it is node {member.rank}, and {others[member.rank]} "
                "is that already",
                "--rank",
                "on each node another, from 0",
            )
        return None

    def _take(self, wire: _Wire, member: _Member, message: _Message) -> None:
        if "stop" in message and not self.stopped_by:
            self.stopped_by = str(member)
            self._tell_others(wire, stop=str(member))
        if "failed" in message:
            self._lost(str(member), str(message["failed"]))
        if "bye" in message and self._began:
            self._hang_up(wire)
        elif "bye" in message:
            self._gone(wire, "has left")

    def _gone(self, wire: _Wire, why: str) -> None:
        member = self._members[wire]
        self._hang_up(wire)
        if self._began:
            self._lost(str(member), why)
            return
        note(f"{member.name} {why}")
        self._say_who_is_here()

    def _lost(self, node: str, why: str) -> None:
        self._lose(node, why)
        self._tell_others(None, lost=node, why=why)

    def _tell_others(self, wire: _Wire | None, **message: Any) -> None:
        for other in self._wires():
            if other is not wire:
                other.say(**message)

    def _names(self) -> str:
        return ", ".join(sorted(member.name for member in self._members.values()))

    def _here(self) -> str:
        names = ", ".join([str(self._own["name"]), *([self._names()] if self._members else [])])
        are = "are" if self._members else "is"
        return f"{len(self._members) + 1} of {self.nodes.count} nodes {are} here: {names}"

    def _say_who_is_here(self) -> None:
        missing = self.nodes.count - 1 - len(self._members)
        text = self._here() + (f"; waiting for {missing}" if missing else "")
        note(text)
        self._tell_others(None, here=text)


class _Other(Peers):
    """A node that is not node 0, and is connected to that.

    Args:
        nodes: as this node was told.
        own: what this node was told.
        end: when it gives up, as :func:`time.monotonic` tells the time.
    """

    def __init__(self, nodes: Nodes, own: _Message, end: float) -> None:
        super().__init__(nodes)
        self._own = {**own, "rank": nodes.rank}
        self._wire: _Wire | None = None
        self._went = False
        self._refused: StackError | None = None
        self._first = "node 0"
        self._state = ""
        self._again = 0.0
        try:
            self._gather(end)
        except StackError:
            self.close()
            raise

    def _gather(self, end: float) -> None:
        while not self._went:
            if time.monotonic() > end:
                raise MachineError(
                    f"node 0 did not let this node begin within {self.nodes.wait:g} s: "
                    f"{self._state}",
                    where=f"--master {self.nodes.master}",
                    remedy=f"look at node 0: is it running, is its port open from here ({PORTS})? "
                    "longer: --wait SECONDS",
                )
            if self._wire is None and time.monotonic() >= self._again:
                self._again = time.monotonic() + _AGAIN_SECONDS
                self._connect()
            self.tend(_AGAIN_SECONDS)
            if self._refused is not None:
                raise self._refused

    def _connect(self) -> None:
        host, _, port = self.nodes.master.rpartition(":")
        address = address_of(host)  # anew each time: a restarted container can have another
        if address is None:
            self._now(f"waiting for node 0: {host} has no address any more")
            return
        at = self.nodes.master + (f" ({address})" if host != address else "")
        try:
            connection = socket.create_connection((address, int(port)), _CONNECT_SECONDS)
        except OSError as error:
            self._now(f"waiting for node 0 at {at}: {error.strerror or 'no answer'}")
            return
        self._wire = _Wire(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        self._wire.say(**self._own)

    def _now(self, state: str) -> None:
        """Say what is waited for, if that has changed."""
        if state != self._state:
            self._state = state
            note(state)

    def _wires(self) -> list[_Wire]:
        return [] if self._wire is None else [self._wire]

    def _own_name(self) -> str:
        return f"node {self.nodes.rank} ({self._own['name']})"

    def _ready(self, connection: Any) -> None:
        assert self._wire is not None
        for message in self._wire.hear():
            self._take(message)

    def _take(self, message: _Message) -> None:
        if "here" in message or "busy" in message:
            self._now(str(message.get("here") or message["busy"] + ": waiting until it is over"))
        if "refused" in message:
            kind = MachineError if message.get("status") == MachineError.status else RequestError
            self._refused = kind(
                str(message["refused"]),
                where=str(message.get("where", "")),
                remedy=str(message.get("remedy") or "start the same image on every node"),
            )
        if "go" in message and not self._went:
            self._went = True
            self._first = str(message.get("first"))
            self.nodes = replace(self.nodes, master=str(message["go"]), rank=int(message["rank"]))
        if "stop" in message:
            self.stopped_by = self.stopped_by or str(message["stop"])
        if "lost" in message:
            self._lose(str(message["lost"]), str(message.get("why")))
        if "failed" in message:
            self._lose(self._first, str(message["failed"]))
        if "bye" in message and self._went and self._wire is not None:
            self._hang_up(self._wire)

    def _gone(self, wire: _Wire, why: str) -> None:
        self._hang_up(wire)
        if self._went:
            self._lose(self._first, why)

    def _hang_up(self, wire: _Wire) -> None:
        self._drop(wire)
        self._wire = None
