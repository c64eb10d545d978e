"""Documents for Kubernetes, and docs/security.md, held to what containers are put to."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from paddle_stacks.dcu.host import Host
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Plan, backend, make
from paddle_stacks.plan.kubernetes import Placement, as_kubernetes
from paddle_stacks.settings import Settings
from tests.support import isolation_attempts
from tests.support import kubernetes_rules as rules

ROOT = Path(__file__).parents[2]


def plan(platform: str, job: str, profile: str = "") -> Plan:
    settings = Settings(root=ROOT, workspace=ROOT)
    host = Host(Path("/"), (), None, None)
    file = backend.load(platform, ROOT, profile)
    made = make(JOBS[job], ["x"], settings, file, user="1000:1000", suffix="x", host=host)
    return dataclasses.replace(made, groups=("44",) if made.groups else ())


def documents(
    platform: str, job: str, nodes: int = 1, profile: str = "", **placement: str
) -> list[dict[str, Any]]:
    file = backend.load(platform, ROOT, profile)
    text = as_kubernetes(
        plan(platform, job, profile), file, nodes, placement=Placement(**placement)
    )
    return list(yaml.safe_load_all(text))


def missing(found: list[dict[str, Any]]) -> list[str]:
    """Return the attempts that a pod is not kept from."""
    pod = rules.pod_of(found[0])
    rows = [row for row in isolation_attempts.ATTEMPTS if row.holds is not None]
    return [row.name for row in rows if not row.holds(pod, found)]


JOBS_OF_A_SCHEDULER = sorted(set(JOBS) - {"serve", "fetch", "fetch-data"})


@pytest.mark.parametrize("job", JOBS_OF_A_SCHEDULER)
@pytest.mark.parametrize(
    ("platform", "placement"),
    [("cpu", {}), ("dcu", {"resources": "hygon"}), ("dcu", {"resources": "hami"})],
)
def test_a_pod_is_kept_from_every_attempt(
    platform: str, placement: dict[str, str], job: str
) -> None:
    assert missing(documents(platform, job, **placement)) == []


@pytest.mark.parametrize("operator", ["none", "paddlejob"])
def test_pods_that_train_together_reach_each_other_and_nothing_else(operator: str) -> None:
    assert missing(documents("cpu", "pretrain", 2, operator=operator)) == ["reach the network"]


@pytest.mark.parametrize("job", ["fetch", "fetch-data"])
def test_what_fetches_reaches_the_network(job: str) -> None:
    assert missing(documents("cpu", job)) == ["reach the network"]


def test_the_documented_profile_is_kept_from_little() -> None:
    found = missing(documents("dcu", "finetune", profile="doc"))
    possible = {row.name for row in isolation_attempts.ATTEMPTS if row.root and row.holds}
    assert possible <= set(found)


Spoil = Callable[[dict[str, Any]], Any]
OWN: Callable[[dict[str, Any]], Any] = lambda pod: pod["containers"][0]["securityContext"]  # noqa: E731


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pod: pod.update(hostPID=True),
        lambda pod: pod.update(automountServiceAccountToken=True),
        lambda pod: pod["securityContext"].update(runAsUser=0, runAsNonRoot=False),
        lambda pod: pod["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        lambda pod: pod["volumes"].append(
            {"name": "engine", "hostPath": {"path": "/var/run/docker.sock"}}
        ),
        lambda pod: pod["volumes"].append({"name": "k", "secret": {"secretName": "keys"}}),
        lambda pod: pod["containers"][0]["volumeMounts"].append(
            {"name": "workspace", "mountPath": "/workspace"}
        ),
        lambda pod: OWN(pod).update(privileged=True),
        lambda pod: OWN(pod).update(readOnlyRootFilesystem=False),
        lambda pod: OWN(pod).update(allowPrivilegeEscalation=True),
        lambda pod: OWN(pod).update(procMount="Unmasked"),
        lambda pod: OWN(pod)["capabilities"].update(add=["SYS_ADMIN"]),
    ],
)
def test_the_rows_see_what_a_pod_is_given(spoil: Spoil) -> None:
    found = copy.deepcopy(documents("cpu", "finetune"))
    spoil(rules.pod_of(found[0]))
    assert missing(found)


def test_the_table_of_the_page_is_the_tests() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    assert isolation_attempts.table() in page, "print(isolation_attempts.table()) makes it anew"


def test_every_row_is_tried() -> None:
    probe = (ROOT / "tests" / "isolation" / "probe.py").read_text()
    for row in isolation_attempts.ATTEMPTS:
        assert f"def {row.name.replace(' ', '_')}(" in probe or row.name == "use all memory"


def test_every_attempt_on_the_page_has_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = page.partition("## Attempts")[2].partition("## What a job cannot do")[0].splitlines()
    tried = [row.rsplit("|", 2)[1] for row in rows if row.startswith("| ") and "test |" not in row]
    assert len(tried) > 20
    for cell in tried:
        named = re.findall(r"`(tests/[^`]+)`", cell)
        assert named and all((ROOT / name.partition("::")[0]).is_file() for name in named), cell
