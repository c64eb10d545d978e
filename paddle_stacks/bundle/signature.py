"""Signatures of a bundle: ``ssh-keygen`` signs ``SHA256SUMS`` with an SSH key."""

from __future__ import annotations

import subprocess
from pathlib import Path

from paddle_stacks.bundle.contents import SIGNATURE, SUMS
from paddle_stacks.errors import MachineError, RequestError

__all__ = ["NAME_A_KEY", "check", "sign"]

NAMESPACE = "paddle-stacks-bundle"
"""The purpose of a signature: another signature by the same key, as of a commit, is invalid."""

NAME_A_KEY = "name the file of a private SSH key, such as ~/.ssh/id_ed25519"
"""The remedy for a key that does not exist or cannot sign."""


def sign(folder: Path, key: Path) -> None:
    """Sign a bundle's checksums; ``ssh-keygen`` asks for the key's passphrase if it has one.

    Raises:
        RequestError: ssh-keygen does not accept the key.
        MachineError: ssh-keygen is not installed.
    """
    (folder / SIGNATURE).unlink(missing_ok=True)
    done = _ssh_keygen("sign", "-f", str(key), "-n", NAMESPACE, str(folder / SUMS))
    if done.returncode:
        raise RequestError(
            f"the bundle cannot be signed: {_reason(done)}",
            where=str(key),
            remedy=NAME_A_KEY,
        )


def check(folder: Path, allowed: Path) -> str:
    """Return the signer of a bundle.

    Args:
        folder: the bundle.
        allowed: the trusted keys, in the format ALLOWED SIGNERS of ``ssh-keygen``.

    Raises:
        RequestError: no signature, an untrusted key, or the checksums changed after signing.
        MachineError: ssh-keygen is not installed.
    """
    signature = folder / SIGNATURE
    if not allowed.is_file():
        raise RequestError(
            "the file of allowed signers does not exist",
            where=str(allowed),
            remedy="write one line per signer: NAME, then the contents of the key's .pub file",
        )
    if not signature.is_file():
        raise RequestError(
            f"the bundle is not signed: it has no {SIGNATURE}",
            where=str(folder),
            remedy="ask its creator for a signature, or omit --allowed-signers to check the"
            " checksums only",
        )
    principals = _ssh_keygen("find-principals", "-f", str(allowed), "-s", str(signature))
    signer = principals.stdout.decode(errors="replace").splitlines()
    if principals.returncode or not signer:
        raise RequestError(
            "the bundle is not signed by an allowed key",
            where=str(signature),
            remedy=f"ask its creator for the public key, and add it to {allowed} if you trust it",
        )
    arguments = ("-f", str(allowed), "-I", signer[0], "-n", NAMESPACE, "-s", str(signature))
    done = _ssh_keygen("verify", *arguments, data=(folder / SUMS).read_bytes())
    if done.returncode:
        raise RequestError(
            f"the signature is invalid: {_reason(done)}",
            where=str(signature),
            remedy=f"{SUMS} changed after it was signed: copy the bundle again",
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
            "ssh-keygen is not installed", remedy="install openssh-client 8.2 or newer"
        ) from error


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ssh-keygen exited with {done.returncode}"
