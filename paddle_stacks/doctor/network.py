"""The checks of names, proxies and certificates."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from paddle_stacks.doctor.finding import Finding, error, hint, ok, warning
from paddle_stacks.doctor.machine import Machine
from paddle_stacks.settings import without_password

__all__ = ["ca_bundle", "host_name", "proxies"]

_CONNECT_SECONDS = 3
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_DISTRIBUTIONS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_BUNDLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def host_name(machine: Machine) -> Finding:
    """Resolve this host's name and those of the nodes as Paddle's launcher does.

    A node's launcher takes its own address from its name. If that is 127.*, no node
    takes itself for the master, and all of them wait forever.
    """
    own = machine.host_name
    # With no nodes named it may be a host that never works with another.
    tell = error if machine.nodes else warning
    found = {name: machine.resolve(name) for name in dict.fromkeys((own, *machine.nodes)) if name}
    wrong = [
        f"{name} is {', '.join(addresses)} here" if addresses else f"{name} cannot be resolved"
        for name, addresses in found.items()
        if not addresses or any(map(_is_loopback, addresses))
    ]
    if not own:
        wrong.append("this host has no name")
    if wrong:
        return tell(
            f"{'; '.join(wrong)}: a job on several nodes would wait for its master forever",
            "in /etc/hosts of every node, give each node's name the address that the others "
            "reach it by, and 127.* none of them",
        )
    shown = "; ".join(f"{name} is {', '.join(addresses)}" for name, addresses in found.items())
    return ok(shown)


def proxies(machine: Machine) -> Finding:
    """Look at the proxies that builds and ``fetch`` use: their form, and whether they answer."""
    settings = machine.settings
    given = {
        key: url for key in ("http_proxy", "https_proxy") if (url := str(getattr(settings, key)))
    }
    if not given:
        return ok("none")
    shown = ", ".join(dict.fromkeys(without_password(url) for url in given.values()))
    for key, url in given.items():
        if fault := _proxy_fault(url):
            return warning(
                f"{key} is {without_password(url)}: {fault}",
                "write it like http://proxy.example:3128, in the environment or paddle-stacks.toml",
            )
    for url in dict.fromkeys(given.values()):
        if fault := _unreachable(url):
            return warning(
                f"{without_password(url)} does not answer: {fault}",
                "see whether the proxy runs, and whether this machine may reach it",
            )
    if not {"localhost", "127.0.0.1"} & set(settings.no_proxy.replace(" ", "").split(",")):
        return hint(
            f"{shown}; no_proxy has neither localhost nor 127.0.0.1",
            "set no_proxy=localhost,127.0.0.1 and the registry of your site",
        )
    return ok(shown)


def ca_bundle(machine: Machine) -> Finding:
    """Look at the certificates that are trusted: whether they can be read, and are still valid."""
    bundle = machine.settings.ca_bundle
    lost = _lost_bundles(os.environ)
    if bundle is None:
        if lost:
            return warning(
                f"a variable names a file that is not there: {lost[0]}", "correct the variable"
            )
        return ok("the distribution's own")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=str(bundle))
    except ssl.SSLError as failure:
        return error(
            f"{bundle} holds no certificates in PEM form: {failure.reason or failure}",
            "name a file with -----BEGIN CERTIFICATE----- lines",
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
    said = f"{bundle}: {len(certificates)} certificates"
    if not certificates:
        return warning(f"{said} of an authority", "add the certificate of your site's authority")
    if len(expired) == len(certificates):
        return error(f"{said}, all expired: {', '.join(expired[:3])}", "get the bundle anew")
    # A distribution's bundle has some expired roots of the public web as a rule.
    if expired and str(bundle) not in _DISTRIBUTIONS:
        rest = f" and {len(expired) - 3} more" if len(expired) > 3 else ""
        return hint(
            f"{said}, expired: {', '.join(expired[:3])}{rest}",
            "get the bundle anew, if one of these is your site's",
        )
    if lost:
        return hint(
            f"{said}; a variable names a file that is not there: {lost[0]}", "correct the variable"
        )
    return ok(said)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _proxy_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "its port is not a number"
    if parts.scheme not in _PORTS:
        return "it does not start with http://"
    if not parts.hostname or port == 0:
        return "it names no host"
    return ""


def _unreachable(url: str) -> str:
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or _PORTS[parts.scheme])
    try:
        socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
    except OSError as failure:
        return failure.strerror or str(failure)
    return ""


def _lost_bundles(environ: Mapping[str, str]) -> list[str]:
    return [
        f"{name}={environ[name]}"
        for name in _BUNDLES
        if environ.get(name) and not Path(environ[name]).is_file()
    ]


def _subject(certificate: Mapping[str, object]) -> str:
    """Return the common name of a certificate, or its organization."""
    subject = certificate.get("subject")
    pairs = [pair for group in subject for pair in group] if isinstance(subject, tuple) else []
    names = dict(pairs)
    return str(names.get("commonName") or names.get("organizationName") or "without a name")
