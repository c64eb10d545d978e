"""Checks of host names, proxies and certificates."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from paddle_stacks.dcu import host
from paddle_stacks.doctor.finding import Finding, error, hint, ok, warning
from paddle_stacks.doctor.machine import Machine
from paddle_stacks.settings import without_password

__all__ = ["adapters", "ca_bundle", "host_name", "proxies"]

_CONNECT_SECONDS = 3
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_DISTRIBUTIONS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_BUNDLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def host_name(machine: Machine) -> Finding:
    """Check that this host's name and those of the nodes resolve to reachable addresses.

    Paddle's launcher derives a node's address from its name. If that is 127.*, no node
    considers itself the master, and all of them wait forever.
    """
    own = machine.host_name
    # Without --nodes, the host may never run a job on several nodes.
    report = error if machine.nodes else warning
    resolved = {
        name: machine.resolve(name) for name in dict.fromkeys((own, *machine.nodes)) if name
    }
    shown = {
        name: f"{name} resolves to {', '.join(addresses)}" for name, addresses in resolved.items()
    }
    faults = [
        shown[name] if addresses else f"{name} cannot be resolved"
        for name, addresses in resolved.items()
        if not addresses or any(map(_is_loopback, addresses))
    ]
    if not own:
        faults.append("this host has no name")
    if faults:
        return report(
            f"{'; '.join(faults)}: a job on several nodes would wait for its master forever",
            "in /etc/hosts of every node, map each node's name to the address that the other "
            "nodes can reach, not to 127.*",
        )
    return ok("; ".join(shown.values()))


def adapters(machine: Machine) -> Finding:
    """Check that jobs on several nodes can use the host's RDMA adapters."""
    names = host.adapters(machine.root)
    if not names:
        return ok("none: several nodes would use TCP")
    if not machine.host.node("/dev/infiniband"):
        return hint(
            f"{', '.join(names)}, but no /dev/infiniband: several nodes would use TCP",
            "modprobe ib_uverbs rdma_ucm, and install rdma-core",
        )
    if names[0].startswith("shca"):
        return hint(
            f"{', '.join(names)}: RCCL uses them only through its plugin, TCP was 8.5 times slower",
            'NCCL_NET_PLUGIN = "shca" in [node_environment] of configs/backends/dcu.toml, if the '
            "image has the plugin (find / -name 'lib*net-shca.so')",
        )
    return ok(", ".join(names))


def proxies(machine: Machine) -> Finding:
    """Check the proxies that builds and ``fetch`` use: their syntax, and a connection to each."""
    settings = machine.settings
    urls = {
        key: url for key in ("http_proxy", "https_proxy") if (url := str(getattr(settings, key)))
    }
    if not urls:
        return ok("none")
    shown = ", ".join(dict.fromkeys(without_password(url) for url in urls.values()))
    for key, url in urls.items():
        if fault := _proxy_fault(url):
            return warning(
                f"{key} is {without_password(url)}: {fault}",
                f"set {key}=http://proxy.example:3128 in the environment or paddle-stacks.toml",
            )
    for url in dict.fromkeys(urls.values()):
        if fault := _unreachable(url):
            return warning(
                f"{without_password(url)} cannot be reached: {fault}",
                "check that the proxy is running and that this machine can connect to it",
            )
    if not {"localhost", "127.0.0.1"} & set(settings.no_proxy.replace(" ", "").split(",")):
        return hint(
            f"{shown}; no_proxy contains neither localhost nor 127.0.0.1",
            "set no_proxy=localhost,127.0.0.1 and add your site's registry",
        )
    return ok(shown)


def ca_bundle(machine: Machine) -> Finding:
    """Check that the trusted certificates can be read and have not expired."""
    bundle = machine.settings.ca_bundle
    missing = _missing_bundles(os.environ)
    if bundle is None:
        if missing:
            return warning(f"the file does not exist: {missing[0]}", "correct the variable")
        return ok("the distribution's bundle")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=str(bundle))
    except ssl.SSLError as failure:
        return error(
            f"{bundle} contains no PEM certificates: {failure.reason or failure}",
            "set ca_bundle to a file with -----BEGIN CERTIFICATE----- lines",
        )
    except OSError as failure:
        return error(f"{bundle} cannot be read: {failure.strerror}", f"chmod a+r {bundle}")
    certificates = context.get_ca_certs()
    now = time.time()
    expired = [
        _subject(entry)
        for entry in certificates
        if ssl.cert_time_to_seconds(str(entry["notAfter"])) < now
    ]
    summary = f"{bundle}: {len(certificates)} certificates"
    if not certificates:
        return warning(f"{summary} of an authority", "add the certificate of your site's authority")
    if len(expired) == len(certificates):
        return error(f"{summary}, all expired: {', '.join(expired[:3])}", "replace the bundle")
    # A distribution's bundle usually contains some expired roots of the public web.
    if expired and str(bundle) not in _DISTRIBUTIONS:
        rest = f" and {len(expired) - 3} more" if len(expired) > 3 else ""
        return hint(
            f"{summary}, expired: {', '.join(expired[:3])}{rest}",
            "replace the bundle if one of these is your site's",
        )
    if missing:
        return hint(f"{summary}; the file does not exist: {missing[0]}", "correct the variable")
    return ok(summary)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _proxy_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the port is not a number"
    if parts.scheme not in _PORTS:
        return "it does not start with http://"
    if not parts.hostname or port == 0:
        return "the host or the port is missing"
    return ""


def _unreachable(url: str) -> str:
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or _PORTS[parts.scheme])
    try:
        socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
    except OSError as failure:
        return failure.strerror or str(failure)
    return ""


def _missing_bundles(environ: Mapping[str, str]) -> list[str]:
    return [
        f"{name}={environ[name]}"
        for name in _BUNDLES
        if environ.get(name) and not Path(environ[name]).is_file()
    ]


def _subject(certificate: Mapping[str, object]) -> str:
    """Return the common name of a certificate's subject, or its organization."""
    subject = certificate.get("subject")
    pairs = [pair for group in subject for pair in group] if isinstance(subject, tuple) else []
    names = dict(pairs)
    return str(names.get("commonName") or names.get("organizationName") or "unnamed")
