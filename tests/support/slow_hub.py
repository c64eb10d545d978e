"""The hub that jobs which download are led to."""

from __future__ import annotations

import dataclasses

from tests.support.loopback import Server
from tests.support.scenarios import Scenario


def environ(hub: Server) -> dict[str, str]:
    """Return the variables by which a job takes a server for the Hugging Face hub."""
    return {"HF_ENDPOINT": hub.url, "no_proxy": "127.0.0.1"}


def reaching(scenario: Scenario, hub: Server) -> Scenario:
    """Let a job that downloads reach the hub, and no other job anything."""
    if scenario.argv[0] != "fetch":
        return scenario
    return dataclasses.replace(scenario, environ=environ(hub))
