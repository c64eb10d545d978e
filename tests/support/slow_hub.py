"""The hub that downloading jobs use."""

from __future__ import annotations

import dataclasses

from tests.support.loopback import Server
from tests.support.scenarios import Scenario


def environ(hub: Server) -> dict[str, str]:
    """Return the variables that make a job use a server as the Hugging Face hub."""
    return {"HF_ENDPOINT": hub.url, "no_proxy": "127.0.0.1"}


def reaching(scenario: Scenario, hub: Server) -> Scenario:
    """Let downloading jobs reach the hub, and other jobs nothing."""
    if scenario.argv[0] != "fetch":
        return scenario
    return dataclasses.replace(scenario, environ=environ(hub))
