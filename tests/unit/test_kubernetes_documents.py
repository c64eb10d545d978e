"""The Kubernetes documents are valid by the published schemas and have the least rights."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from paddle_stacks import launch, settings
from paddle_stacks.dcu.host import look
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Plan, backend, make
from paddle_stacks.plan.kubernetes import RUN_LABEL, Placement, as_kubernetes
from tests.support import kubernetes_rules as rules

ROOT = Path(__file__).parents[2]
Documents = list[dict[str, Any]]


def plan_for(name: str = "cpu", profile: str = "", job: str = "pretrain", **changes: Any) -> Plan:
    plan = make(
        JOBS[job],
        ["--config", "my.json"],
        settings.Settings(root=ROOT, workspace=ROOT),
        backend.load(name, ROOT, profile),
        user=changes.pop("user", "1234:1235"),
        suffix="x1",
        host=look(Path("/")),
    )
    plan = dataclasses.replace(plan, groups=() if name == "cpu" else ("44", "109"))
    return dataclasses.replace(plan, **changes)


def documents(plan: Plan, nodes: int = 1, **placement: str) -> Documents:
    platform = backend.load(plan.backend, ROOT, plan.profile)
    text = as_kubernetes(plan, platform, nodes, placement=Placement(**placement))
    return list(yaml.safe_load_all(text))


def kinds(rendered: Documents) -> list[str]:
    return [document["kind"] for document in rendered]


# ------------------------------------------------------------------------------ schemas

EVERYTHING = {
    "namespace": "training",
    "queue": "research",
    "priority": "high",
    "claim": "llm",
    "user": "7:8",
}


@pytest.mark.parametrize("version", [rules.OLDEST, "1.30", rules.NEWEST])
@pytest.mark.parametrize("placement", [{}, EVERYTHING], ids=["bare", "everything"])
@pytest.mark.parametrize(
    ("nodes", "operator"), [(1, "paddlejob"), (2, "paddlejob"), (2, "none")], ids=str
)
@pytest.mark.parametrize(
    ("name", "resources", "profile"),
    [
        ("cpu", "hygon", ""),
        ("dcu", "hygon", ""),
        ("dcu", "hami", ""),
        ("dcu", "hygon", "debug"),
        ("dcu", "hygon", "doc"),
    ],
)
def test_every_document_is_valid(
    name: str,
    resources: str,
    profile: str,
    nodes: int,
    operator: str,
    placement: dict[str, str],
    version: str,
) -> None:
    rendered = documents(
        plan_for(name, profile), nodes, resources=resources, operator=operator, **placement
    )
    assert {d["kind"]: rules.faults(d, version) for d in rendered} == {
        k: [] for k in kinds(rendered)
    }


def _misspell(job: dict[str, Any]) -> None:
    rules.pod_of(job)["containers"][0]["imagePullPolice"] = "Never"


def _text_for_a_number(job: dict[str, Any]) -> None:
    job["spec"]["paddleReplicaSpecs"]["Worker"]["replicas"] = "2"


def _another_field(job: dict[str, Any]) -> None:
    job["spec"]["runPolicy"]["queue"] = "q"


def _rename(job: dict[str, Any]) -> None:
    rules.pod_of(job)["containers"][0]["name"] = "main"


@pytest.mark.parametrize("spoil", [_misspell, _text_for_a_number, _another_field, _rename])
def test_the_schemas_find_errors(spoil: Callable[[dict[str, Any]], None]) -> None:
    (job, _) = documents(plan_for("dcu"), 2)
    assert rules.faults(job) == []
    spoil(job)
    assert len(rules.faults(job)) == 1


# ------------------------------------------------------------------------------ rights


@pytest.mark.parametrize(("nodes", "operator"), [(1, "none"), (2, "none"), (2, "paddlejob")])
def test_a_cpus_pod_passes_the_restricted_standard(nodes: int, operator: str) -> None:
    for user in ("1234:1235", "0:0"):
        rendered = documents(
            plan_for(user=user), nodes, operator=operator, **{**EVERYTHING, "user": ""}
        )
        assert rules.against_restricted(rules.pod_of(rendered[0])) == []


# Exceptions from the standard for a DCU, by device plugin; explained in docs/clusters.md.
EXCEPTIONS = {
    "hygon": {"HostPath Volumes: /opt/hyhal", "Volume Types: host-1"},
    "hami": set[str](),
}


@pytest.mark.parametrize("resources", EXCEPTIONS)
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_dcus_pod_needs_only_the_exceptions(nodes: int, resources: str) -> None:
    pod = rules.pod_of(documents(plan_for("dcu"), nodes, resources=resources)[0])
    assert set(rules.against_restricted(pod)) == EXCEPTIONS[resources]


def test_the_exceptions_are_documented(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "clusters.md").read_text()
    for control in ("HostPath Volumes", "Volume Types"):
        assert control in text


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(pod: dict[str, Any]) -> None:
        *way, last = path.split(".")
        at: Any = pod
        for key in way:
            at = at[int(key)] if key.isdecimal() else at.setdefault(key, {})
        if value is None:
            del at[last]
        else:
            at[last] = value

    return change


OWN = "containers.0.securityContext"


@pytest.mark.parametrize(
    ("path", "value", "control"),
    [
        ("hostNetwork", True, "Host Namespaces"),
        ("hostIPC", True, "Host Namespaces"),
        ("hostPID", True, "Host Namespaces"),
        (f"{OWN}.privileged", True, "Privileged Containers"),
        (f"{OWN}.capabilities.add", ["SYS_PTRACE"], "Capabilities"),
        (f"{OWN}.capabilities.add", ["CHOWN"], "Capabilities (restricted), added"),
        (f"{OWN}.capabilities.drop", ["NET_RAW"], "Capabilities (restricted), dropped"),
        (f"{OWN}.allowPrivilegeEscalation", None, "Privilege Escalation"),
        (f"{OWN}.runAsUser", 0, "Running as Non-root user"),
        (f"{OWN}.procMount", "Unmasked", "/proc Mount Type"),
        (f"{OWN}.seLinuxOptions", {"type": "spc_t"}, "SELinux"),
        (f"{OWN}.appArmorProfile", {"type": "Unconfined"}, "AppArmor"),
        (f"{OWN}.windowsOptions", {"hostProcess": True}, "HostProcess"),
        ("containers.0.ports", [{"containerPort": 1, "hostPort": 1}], "Host Ports"),
        ("securityContext.runAsNonRoot", None, "Running as Non-root"),
        ("securityContext.seccompProfile", {"type": "Unconfined"}, "Seccomp"),
        ("securityContext.seccompProfile", None, "Seccomp (restricted)"),
        ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "Sysctls"),
        ("volumes", [{"name": "v", "hostPath": {"path": "/"}}], "HostPath Volumes"),
        ("volumes", [{"name": "v", "nfs": {"server": "s", "path": "/"}}], "Volume Types"),
    ],
)
def test_the_standard_finds_violations(path: str, value: Any, control: str) -> None:
    pod = copy.deepcopy(rules.pod_of(documents(plan_for())[0]))
    _set(path, value)(pod)
    assert control in {message.partition(":")[0] for message in rules.against_restricted(pod)}


def test_the_pod_has_no_access_to_the_cluster() -> None:
    for nodes in (1, 2):
        pod = rules.pod_of(documents(plan_for("dcu"), nodes)[0])
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert "serviceAccountName" not in pod


@pytest.mark.parametrize(
    ("user", "requested", "expected"),
    [
        ("1234:1235", "", (1234, 1235)),
        ("0:0", "", (1000, 1000)),
        ("1234:1235", "7:8", (7, 8)),
        ("0:0", "9", (9, 0)),
    ],
)
def test_the_user_of_the_job(user: str, requested: str, expected: tuple[int, int]) -> None:
    context = rules.pod_of(documents(plan_for(user=user), user=requested)[0])["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == expected
    assert context["runAsNonRoot"] is True


# ------------------------------------------------------------------------ several nodes


def test_an_indexed_job_without_an_operator() -> None:
    job, service, policy = documents(plan_for("dcu"), 3, operator="none", namespace="n")
    name, spec = job["metadata"]["name"], job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["backoffLimit"] == 0 and "podFailurePolicy" not in spec, "all pods end with one"
    # The first pod's name is one of the Service's, before it is ready.
    assert service["metadata"]["name"] == rules.pod_of(job)["subdomain"] == name
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    (container,) = rules.pod_of(job)["containers"]
    variables = {v["name"]: v.get("value") for v in container["env"]}
    port = service["spec"]["ports"][0]["port"]
    assert variables["PADDLE_MASTER"] == f"{name}-0.{name}:{port}"
    assert (variables["PADDLE_NNODES"], variables["PADDLE_JOB_ID"]) == ("3", name)
    assert container["ports"][0]["containerPort"] == port
    labels = spec["template"]["metadata"]["labels"]
    for selector in (service["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"]):
        assert selector == {RUN_LABEL: name} and selector.items() <= labels.items()
    assert {d["metadata"]["namespace"] for d in (job, service, policy)} == {"n"}


@pytest.mark.parametrize(
    ("operator", "field"),
    [
        ("none", "metadata.annotations['batch.kubernetes.io/job-completion-index']"),
        ("paddlejob", "metadata.labels['training.kubeflow.org/replica-index']"),
    ],
)
def test_a_pods_rank_is_its_number(operator: str, field: str) -> None:
    (container,) = rules.pod_of(documents(plan_for("dcu"), 2, operator=operator)[0])["containers"]
    (rank,) = (v for v in container["env"] if v["name"] == "PADDLE_RANK")
    assert rank["valueFrom"] == {"fieldRef": {"fieldPath": field}}


@pytest.mark.parametrize("operator", ["none", "paddlejob"])
def test_pods_can_connect_only_to_each_other_and_to_dns(operator: str) -> None:
    job, *others = documents(plan_for("dcu", network="host"), 2, operator=operator)
    (policy,) = (d for d in others if d["kind"] == "NetworkPolicy")
    own = [{"podSelector": policy["spec"]["podSelector"]}]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == [{"from": own}]
    pods, names = policy["spec"]["egress"]
    assert pods == {"to": own}
    assert {(p["protocol"], p["port"]) for p in names["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert "hostNetwork" not in rules.pod_of(job), "a plan for several nodes is Docker's"


def test_a_job_that_fetches_has_the_network() -> None:
    assert kinds(documents(plan_for(job="fetch"))) == ["Job"]


# --------------------------------------------------------------------- cards and queues


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ("hygon", {"hygon.com/dcu": 8}),
        ("hami", {"hygon.com/dcunum": 8, "hygon.com/dcucores": 100}),
    ],
)
def test_whole_devices_by_the_plugins_own_names(resources: str, limits: dict[str, int]) -> None:
    pod = rules.pod_of(documents(plan_for("dcu", ranks=8), resources=resources)[0])
    assert pod["containers"][0]["resources"] == {"limits": limits}
    folders = [v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v]
    assert folders == ([] if resources == "hami" else ["/opt/hyhal"]), "HAMi's plugin mounts it"


@pytest.mark.parametrize("nodes", [1, 2])
def test_volcano_starts_all_pods_or_none(nodes: int) -> None:
    rendered = documents(plan_for("dcu"), nodes, operator="none", queue="on", priority="1e3")
    job = rendered[0]
    (group,) = (d for d in rendered if d["kind"] == "PodGroup")
    assert group["spec"] == {"minMember": nodes, "queue": "on", "priorityClassName": "1e3"}
    annotations = job["spec"]["template"]["metadata"]["annotations"]
    assert annotations["scheduling.k8s.io/group-name"] == group["metadata"]["name"]
    pod = rules.pod_of(job)
    assert (pod["schedulerName"], pod["priorityClassName"]) == ("volcano", "1e3")


def test_the_operator_creates_the_group_itself() -> None:
    rendered = documents(plan_for("dcu"), 4, queue="research", priority="high")
    assert kinds(rendered) == ["PaddleJob", "NetworkPolicy"]
    expected = {"minAvailable": 4, "queue": "research", "priorityClass": "high"}
    assert rendered[0]["spec"]["runPolicy"]["schedulingPolicy"] == expected
    assert rules.pod_of(rendered[0])["schedulerName"] == "volcano"


def test_without_a_queue_the_default_scheduler_is_used() -> None:
    for operator in ("none", "paddlejob"):
        rendered = documents(plan_for("dcu"), 2, operator=operator)
        assert "PodGroup" not in kinds(rendered)
        assert not {"schedulerName", "priorityClassName"} & rules.pod_of(rendered[0]).keys()


# --------------------------------------------------------------------------- many nodes


def test_a_thousand_cards() -> None:
    loaded = settings.load(ROOT, {"backend": "dcu"}, {})
    choices = launch.Choices("", (), "pretrain-pp8-nodes")
    words = ["--nnodes=128", "--master=0.0.0.0:1", "--rank=0"]
    plan = launch.make_plan("pretrain", words, loaded, choices)
    plan = dataclasses.replace(plan, groups=("44",))
    job, policy = documents(plan, 128)
    worker = job["spec"]["paddleReplicaSpecs"]["Worker"]
    cards = rules.pod_of(job)["containers"][0]["resources"]["limits"]["hygon.com/dcu"]
    assert worker["replicas"] * cards == 1024
    assert [rules.faults(d) for d in (job, policy)] == [[], []]
    # A pod's name is its host name, hence a DNS label.
    assert len(f"{job['metadata']['name']}-worker-127") <= 63


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pipeline_parallel_degree=7", "7"),
        ("tensor_parallel_degree=3", "3"),
        ("sharding_parallel_degree=1000", "1000"),
    ],
)
def test_a_layout_that_a_thousand_cards_cannot_have(change: str, message: str) -> None:
    loaded = settings.load(ROOT, {"backend": "dcu"}, {})
    choices = launch.Choices("", (), "pretrain-pp8-nodes", (change,))
    words = ["--nnodes=128", "--master=0.0.0.0:1", "--rank=0"]
    with pytest.raises(RequestError) as caught:
        launch.make_plan("pretrain", words, loaded, choices)
    assert message in str(caught.value) and "1024" in str(caught.value)


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("placement", "where", "message"),
    [
        ({"claim": ""}, "--claim", "not a valid name for a PersistentVolumeClaim"),
        ({"claim": "a_b"}, "--claim", "not a valid name for a PersistentVolumeClaim"),
        ({"namespace": "A"}, "--namespace", "not a valid name for a namespace"),
        ({"namespace": "a.b"}, "--namespace", "not a valid name for a namespace"),
        ({"queue": "-q"}, "--queue", "not a valid name for a queue"),
        ({"priority": "very high"}, "--priority", "not a valid name for a PriorityClass"),
        ({"resources": "hygn"}, "--resources", 'unknown device plugin "hygn"'),
        ({"operator": "paddlejobs"}, "--operator", 'unknown operator "paddlejobs"'),
        ({"user": "me"}, "--user", 'expected a numeric UID:GID, got "me"'),
        ({"user": "1:2:3"}, "--user", 'expected a numeric UID:GID, got "1:2:3"'),
    ],
)
def test_an_invalid_placement(placement: dict[str, str], where: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        documents(plan_for("dcu"), **placement)
    (problem,) = caught.value.problems
    assert problem.where == where and message in problem.what and problem.remedy


def test_a_misspelling_gets_a_suggestion() -> None:
    with pytest.raises(RequestError) as caught:
        documents(plan_for("dcu"), resources="hammi", operator="non")
    assert [p.remedy.partition("?")[0] for p in caught.value.problems] == [
        'did you mean "hami"',
        'did you mean "none"',
    ]
