"""The command line of ``bundle.pyz``, which is part of every bundle and needs only Python."""

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

__all__ = ["log", "main", "verify_and_report"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify or load a bundle and return the exit status.

    Args:
        arguments: of the command line; None for those of the process.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "verify":
            verify_and_report(options.bundle, options.allowed_signers)
        else:
            load(
                options.bundle,
                options.to.absolute(),
                log,
                allowed_signers=options.allowed_signers,
                verify=not options.no_verify,
            )
            log(f"loaded; next: cd {options.to} && ./inv demo (docs/bundle.md has more)")
    except StackError as error:
        print(render(error, colour=sys.stderr.isatty()), file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        stopped = Stopped(signal.SIGINT)
        print(render(stopped), file=sys.stderr)
        return stopped.status
    except OSError as error:
        fault = StackError(str(error), remedy="free space or fix permissions, then run it again")
        print(render(fault), file=sys.stderr)
        return fault.status
    return 0


def verify_and_report(folder: Path, allowed_signers: Path | None) -> Manifest:
    """Verify a bundle, print its origin, and return its manifest."""
    signer = signature.check(folder, allowed_signers) if allowed_signers else ""
    manifest = check.verify(folder, log)
    origin = f"{manifest.backend}, revision {manifest.revision[:12]}, created {manifest.created}"
    signed = f", signed by {signer}" if signer else ""
    log(f"complete: {len(manifest.files)} files for {origin}{signed}")
    return manifest


def log(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    statuses = "; ".join(f"{status}: {meaning}" for status, meaning in STATUSES.items())
    parser = argparse.ArgumentParser(
        prog="bundle.pyz",
        description="Verify or load the bundle that contains this file.",
        epilog=f"Exit status: {statuses}.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in (
        ("verify", "compare every file with its checksum"),
        ("load", "load the images and install the project; continues after an interruption"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument(
            "bundle", type=Path, nargs="?", default=_own_folder(), help="the bundle's folder"
        )
        command.add_argument(
            "--allowed-signers",
            type=Path,
            metavar="FILE",
            help="require a signature by one of these keys (ALLOWED SIGNERS in ssh-keygen(1))",
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
    """Return the folder of bundle.pyz."""
    return Path(sys.argv[0]).absolute().parent
