"""The command line of ``bundle.pyz``, which lies in every bundle and needs nothing but Python."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from paddle_stacks.bundle import check, signature
from paddle_stacks.bundle.contents import Manifest
from paddle_stacks.bundle.load import load
from paddle_stacks.errors import STATUSES, StackError, Stopped, render

__all__ = ["main", "say", "told_verified"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or load a bundle and return the exit status.

    Args:
        arguments: the command line's; None for the process's own.
    """
    given = _parser().parse_args(arguments)
    try:
        if given.command == "verify":
            told_verified(given.bundle, given.allowed_signers)
        else:
            load(
                given.bundle,
                given.to.absolute(),
                say,
                allowed_signers=given.allowed_signers,
                verify=not given.no_verify,
            )
            say(f"loaded: cd {given.to}, then ./inv demo, or what docs/bundle.md has")
    except StackError as error:
        print(render(error, colour=sys.stderr.isatty()), file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        stopped = Stopped(signal.SIGINT)
        print(render(stopped), file=sys.stderr)
        return stopped.status
    except OSError as error:
        told = StackError(str(error), remedy="free space or fix the permissions, then run it again")
        print(render(told), file=sys.stderr)
        return told.status
    return 0


def told_verified(folder: Path, allowed_signers: Path | None) -> Manifest:
    """Check a bundle, say what it is, and return its manifest."""
    signer = signature.check(folder, allowed_signers) if allowed_signers else ""
    manifest = check.verify(folder, say)
    made = f"of {manifest.backend}, revision {manifest.revision[:12]}, made {manifest.created}"
    say(f"whole: {len(manifest.files)} files {made}" + (f", signed by {signer}" if signer else ""))
    return manifest


def say(text: str) -> None:
    """Write a line about what is being done."""
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    statuses = "; ".join(f"{status}: {meaning}" for status, meaning in STATUSES.items())
    parser = argparse.ArgumentParser(
        prog="bundle.pyz",
        description="Check or load the bundle that this file lies in.",
        epilog=f"Exit status: {statuses}.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in (
        ("verify", "compare every file with its sum"),
        ("load", "load the images and lay the project down; goes on where it was interrupted"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument(
            "bundle", type=Path, nargs="?", default=_own_folder(), help="its folder"
        )
        command.add_argument(
            "--allowed-signers",
            type=Path,
            metavar="FILE",
            help="want a signature by one of these keys (ALLOWED SIGNERS in ssh-keygen(1))",
        )
        if name == "load":
            command.add_argument(
                "--to",
                type=Path,
                default=Path("paddle-stacks"),
                metavar="FOLDER",
                help="the project's folder (default: ./paddle-stacks)",
            )
            command.add_argument("--no-verify", action="store_true", help="do not test the images")
    return parser


def _own_folder() -> Path:
    """Return the folder of the archive that this runs from."""
    return Path(sys.argv[0]).absolute().parent
