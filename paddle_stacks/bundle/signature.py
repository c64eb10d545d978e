"""Who made a bundle: a signature of ``SHA256SUMS`` by an SSH key, with ``ssh-keygen`` alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

from paddle_stacks.bundle.contents import SIGNATURE, SUMS
from paddle_stacks.errors import MachineError, RequestError

__all__ = ["check", "sign"]

NAMESPACE = "paddle-stacks-bundle"
"""What a signature is for: that of a git commit by the same key does not do here."""


def sign(folder: Path, key: Path) -> None:
    """Sign a bundle's sums; ``ssh-keygen`` asks for the key's passphrase if it has one.

    Raises:
        RequestError: the key is none, or ssh-keygen refuses it.
        MachineError: there is no ssh-keygen.
    """
    (folder / SIGNATURE).unlink(missing_ok=True)
    done = _ssh_keygen("sign", "-f", str(key), "-n", NAMESPACE, str(folder / SUMS))
    if done.returncode:
        raise RequestError(
            f"the bundle cannot be signed: {_reason(done)}",
            where=str(key),
            remedy="name the file of a private SSH key, as ~/.ssh/id_ed25519",
        )


def check(folder: Path, allowed: Path) -> str:
    """Return who signed a bundle.

    Args:
        folder: the bundle.
        allowed: the keys that are trusted, in the form of ``ssh-keygen``'s ALLOWED SIGNERS.

    Raises:
        RequestError: it is not signed, or not by one of them, or the sums changed since.
        MachineError: there is no ssh-keygen.
    """
    signature = folder / SIGNATURE
    if not allowed.is_file():
        raise RequestError(
            "there is no such file of allowed signers",
            where=str(allowed),
            remedy="a line for each: NAME and what is in the key's .pub file",
        )
    if not signature.is_file():
        raise RequestError(
            f"the bundle is not signed: it has no {SIGNATURE}",
            where=str(folder),
            remedy="ask who made it, or leave --allowed-signers out to trust its sums alone",
        )
    found = _ssh_keygen("find-principals", "-f", str(allowed), "-s", str(signature))
    signer = found.stdout.decode(errors="replace").splitlines()
    if found.returncode or not signer:
        raise RequestError(
            "the bundle is not signed by a key that is allowed",
            where=str(signature),
            remedy=f"ask who made it for the key; {allowed} has those that are allowed",
        )
    arguments = ("-f", str(allowed), "-I", signer[0], "-n", NAMESPACE, "-s", str(signature))
    done = _ssh_keygen("verify", *arguments, data=(folder / SUMS).read_bytes())
    if done.returncode:
        raise RequestError(
            f"the signature does not fit: {_reason(done)}",
            where=str(signature),
            remedy="the sums are not those that were signed: copy the bundle again",
        )
    return signer[0]


def _ssh_keygen(
    action: str, *arguments: str, data: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    command = ["ssh-keygen", "-Y", action, *arguments]
    try:
        return subprocess.run(command, input=data, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise MachineError(
            "there is no ssh-keygen", remedy="install openssh-client, 8.2 or newer"
        ) from error


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ssh-keygen ended with {done.returncode}"
