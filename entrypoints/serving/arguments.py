"""The arguments of ``serve``, checked together before anything is loaded."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from entrypoints.runtime.arguments import parse as parse_arguments
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import serving
from paddle_stacks.jobs.options import ServeOptions
from paddle_stacks.jobs.serving import Keys

__all__ = ["MOUNTED_KEYS", "Options", "parse"]

MOUNTED_KEYS = Path("/run/secrets/api_keys")
"""The file in which Compose and plans mount the keys; read by default."""


class Options(ServeOptions):
    """Options of ``serve``, and the API keys that they name."""

    @cached_property
    def keys(self) -> Keys:
        """The API keys; empty to answer this machine only."""
        if self.api_keys is not None:
            return Keys(serving.load_some(Path(self.api_keys)))
        return Keys(serving.load(MOUNTED_KEYS) if MOUNTED_KEYS.exists() else {})

    @property
    def address(self) -> str:
        """The address to listen on; all of a container with a published port."""
        return "0.0.0.0" if self.published else self.host


def parse(argv: list[str]) -> Options:
    """Return the options on the command line, with their API keys loaded.

    Raises:
        RequestError: they are invalid; all faults at once.
    """
    options = parse_arguments(Options, argv)
    _check_host(options)
    return options


def _check_host(options: Options) -> None:
    """Check that there are API keys if other machines can reach the server.

    A container does not see where its port is published, and Docker's proxy hides the source of
    connections, so the address of the published port decides.
    """
    if options.keys:
        return
    published = os.environ.get(serving.PUBLISHED_ADDRESS, serving.LOOPBACK)
    if options.published and not serving.is_loopback(published):
        raise RequestError(
            f"SERVE_ADDRESS={published} requires API keys, otherwise the server is open to the"
            " network",
            where="docker-compose.yml, serve",
            remedy="PADDLE_STACKS_API_KEYS_FILE=keys.txt; or leave SERVE_ADDRESS out",
        )
    if not (options.published or serving.is_loopback(options.host)):
        raise RequestError(serving.open_to_the_network(options.host))
    if "*" in options.allowed_origin:
        raise RequestError(
            "--allowed-origin * requires --api-keys, otherwise any web page can use the server",
            where="serve",
            remedy="--api-keys FILE; or name the origins: --allowed-origin https://app.example",
        )
