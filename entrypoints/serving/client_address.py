"""Detection of connections from this machine."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path

__all__ = ["ClientAddresses", "gateways", "host_of", "is_local_name"]

_ROUTES = Path("/proc/net/route")
_LOCAL_NAMES = frozenset({"localhost"})


class ClientAddresses:
    """The source addresses of connections from this machine.

    In a container, connections to a port published on the host's loopback address come from
    the container's gateway. All others, for example of other containers, have their own
    addresses and are rejected.

    This does not work for ports published on other addresses, because the proxy of Docker Engine
    makes all connections come from the gateway. There, API keys are required
    (:mod:`entrypoints.serving.arguments`).

    Args:
        gateways: the container's gateways; empty outside a container.
    """

    def __init__(self, gateways: frozenset[str]) -> None:
        self._gateways = gateways

    def local(self, client: str, server: str) -> bool:
        """Return whether a connection comes from this machine.

        Args:
            client: its source address.
            server: its destination address.
        """
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        return address.is_loopback or client == server or str(address) in self._gateways


def gateways(routes: Path = _ROUTES) -> frozenset[str]:
    """Return the gateways of the default routes from Linux' routing table."""
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
    """Return whether the name in a ``Host`` header is a local name.

    Another site could point its own name to this machine and read the responses (DNS
    rebinding), but the header still contains that name.
    """
    if host in _LOCAL_NAMES or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
