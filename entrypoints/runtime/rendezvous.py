"""Rendezvous: the nodes of a run connect before it starts, and each notices when another is lost.

Paddle's own rendezvous waits silently and forever for a missing node, counts two nodes with
the same rank as two, and does not report a node that is lost later. Therefore the nodes
connect here first. Node 0 listens at the master's port; the others connect and send their
settings. Once all are connected, node 0 sends them the address at which Paddle's launchers
connect. The connections stay open during the run: both ends send a heartbeat every few
seconds, so silence means that a node is lost, and whatever ends the run on one node is sent
to all of them.

Every message is a JSON object on a line of its own. As with Paddle's own rendezvous, anyone
who can reach the port can take part: the network must belong to the nodes alone.
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

__all__ = ["PORTS", "SILENCE_SECONDS", "Loss", "RendezvousGroup", "join"]

SILENCE_SECONDS = 30.0
"""A node is lost after this long without a message."""

_HEARTBEAT_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_MAX_MESSAGE = 64 * 1024
PORTS = "all TCP ports from 1024 must be open between the nodes"

_Message = dict[str, Any]


@dataclass(frozen=True)
class Loss:
    """The loss of a node, which ends the run.

    Args:
        node: its rank and name, such as ``node 1 (gpu-b)``.
        why: a verb phrase, such as ``sent nothing for 30 s``.
    """

    node: str
    why: str


class RendezvousGroup(ABC):
    """The connected nodes of a run.

    Attributes:
        nodes: the settings for Paddle's launcher.
        loss: the first node that was lost, or None.
        stopped_by: the node that received a signal to stop, or an empty string.
    """

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.loss: Loss | None = None
        self.stopped_by = ""
        self._failed = False
        self._selector = selectors.DefaultSelector()
        self._last_heartbeat = time.monotonic()

    def poll(self, seconds: float) -> None:
        """Handle messages for up to ``seconds``, send heartbeats, and detect lost nodes."""
        for key, _ in self._selector.select(seconds):
            self._receive(key.fileobj)
        now = time.monotonic()
        if now - self._last_heartbeat >= _HEARTBEAT_SECONDS:
            self._last_heartbeat = now
            for peer in self._connections():
                peer.send()
        for peer in self._connections():
            if peer.broken:
                self._connection_ended(peer, "closed its connection")
            elif now - peer.last_received > SILENCE_SECONDS:
                self._connection_ended(peer, f"sent nothing for {SILENCE_SECONDS:g} s")

    def stop(self) -> None:
        """Tell the other nodes that this one is stopping, unless they know that it failed."""
        if self._failed:
            return
        for peer in self._connections():
            peer.send(stop=self._own_name())

    def fail(self, why: str) -> None:
        """Tell the other nodes that this one failed.

        Args:
            why: a verb phrase, such as ``failed with status 1``.
        """
        self._failed = True
        for peer in self._connections():
            peer.send(failed=why)

    def close(self) -> None:
        """Leave the group in order, so that the others do not report a loss."""
        for peer in self._connections():
            peer.send(bye=True)
            self._disconnect(peer)
        self._selector.close()

    @abstractmethod
    def _receive(self, connection: Any) -> None:
        """Handle what was received on a connection."""

    @abstractmethod
    def _connections(self) -> list[JsonConnection]:
        """Return the connections to admitted nodes."""

    @abstractmethod
    def _connection_ended(self, peer: JsonConnection, why: str) -> None:
        """Handle the end of a connection."""

    @abstractmethod
    def _own_name(self) -> str:
        """Return the name of this node in messages."""

    @abstractmethod
    def _disconnect(self, peer: JsonConnection) -> None:
        """Close a connection and remove it."""

    def _drop(self, peer: JsonConnection) -> None:
        self._selector.unregister(peer.socket)
        peer.socket.close()

    def _set_loss(self, node: str, why: str) -> None:
        self.loss = self.loss or Loss(node, why)


class JsonConnection:
    """A socket that transfers JSON objects, one per line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_CONNECT_SECONDS)
        self.socket = connection
        self.last_received = time.monotonic()
        self.broken = False
        self._buffer = b""

    def send(self, **message: Any) -> None:
        """Send a message; an empty one is a heartbeat."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.broken = True

    def receive(self) -> list[_Message]:
        """Return the received messages; an invalid one marks the connection as broken."""
        try:
            new = self.socket.recv(_MAX_MESSAGE)
        except OSError:
            new = b""
        *lines, self._buffer = (self._buffer + new).split(b"\n")
        self.broken |= not new or len(self._buffer) > _MAX_MESSAGE
        self.last_received = time.monotonic()
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            self.broken = True
            return []
        self.broken |= not all(isinstance(message, dict) for message in messages)
        return [message for message in messages if isinstance(message, dict)]


@contextmanager
def join(
    nodes: Nodes, ranks: int, job: str, same: Mapping[str, str] | None = None
) -> Iterator[RendezvousGroup | None]:
    """Wait for all nodes, and stay connected to them.

    Args:
        nodes: this node's settings.
        ranks: processes per node.
        job: the run's name.
        same: further settings that must be equal on all nodes, by name.

    Yields:
        the group; None for a single node, and with etcd, where Paddle's own rendezvous is used.

    Raises:
        MachineError: a host name resolves to a wrong address, or nodes are missing in the end.
        RequestError: settings of the nodes contradict each other.
    """
    if nodes.count == 1 or nodes.master.startswith(ETCD):
        yield None
        return
    settings = {"--nnodes": nodes.count, "--ranks": ranks, "--name": job, **(same or {})}
    own = {"name": socket.gethostname(), "settings": settings}
    group = _connect_all(nodes, own)
    try:
        yield group
    except MachineError as error:
        group.fail(f"failed: {error}")
        raise
    except Stopped:
        group.stop()
        raise
    finally:
        group.close()


def _connect_all(nodes: Nodes, own: _Message) -> RendezvousGroup:
    end = time.monotonic() + nodes.wait
    host, _, port = nodes.master.rpartition(":")
    address = _resolve(host, nodes, end)
    if nodes.rank == 0 and not is_local(address):
        raise MachineError(
            f"{host} resolves to {address}, which is not an address of this machine, although it "
            "is node 0",
            where=f"--master {nodes.master} --rank 0",
            remedy="use an address of this machine, or --rank 0 on the machine with that address",
        )
    check_own_address(address)
    if nodes.rank in (0, None) and is_local(address):
        listener = _listen(int(port))
        if listener is not None:
            return Coordinator(nodes, own, listener, end)
        if nodes.rank == 0:
            raise MachineError(
                f"port {port} is in use on this machine, which is node 0",
                where=f"--master {nodes.master}",
                remedy="use another port on all nodes, or end the process that has it: ss -ltnp",
            )
    return Member(nodes, own, end)


def _resolve(host: str, nodes: Nodes, end: float) -> str:
    """Return the address of a host name, waiting until it resolves.

    A container's name resolves once it runs. Node 0 waits too: a cluster may register the names
    of its pods after they have started.
    """
    address = address_of(host)
    if address is None:
        note(f"waiting for the master {host}: the name does not resolve yet")
    while address is None:
        if time.monotonic() > end:
            raise MachineError(
                f"the master {host} does not resolve to an address after {nodes.wait:g} s",
                where=f"--master {nodes.master}",
                remedy=f"start node 0 and check its name here: getent hosts {host}; "
                "or use an address",
            )
        time.sleep(_RETRY_SECONDS)
        address = address_of(host)
    return address


def _listen(port: int) -> socket.socket | None:
    """Return a socket that listens at a port; None if the port is in use."""
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
class _NodeInfo:
    """The rank and the name of a node."""

    rank: int | None
    name: str

    def __str__(self) -> str:
        return f"node {self.rank} ({self.name})"


class Coordinator(RendezvousGroup):
    """The group as node 0 sees it: the others connect to it.

    Args:
        nodes: this node's settings.
        own: its name and settings, as the other nodes send theirs.
        listener: a socket at the master's port.
        end: the time to give up, on the clock of :func:`time.monotonic`.
    """

    def __init__(self, nodes: Nodes, own: _Message, listener: socket.socket, end: float) -> None:
        super().__init__(nodes)
        self._own = own
        self._listener = listener
        self._pending: list[JsonConnection] = []
        self._members: dict[JsonConnection, _NodeInfo] = {}
        self._started = False
        self._selector.register(listener, selectors.EVENT_READ)
        try:
            self._gather(end)
        except StackError as error:
            # Not on a signal: this node may be restarted.
            if isinstance(error, MachineError):
                self._broadcast(None, rejected=error.problems[0].what, status=error.status)
            self.close()
            raise
        self._start()

    def close(self) -> None:
        """Close the connections and the listening socket."""
        for peer in list(self._pending):
            self._disconnect(peer)
        self._listener.close()
        super().close()

    def _gather(self, end: float) -> None:
        self._report_present()
        while len(self._members) + 1 < self.nodes.count:
            if time.monotonic() > end:
                raise MachineError(
                    f"{self._present()}; the others did not connect within {self.nodes.wait:g} s",
                    where=f"--master {self.nodes.master}",
                    remedy="start the same command with its own --rank on each of them, and check "
                    "their output; --wait SECONDS waits longer",
                )
            self.poll(_RETRY_SECONDS)

    def _start(self) -> None:
        """Send each node its rank and the address for Paddle's launcher.

        The launcher serves on the node whose own address equals it as a string.
        """
        with socket.socket() as probe:
            probe.bind(("", 0))
            master = f"{own_address()}:{probe.getsockname()[1]}"
        taken = {0, *(member.rank for member in self._members.values())}
        free = iter(rank for rank in range(self.nodes.count) if rank not in taken)
        for peer, member in sorted(self._members.items(), key=lambda pair: pair[1].name):
            rank = next(free) if member.rank is None else member.rank
            self._members[peer] = replace(member, rank=rank)
            peer.send(start=master, rank=rank, coordinator=self._own_name())
        self.nodes = replace(self.nodes, master=master, rank=0)
        self._started = True

    def _connections(self) -> list[JsonConnection]:
        return list(self._members)

    def _own_name(self) -> str:
        return f"node 0 ({self._own['name']})"

    def _receive(self, connection: Any) -> None:
        if connection is self._listener:
            self._accept()
            return
        peer = next(w for w in (*self._members, *self._pending) if w.socket is connection)
        messages = peer.receive()
        if peer in self._pending:
            if messages:
                self._admit(peer, messages[0])
            elif peer.broken:
                self._disconnect(peer)
            return
        member = self._members[peer]
        for message in messages:
            self._handle(peer, member, message)
            if "bye" in message:
                break

    def _accept(self) -> None:
        for peer in [
            w for w in self._pending if time.monotonic() - w.last_received > SILENCE_SECONDS
        ]:
            self._disconnect(peer)
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it has disconnected again
        peer = JsonConnection(connection)
        self._pending.append(peer)
        self._selector.register(connection, selectors.EVENT_READ)

    def _disconnect(self, peer: JsonConnection) -> None:
        if peer in self._pending:
            self._pending.remove(peer)
        self._members.pop(peer, None)
        self._drop(peer)

    def _admit(self, peer: JsonConnection, message: _Message) -> None:
        """Admit a node, or send it the reason for its rejection."""
        if self._started:
            peer.send(busy=f"{self._own_name()} is already training with {self._names()}")
            self._disconnect(peer)
            return
        member = _NodeInfo(message.get("rank"), str(message.get("name")))
        rejection = self._rejection(member, message)
        if rejection is not None:
            peer.send(rejected=rejection.what, where=rejection.where, remedy=rejection.remedy)
            self._disconnect(peer)
            note(f"{member.name} was rejected: {rejection.what}")
            return
        self._pending.remove(peer)
        self._members[peer] = member
        self._report_present()

    def _rejection(self, member: _NodeInfo, message: _Message) -> Problem | None:
        theirs, ours = message.get("settings"), self._own["settings"]
        if not isinstance(theirs, dict):
            return Problem(
                f"{member.name} runs another version", "", "use the same image on all nodes"
            )
        for key in {**ours, **theirs}:
            if theirs.get(key) != ours.get(key):
                return Problem(
                    f"{key} is {theirs.get(key)} on {member.name}, but {ours.get(key)} on "
                    f"{self._own_name()}",
                    key,
                    "use the same value on all nodes, and start this one again",
                )
        if member.rank is not None and member.rank not in range(self.nodes.count):
            return Problem(
                f"rank {member.rank} is out of range for {self.nodes.count} nodes",
                "--rank",
                f"use the ranks 0 to {self.nodes.count - 1}, each on one node",
            )
        others = {0: str(self._own["name"])}
        others |= {m.rank: m.name for m in self._members.values() if m.rank is not None}
        if member.rank in others:
            return Problem(
                f"{member.name} has the rank {member.rank}, which {others[member.rank]} already "
                "has",
                "--rank",
                "give each node its own rank, from 0",
            )
        return None

    def _handle(self, peer: JsonConnection, member: _NodeInfo, message: _Message) -> None:
        if "stop" in message and not self.stopped_by:
            self.stopped_by = str(member)
            self._broadcast(peer, stop=str(member))
        if "failed" in message:
            self._report_loss(str(member), str(message["failed"]))
        if "bye" in message and self._started:
            self._disconnect(peer)
        elif "bye" in message:
            self._connection_ended(peer, "left")

    def _connection_ended(self, peer: JsonConnection, why: str) -> None:
        member = self._members[peer]
        self._disconnect(peer)
        if self._started:
            self._report_loss(str(member), why)
            return
        note(f"{member.name} {why}")
        self._report_present()

    def _report_loss(self, node: str, why: str) -> None:
        self._set_loss(node, why)
        self._broadcast(None, lost=node, why=why)

    def _broadcast(self, peer: JsonConnection | None, **message: Any) -> None:
        for other in self._connections():
            if other is not peer:
                other.send(**message)

    def _names(self) -> str:
        return ", ".join(sorted(member.name for member in self._members.values()))

    def _present(self) -> str:
        names = ", ".join([str(self._own["name"]), *([self._names()] if self._members else [])])
        return f"{len(self._members) + 1} of {self.nodes.count} nodes are connected: {names}"

    def _report_present(self) -> None:
        missing = self.nodes.count - 1 - len(self._members)
        text = self._present() + (f"; waiting for {missing}" if missing else "")
        note(text)
        self._broadcast(None, present=text)


class Member(RendezvousGroup):
    """The group as every other node sees it: it is connected to node 0.

    Args:
        nodes: this node's settings.
        own: its name and settings.
        end: the time to give up, on the clock of :func:`time.monotonic`.
    """

    def __init__(self, nodes: Nodes, own: _Message, end: float) -> None:
        super().__init__(nodes)
        self._own = {**own, "rank": nodes.rank}
        self._coordinator: JsonConnection | None = None
        self._started = False
        self._rejected: StackError | None = None
        self._coordinator_name = "node 0"
        self._state = ""
        self._retry_at = 0.0
        try:
            self._gather(end)
        except StackError:
            self.close()
            raise

    def _gather(self, end: float) -> None:
        while not self._started:
            if time.monotonic() > end:
                raise MachineError(
                    f"node 0 did not start the run within {self.nodes.wait:g} s: {self._state}",
                    where=f"--master {self.nodes.master}",
                    remedy=f"check that node 0 is running and reachable from here ({PORTS}); "
                    "--wait SECONDS waits longer",
                )
            if self._coordinator is None and time.monotonic() >= self._retry_at:
                self._retry_at = time.monotonic() + _RETRY_SECONDS
                self._connect()
            self.poll(_RETRY_SECONDS)
            if self._rejected is not None:
                raise self._rejected

    def _connect(self) -> None:
        host, _, port = self.nodes.master.rpartition(":")
        address = address_of(host)  # each time: a restarted container may have another one
        if address is None:
            self._report_state(f"waiting for node 0: {host} no longer resolves")
            return
        at = self.nodes.master + (f" ({address})" if host != address else "")
        try:
            connection = socket.create_connection((address, int(port)), _CONNECT_SECONDS)
        except OSError as error:
            self._report_state(f"waiting for node 0 at {at}: {error.strerror or 'no answer'}")
            return
        self._coordinator = JsonConnection(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        self._coordinator.send(**self._own)

    def _report_state(self, state: str) -> None:
        """Report the state if it has changed."""
        if state != self._state:
            self._state = state
            note(state)

    def _connections(self) -> list[JsonConnection]:
        return [] if self._coordinator is None else [self._coordinator]

    def _own_name(self) -> str:
        return f"node {self.nodes.rank} ({self._own['name']})"

    def _receive(self, connection: Any) -> None:
        assert self._coordinator is not None
        for message in self._coordinator.receive():
            self._handle(message)

    def _handle(self, message: _Message) -> None:
        if "present" in message or "busy" in message:
            busy = f"{message.get('busy')}: waiting until it has finished"
            self._report_state(str(message.get("present") or busy))
        if "rejected" in message:
            kind = MachineError if message.get("status") == MachineError.status else RequestError
            self._rejected = kind(
                str(message["rejected"]),
                where=str(message.get("where", "")),
                remedy=str(message.get("remedy") or "use the same image on all nodes"),
            )
        if "start" in message and not self._started:
            self._started = True
            self._coordinator_name = str(message.get("coordinator"))
            self.nodes = replace(
                self.nodes, master=str(message["start"]), rank=int(message["rank"])
            )
        if "stop" in message:
            self.stopped_by = self.stopped_by or str(message["stop"])
        if "lost" in message:
            self._set_loss(str(message["lost"]), str(message.get("why")))
        if "failed" in message:
            self._set_loss(self._coordinator_name, str(message["failed"]))
        if "bye" in message and self._started and self._coordinator is not None:
            self._disconnect(self._coordinator)

    def _connection_ended(self, peer: JsonConnection, why: str) -> None:
        self._disconnect(peer)
        if self._started:
            self._set_loss(self._coordinator_name, why)

    def _disconnect(self, peer: JsonConnection) -> None:
        self._drop(peer)
        self._coordinator = None
