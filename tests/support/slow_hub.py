"""The hub that jobs which download are led to."""

from __future__ import annotations

import dataclasses

from tests.support.loopback import Server
from tests.support.scenarios import Scenario


def options(hub: Server) -> tuple[str, ...]:
    """Return what ``docker run`` gets so that a job takes a server for the Hugging Face hub."""
    return ("--network=host", "-e", f"HF_ENDPOINT={hub.url}", "-e", "no_proxy=127.0.0.1")


def reaching(scenario: Scenario, hub: Server) -> Scenario:
    """Let a job that downloads reach the hub, and no other job anything."""
    if scenario.argv[0] != "fetch":
        return scenario
    return dataclasses.replace(scenario, options=options(hub))
