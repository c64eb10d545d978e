"""Whether a connection comes from this machine."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path

__all__ = ["Peers", "gateways", "host_of", "is_local_name"]

_ROUTES = Path("/proc/net/route")
_LOCAL_NAMES = frozenset({"localhost"})


class Peers:
    """The addresses that connections from this machine come from.

    In a container, a port that is published on the host's loopback address is reached
    through the engine, whose address is the container's gateway. Everything else that
    connects to the container's own address, another container above all, has an address of
    its own and is refused.

    This says nothing about a port that is published on other addresses: an engine's proxy
    gives connections from anywhere the gateway's address. There, keys are required
    (:mod:`entrypoints.serving.arguments`).

    Args:
        gateways: the container's; none outside a container.
    """

    def __init__(self, gateways: frozenset[str]) -> None:
        self._gateways = gateways

    def local(self, client: str, server: str) -> bool:
        """Return whether a connection comes from this machine.

        Args:
            client: the address that it comes from.
            server: the address that it came to.
        """
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        return address.is_loopback or client == server or str(address) in self._gateways


def gateways(routes: Path = _ROUTES) -> frozenset[str]:
    """Return the addresses of the default routes, as Linux lists them."""
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return frozenset()
    addresses = set()
    for line in lines:
        fields = line.split()
        if len(fields) > 3 and fields[1] == "00000000" and int(fields[3], 16) & 2:  # RTF_GATEWAY
            addresses.add(socket.inet_ntoa(struct.pack("=I", int(fields[2], 16))))
    return frozenset(addresses)


def host_of(header: str) -> str:
    """Return the name in a ``Host`` header, without the port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def is_local_name(host: str) -> bool:
    """Return whether a name in a ``Host`` header is this machine's for itself.

    A page of another site can have its own name point here, and read the answers
    (DNS rebinding); its name is still in the header.
    """
    if host in _LOCAL_NAMES or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
