"""The Kubernetes executor with the official client and a fake API server.

The server (kubernetes_server.py) validates documents against the published schemas and
grants only the Role in configs/cluster/, so that the documented permissions are sufficient.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks import settings
from paddle_stacks.dcu.host import look
from paddle_stacks.errors import MachineError, RequestError, StackError
from paddle_stacks.executors.cluster import JobSpec, JobStatus, SubmittedJob
from paddle_stacks.executors.kubernetes import Kubernetes
from paddle_stacks.executors.kubernetes_api import Api, connect
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Plan, backend, make
from paddle_stacks.plan.kubernetes import RUN_LABEL, Placement
from tests.support import kubernetes_rules as rules
from tests.support import kubernetes_server as server
from tests.support.kubernetes_server import RESET, VOLCANO, Cluster

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "configs" / "cluster" / "kubernetes-role.yaml"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster whose user has the documented Role, and its kubeconfig."""
    with server.serving(ROLE) as fake:
        path = server.kubeconfig(tmp_path / "config", here=fake.url)
        monkeypatch.setenv("KUBECONFIG", str(path))
        for name in ("KUBERNETES_SERVICE_HOST", "http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield fake


@pytest.fixture
def pauses() -> list[float]:
    """The recorded pauses in seconds."""
    return []


@pytest.fixture
def engine(pauses: list[float]) -> Engine:
    return Engine(pauses)


class Engine:
    """Creates executors that record pauses instead of sleeping."""

    def __init__(self, pauses: list[float]) -> None:
        self._pauses = pauses

    def __call__(self, context: str = "", **placement: str) -> Kubernetes:
        return Kubernetes(Placement(**placement), context, self._connect)

    def _connect(self, context: str) -> Api:
        return connect(context, pause=self._pauses.append)


def plan_for(name: str = "cpu", job: str = "pretrain", **changes: Any) -> Plan:
    plan = make(
        JOBS[job],
        ["--config", "my.json"],
        settings.Settings(root=ROOT, workspace=ROOT),
        backend.load(name, ROOT),
        user="1234:1235",
        suffix=changes.pop("suffix", "x1"),
        host=look(Path("/")),
    )
    plan = dataclasses.replace(plan, groups=() if name == "cpu" else ("44", "109"))
    return dataclasses.replace(plan, **changes)


def spec_for(plan: Plan | None = None, nodes: int = 1, **rest: Any) -> JobSpec:
    plan = plan or plan_for()
    return JobSpec(plan, backend.load(plan.backend, ROOT), nodes, 24, Path("runs/try"), **rest)


def text_of(error: StackError) -> str:
    return "; ".join(f"{p.what} ({p.where}) {p.remedy}" for p in error.problems)


# ------------------------------------------------------------------------------- submit


@pytest.mark.parametrize("name", ["cpu", "dcu"])
@pytest.mark.parametrize(
    ("nodes", "operator", "kinds"),
    [
        (1, "", ["jobs", "networkpolicies"]),
        (2, "none", ["jobs", "services", "networkpolicies"]),
        (2, "paddlejob", ["paddlejobs", "networkpolicies"]),
        (2, "", ["paddlejobs", "networkpolicies"]),
    ],
)
def test_a_job_and_its_dependents(
    cluster: Cluster, engine: Engine, name: str, nodes: int, operator: str, kinds: list[str]
) -> None:
    plan = plan_for(name, ranks=2)
    submitted = engine(operator=operator).submit(spec_for(plan, nodes))
    assert (submitted.engine, submitted.id) == ("kubernetes", plan.name)
    assert (submitted.nodes, submitted.ranks, submitted.run) == (nodes, 2, "runs/try")
    kind = "PaddleJob" if "paddlejobs" in kinds else "Job"
    assert submitted.place == {"namespace": "training", "context": "here", "kind": kind}
    job, *others = (o for plural in kinds for o in cluster.of(plural))
    assert [o["kind"] for o in (job, *others)] == [o["kind"] for o in _created(cluster)]
    for other in others:
        (owner,) = other["metadata"]["ownerReferences"]
        assert owner["uid"] == job["metadata"]["uid"] and owner["kind"] == kind
    assert len(cluster.of("pods")) == nodes
    assert all(p["metadata"]["labels"][RUN_LABEL] == plan.name for p in cluster.of("pods"))


def _created(cluster: Cluster) -> list[dict[str, Any]]:
    return [request.body for request in cluster.requests if request.method == "POST"]


@pytest.mark.parametrize("operator", ["none", "paddlejob"])
def test_the_job_starts_after_its_dependents_exist(
    cluster: Cluster, engine: Engine, operator: str
) -> None:
    seen: list[tuple[str, int]] = []
    answer = cluster.answer

    def watch(request: server.Request, token: str) -> Any:
        response = answer(request, token)
        if request.method in ("POST", "PATCH"):
            seen.append((request.path.split("/")[-1], len(cluster.of("pods"))))
        return response

    cluster.answer = watch  # type: ignore[method-assign]
    submitted = engine(operator=operator).submit(spec_for(nodes=2))
    assert seen[-1] == (submitted.id, 2), "it is resumed once the policy exists"
    assert [pods for _, pods in seen[:-1]] == [0] * (len(seen) - 1) and len(seen) > 2


def test_a_job_without_dependents_is_one_document(cluster: Cluster, engine: Engine) -> None:
    engine().submit(spec_for(plan_for(job="fetch")))
    assert [request.method for request in cluster.requests].count("POST") == 1
    assert not [request for request in cluster.requests if request.method == "PATCH"]
    assert len(cluster.of("pods")) == 1


@pytest.mark.parametrize(("requested", "kind"), [("", "Job"), ("none", "Job")])
def test_without_the_operator_it_is_an_indexed_job(
    cluster: Cluster,
    engine: Engine,
    requested: str,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.served.remove(server.OPERATOR)
    submitted = engine(operator=requested).submit(spec_for(nodes=2))
    assert submitted.place["kind"] == kind
    assert cluster.of("jobs")[0]["spec"]["completionMode"] == "Indexed"
    assert ("no Training Operator" in capsys.readouterr().err) is (requested == "")


def test_queue_and_priority_are_checked(cluster: Cluster, engine: Engine) -> None:
    cluster.rules = None
    cluster.add(VOLCANO, "queues", "research")
    cluster.add("scheduling.k8s.io/v1", "priorityclasses", "high")
    engine(operator="none", queue="research", priority="high").submit(spec_for(plan_for("dcu"), 2))
    (group,) = cluster.of("podgroups")
    assert group["spec"] == {"minMember": 2, "queue": "research", "priorityClassName": "high"}


def test_objects_that_cannot_be_read_are_assumed_to_exist(cluster: Cluster, engine: Engine) -> None:
    engine(operator="none", queue="research", priority="high").submit(spec_for(nodes=2))
    assert {d["kind"] for d in _created(cluster)} == {
        *("Job", "Service", "NetworkPolicy", "PodGroup")
    }


def test_the_namespace_and_context_options(
    cluster: Cluster, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = server.kubeconfig(tmp_path / "two", other="http://127.0.0.1:1", there=cluster.url)
    monkeypatch.setenv("KUBECONFIG", str(path))
    cluster.namespaces.add("batch")
    cluster.add(server.CORE, "persistentvolumeclaims", "llm", "batch", spec={})
    executor = engine("there", namespace="batch", claim="llm")
    submitted = executor.submit(spec_for())
    assert submitted.place["namespace"] == "batch" and submitted.place["context"] == "there"
    # The record identifies the job, whatever the current context is.
    (row,) = engine().status([submitted])
    assert row.state == "pending"


# ------------------------------------------------------------------------------- errors


def _no_namespace(cluster: Cluster) -> None:
    cluster.namespaces.clear()


def _no_claim(cluster: Cluster) -> None:
    cluster.objects.clear()


def _own_claim(cluster: Cluster) -> None:
    cluster.add_claim(modes=("ReadWriteOnce",))


def _lost_claim(cluster: Cluster) -> None:
    cluster.of("persistentvolumeclaims")[0]["status"] = {"phase": "Lost"}


def _may_not(verb: str, resource: str) -> Any:
    def change(cluster: Cluster) -> None:
        for rule in cluster.rules or []:
            if resource in rule["resources"]:
                rule["verbs"].remove(verb)

    return change


def _no_operator(cluster: Cluster) -> None:
    cluster.served.remove(server.OPERATOR)


def _all_rights(cluster: Cluster) -> None:
    cluster.rules = None


def _expired(cluster: Cluster) -> None:
    cluster.token = "another"


def _quota(cluster: Cluster) -> None:
    cluster.quota = 0


def _fault(method: str, part: str, fault: int | str, times: int = 1) -> Any:
    def change(cluster: Cluster) -> None:
        cluster.faults += [(method, part, fault)] * times

    return change


@pytest.mark.parametrize(
    ("change", "nodes", "placement", "status", "message"),
    [
        (_no_namespace, 1, {}, 2, "namespace training does not exist"),
        (_all_rights, 1, {"namespace": "x"}, 2, "namespace x does not exist (--namespace)"),
        (_no_claim, 1, {}, 2, "PersistentVolumeClaim workspace does not exist"),
        (None, 1, {"claim": "llm"}, 2, "PersistentVolumeClaim llm does not exist"),
        (_own_claim, 2, {}, 2, "cannot share the claim workspace: its mode is ReadWriteOnce"),
        (_lost_claim, 1, {}, 2, "the claim workspace has lost its volume"),
        (_all_rights, 1, {"queue": "q"}, 2, "Volcano queue q does not exist"),
        (_all_rights, 1, {"priority": "p"}, 2, "PriorityClass p does not exist"),
        (_no_operator, 2, {"operator": "paddlejob"}, 2, "--operator none"),
        (_fault("POST", "jobs", 409), 1, {}, 2, "an object with this name already exists"),
        (_fault("POST", "jobs", 422), 1, {}, 2, "refuses to create the Job"),
        (_fault("POST", "jobs", 400), 1, {}, 2, "refuses to create the Job"),
        (_may_not("create", "jobs"), 1, {}, 3, "kubernetes-role.yaml"),
        (_may_not("create", "networkpolicies"), 1, {}, 3, "denied to create the NetworkPolicy"),
        (_may_not("patch", "jobs"), 1, {}, 3, "permission denied to start the Job"),
        (_expired, 1, {}, 3, "credentials are invalid or have expired"),
        (_quota, 1, {}, 3, "quota does not allow to create the Job"),
        (_fault("POST", "jobs", 500, 4), 1, {}, 3, "(HTTP 500, 4 tries)"),
        (_fault("POST", "jobs", 429, 4), 1, {}, 3, "(HTTP 429, 4 tries)"),
        (_fault("GET", "", "reset", 4), 1, {}, 3, "cannot be reached"),
        (None, 0, {}, 2, "--nodes must be at least 1, got 0"),
        (None, 1, {"claim": "A"}, 2, "not a valid name for a PersistentVolumeClaim"),
    ],
)
def test_what_cannot_be_submitted(
    cluster: Cluster,
    engine: Engine,
    change: Any,
    nodes: int,
    placement: dict[str, str],
    status: int,
    message: str,
) -> None:
    if change:
        change(cluster)
    with pytest.raises(StackError) as caught:
        engine(**placement).submit(spec_for(nodes=nodes))
    assert caught.value.status == status and message in text_of(caught.value)
    cluster.collect()
    left = {key[1] for key in cluster.objects} - {"persistentvolumeclaims", "queues"}
    assert left == set(), "nothing is left"


def test_all_reasons_are_reported_at_once(cluster: Cluster, engine: Engine) -> None:
    cluster.rules = None
    with pytest.raises(RequestError) as caught:
        engine(claim="a", queue="b", priority="c").submit(spec_for())
    assert [p.where for p in caught.value.problems] == ["--claim", "--priority", "--queue"]


def test_a_failed_rollback_is_reported(cluster: Cluster, engine: Engine) -> None:
    cluster.faults += [("POST", "networkpolicies", 403), ("DELETE", "jobs", 403)]
    with pytest.raises(MachineError) as caught:
        engine().submit(spec_for())
    assert "could not be deleted and remains suspended" in text_of(caught.value)
    assert "kubectl delete job paddle-stacks-pretrain-x1" in text_of(caught.value)
    assert cluster.of("pods") == []


def test_a_violated_security_standard_is_a_request_error() -> None:
    from paddle_stacks.executors.kubernetes_api import ApiError, explain

    message = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes'
    error = explain(ApiError(403, "Forbidden", message), "create the Job x", "training")
    assert error.status == 2 and "security standard" in text_of(error)


# ------------------------------------------------------------------------------ retries


@pytest.mark.parametrize(
    ("fault", "waited"), [(429, [7.0]), (500, [1.0]), (503, [1.0]), ("reset", [1.0])]
)
def test_temporary_errors_are_retried(
    cluster: Cluster, engine: Engine, pauses: list[float], fault: int | str, waited: list[float]
) -> None:
    cluster.faults.append(("POST", "jobs$", fault))
    engine().submit(spec_for())
    assert len(cluster.of("jobs")) == 1 and pauses == waited


def test_a_lost_response_does_not_create_a_second_job(cluster: Cluster, engine: Engine) -> None:
    cluster.faults += [("POST", "jobs$", "lost"), ("POST", "networkpolicies$", "lost")]
    cluster.faults += [("PATCH", "jobs/", "lost")]
    cluster.rules = None
    submitted = engine().submit(spec_for())
    assert [j["metadata"]["name"] for j in cluster.of("jobs")] == [submitted.id]
    assert len(cluster.of("networkpolicies")) == 1 and len(cluster.of("pods")) == 1


def test_an_existing_name_is_an_error(cluster: Cluster, engine: Engine) -> None:
    engine().submit(spec_for())
    (job,) = cluster.of("jobs")
    with pytest.raises(RequestError, match="an object with this name already exists"):
        engine().submit(spec_for())
    assert cluster.of("jobs") == [job] and "deletionTimestamp" not in job["metadata"]


def test_a_server_that_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine, pauses: list[float]
) -> None:
    with server.serving() as gone:
        path = server.kubeconfig(tmp_path / "config", here=gone.url)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(MachineError) as caught:
        engine().submit(spec_for())
    assert caught.value.status == 3 and "cannot be reached" in text_of(caught.value)
    assert "context here" in text_of(caught.value) and pauses == []


# ------------------------------------------------------------------------- kubeconfig


@pytest.mark.parametrize(
    ("text", "context", "status", "message"),
    [
        (None, "", 3, "no kubeconfig found"),
        ("", "", 3, "kubeconfig is invalid"),
        ("a: [", "", 3, "kubeconfig is invalid"),
        ("apiVersion: v1\nkind: Config\n", "", 3, "kubeconfig is invalid"),
        ("good", "hree", 2, 'did you mean "here"? contexts: here, there'),
    ],
)
def test_an_invalid_kubeconfig(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    context: str,
    status: int,
    message: str,
) -> None:
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if text == "good":
        server.kubeconfig(path, here="http://127.0.0.1:1", there="http://127.0.0.1:2")
    elif text is not None:
        path.write_text(text)
    with pytest.raises(StackError) as caught:
        connect(context)
    assert caught.value.status == status and message in text_of(caught.value)
    assert str(path) in text_of(caught.value)


def test_a_pod_uses_its_own_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    with pytest.raises(MachineError) as caught:
        connect()
    assert "this pod has no service account" in text_of(caught.value)


# ------------------------------------------------------------------------------- status


def submit(cluster: Cluster, engine: Engine, nodes: int = 1, ranks: int = 1) -> SubmittedJob:
    submitted = engine(operator="none").submit(spec_for(plan_for(ranks=ranks), nodes))
    cluster.requests.clear()
    return submitted


def status_of(engine: Engine, job: SubmittedJob) -> JobStatus:
    (status,) = engine().status([job])
    return status


def test_the_states_of_a_job(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine, nodes=2)
    status = status_of(engine, job)
    assert (status.state, status.ended, status.nodes, status.why) == ("pending", False, "", "")
    first, second = cluster.of("pods")
    cluster.run(first, "node-a")
    cluster.wait(second, "ContainerCreating")
    assert (status_of(engine, job).state, status_of(engine, job).nodes) == ("pending", "node-a")
    cluster.run(second, "node-b")
    assert (status_of(engine, job).state, status_of(engine, job).nodes) == (
        "running",
        "node-a,node-b",
    )
    for pod in (first, second):
        cluster.end(pod)
    cluster.finish(cluster.of("jobs")[0], "Complete", seconds=3661)
    status = status_of(engine, job)
    assert (status.state, status.ended, status.elapsed, status.why) == (
        "succeeded",
        True,
        "1:01:01",
        "",
    )


@pytest.mark.parametrize("kind", ["jobs", "paddlejobs"])
def test_the_reason_of_a_failed_job(cluster: Cluster, engine: Engine, kind: str) -> None:
    operator = "paddlejob" if kind == "paddlejobs" else "none"
    job = engine(operator=operator).submit(spec_for(nodes=2))
    first, second = cluster.of("pods")
    cluster.run(first)
    cluster.end(second, 2)
    cluster.finish(cluster.of(kind)[0], "Failed", "Job has reached the specified backoff limit")
    status = status_of(engine, job)
    assert (status.state, status.ended) == ("failed", True)
    assert "exited with status 2 (the request is wrong" in status.why
    assert second["metadata"]["name"] in status.why
    assert status.elapsed == "1:01:01"


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (5, "", "status 5 (a job failed)"),
        (137, "OOMKilled", "status 137 (killed by signal 9), OOMKilled"),
        (1, "", "status 1"),
    ],
)
def test_the_exit_status_of_a_pod(
    cluster: Cluster, engine: Engine, status: int, reason: str, message: str
) -> None:
    job = submit(cluster, engine)
    (pod,) = cluster.of("pods")
    cluster.end(pod, status, reason)
    cluster.finish(cluster.of("jobs")[0], "Failed", "backoff limit")
    assert status_of(engine, job).why.endswith(message)


def test_a_job_that_exceeded_its_time_limit(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    cluster.finish(cluster.of("jobs")[0], "Failed", "Job was active longer than specified deadline")
    assert status_of(engine, job).why == "Job was active longer than specified deadline"


def test_the_reason_of_a_pending_job(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    (pod,) = cluster.of("pods")
    cluster.warn("another", "FailedScheduling", "not ours")
    cluster.warn(pod["metadata"]["name"], "FailedScheduling", "0/4 nodes: 4 Insufficient dcu")
    cluster.warn(job.id, "FailedCreate", "exceeded quota: team")
    assert status_of(engine, job).why == "FailedCreate: exceeded quota: team"
    cluster.wait(pod, "ErrImageNeverPull", "image is not present")
    assert status_of(engine, job).why == "ErrImageNeverPull: image is not present"
    assert status_of(engine, job).state == "pending"


def test_a_reason_that_cannot_be_read_is_omitted(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    cluster.warn(job.id, "FailedCreate", "exceeded quota: team")
    _may_not("list", "events")(cluster)
    for rule in cluster.rules or []:
        if rule["resources"] == ["pods", "events"]:
            rule.update(resources=["pods"], verbs=["list"])
    assert (status_of(engine, job).state, status_of(engine, job).why) == ("pending", "")


def test_a_deleted_job(cluster: Cluster, engine: Engine) -> None:
    gone, there = submit(cluster, engine), engine().submit(spec_for(plan_for(suffix="x2")))
    cluster.objects = {k: o for k, o in cluster.objects.items() if k[3] != gone.id}
    first, second = engine().status([gone, there])
    assert (first.id, first.state, first.ended) == (gone.id, "unknown", True)
    assert (second.id, second.state) == (there.id, "pending")


# ------------------------------------------------------------------------------- cancel


@pytest.mark.parametrize("operator", ["none", "paddlejob"])
def test_a_cancelled_job_is_deleted_with_its_dependents(
    cluster: Cluster, engine: Engine, operator: str
) -> None:
    job = engine(operator=operator).submit(spec_for(nodes=2))
    executor = engine()
    executor.cancel(job)
    assert status_of(engine, job).state == "stopping", "its pods can still save"
    assert all("deletionTimestamp" in pod["metadata"] for pod in cluster.of("pods"))
    cluster.collect()
    assert {key[1] for key in cluster.objects} == {"persistentvolumeclaims"}
    with pytest.raises(RequestError, match="has already ended: unknown"):
        executor.cancel(job)


def test_a_job_that_has_ended_cannot_be_cancelled(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    cluster.finish(cluster.of("jobs")[0], "Complete")
    with pytest.raises(RequestError, match="has already ended: succeeded"):
        engine().cancel(job)
    assert len(cluster.of("jobs")) == 1


def test_a_lost_response_to_a_deletion(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    cluster.faults.append(("DELETE", "jobs", "lost"))
    engine().cancel(job)
    assert status_of(engine, job).state == "stopping"


def test_cancelling_without_permission(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    _may_not("delete", "jobs")(cluster)
    with pytest.raises(MachineError, match="permission denied to delete"):
        engine().cancel(job)


# --------------------------------------------------------------------------------- logs


def text(lines: Iterator[str]) -> list[str]:
    return list(lines)


def test_a_pods_output(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    (pod,) = cluster.of("pods")
    cluster.run(pod)
    cluster.write(pod, b"one", "zwei 两".encode(), b"", b"50%\r100%\r", b"  four")
    assert text(engine().logs(job)) == ["one", "zwei 两", "", "100%", "  four"]


def test_the_output_of_every_pod_with_its_number(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine, nodes=2)
    first, second = cluster.of("pods")
    for pod, words in ((first, b"of the first"), (second, b"of the second")):
        cluster.run(pod)
        cluster.write(pod, words)
    assert text(engine().logs(job)) == ["0: of the first", "1: of the second"]
    assert text(engine().logs(job, 1)) == ["of the second"]


def test_a_pending_pod_does_not_hide_the_others(
    cluster: Cluster, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    job = submit(cluster, engine, nodes=2)
    first, second = cluster.of("pods")
    cluster.wait(first, "ContainerCreating")
    cluster.run(second)
    cluster.write(second, b"here")
    assert text(engine().logs(job)) == ["1: here"]
    assert "no output in pod 0" in capsys.readouterr().err


def test_following_to_the_end(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    (pod,) = cluster.of("pods")
    cluster.run(pod)
    cluster.write(pod, b"first")
    lines = engine().logs(job, follow=True)
    assert next(lines) == "first"
    cluster.write(pod, b"second")
    assert next(lines) == "second"
    cluster.write(pod, b"third")
    cluster.end(pod)
    cluster.finish(cluster.of("jobs")[0], "Complete")
    assert text(lines) == ["third"]


def test_following_before_the_pod_runs(
    cluster: Cluster, engine: Engine, pauses: list[float]
) -> None:
    job = submit(cluster, engine)
    (pod,) = cluster.of("pods")
    cluster.wait(pod, "ContainerCreating")
    lines = engine().logs(job, follow=True)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.extend(lines))
    reader.start()
    with cluster.changed:
        while not any(request.path.endswith("/log") for request in cluster.requests):
            cluster.changed.wait(0.01)
    cluster.run(pod)
    cluster.write(pod, b"at last")
    cluster.end(pod)
    cluster.finish(cluster.of("jobs")[0], "Complete")
    reader.join(30)
    assert got == ["at last"] and pauses


@pytest.mark.parametrize("follow", [False, True])
def test_a_connection_that_breaks_loses_no_line_and_repeats_none(
    cluster: Cluster, engine: Engine, follow: bool
) -> None:
    job = submit(cluster, engine)
    (pod,) = cluster.of("pods")
    cluster.run(pod)
    # Including lines with the same time, and equal lines.
    lines = [b"a", b"a", b"b", RESET, b"b", b"c", RESET, RESET, b"c", b"c", b"d"]
    cluster.write(pod, *lines)
    cluster.end(pod)
    cluster.finish(cluster.of("jobs")[0], "Complete")
    expected = [line.decode() for line in lines if line != RESET]
    assert text(engine().logs(job, follow=follow)) == expected
    assert sum(request.path.endswith("/log") for request in cluster.requests) == 4


def test_a_connection_that_keeps_breaking(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    (pod,) = cluster.of("pods")
    cluster.run(pod)
    cluster.write(pod, *[RESET] * 9)
    with pytest.raises(MachineError, match="broke 5 times"):
        text(engine().logs(job, follow=True))


def test_following_a_replacement_pod(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    (pod,) = cluster.of("pods")
    cluster.run(pod)
    cluster.write(pod, b"before")
    lines = engine().logs(job, follow=True)
    assert next(lines) == "before"
    other = cluster.replace(pod)
    cluster.run(other)
    cluster.write(other, b"after")
    cluster.end(pod, 143)
    assert next(lines) == "after"
    cluster.end(other)
    cluster.finish(cluster.of("jobs")[0], "Complete")
    assert text(lines) == []


def test_following_all_pods(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine, nodes=3)
    for number, pod in enumerate(cluster.of("pods")):
        cluster.run(pod)
        cluster.write(pod, b"%d" % number, RESET, b"end")
        cluster.end(pod)
    cluster.finish(cluster.of("jobs")[0], "Complete")
    lines = text(engine().logs(job, follow=True))
    assert sorted(lines) == ["0: 0", "0: end", "1: 1", "1: end", "2: 2", "2: end"]


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (4, "expected a rank from 0 to 3, got 4"),
        (-1, "expected a rank from 0 to 3, got -1"),
        (3, "runs/try/log-1/workerlog.1"),
    ],
)
def test_a_rank_without_its_own_log(
    cluster: Cluster, engine: Engine, rank: int, message: str
) -> None:
    job = submit(cluster, engine, nodes=2, ranks=2)
    with pytest.raises(RequestError) as caught:
        text(engine().logs(job, rank))
    assert message in text_of(caught.value)
    for pod in cluster.of("pods"):
        cluster.run(pod)
        cluster.write(pod, b"x")
    assert text(engine().logs(job, 2)) == ["x"], "the first of pod 1"


@pytest.mark.parametrize("follow", [False, True])
def test_an_image_that_cannot_be_pulled(cluster: Cluster, engine: Engine, follow: bool) -> None:
    job = submit(cluster, engine)
    (pod,) = cluster.of("pods")
    cluster.wait(pod, "ErrImageNeverPull", "Container image is not present")
    with pytest.raises(MachineError) as caught:
        text(engine().logs(job, follow=follow))
    assert caught.value.status == 3
    assert "ErrImageNeverPull" in text_of(caught.value) and "registry" in text_of(caught.value)


def test_the_log_of_a_deleted_job(cluster: Cluster, engine: Engine) -> None:
    job = submit(cluster, engine)
    cluster.objects.clear()
    for follow in (False, True):
        with pytest.raises(RequestError, match="has no output"):
            text(engine().logs(job, follow=follow))


def test_the_fake_server_validates_schemas(cluster: Cluster) -> None:
    api = connect(pause=lambda seconds: None)
    path = "/apis/batch/v1/namespaces/training/jobs"
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"a": 1}}
    assert rules.faults(body) != []
    from paddle_stacks.executors.kubernetes_api import ApiError

    with pytest.raises(ApiError) as caught:
        api.create(path, body)
    assert caught.value.status == 400 and "strict decoding error" in caught.value.message
    assert cluster.of("jobs") == []


# -------------------------------------------------------------------------- the commands

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def inv(cluster: Cluster, tmp_path: Path) -> Command:
    """``inv(*words)`` runs a task with a temporary workspace and the cluster's kubeconfig."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_STACKS_")}

    def inv(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {"NO_COLOR": "1", "PADDLE_STACKS_WORKSPACE": str(workspace), **environment}
        return subprocess.run(
            [sys.executable, "-m", "paddle_stacks.cli", *words],
            cwd=ROOT,
            env={**clean, **own},
            capture_output=True,
            text=True,
            check=False,
        )

    return inv


INFER = ("infer", "--model", "m", "--prompt", "x", "--engine", "kubernetes")


@pytest.mark.slow
def test_a_job_from_its_submission_to_its_end(cluster: Cluster, inv: Command) -> None:
    done = inv("cluster.submit", *INFER, PADDLE_STACKS_REGISTRY="registry.example")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert f"cluster.cancel {job}" in done.stderr
    (pod,) = cluster.of("pods")
    assert pod["spec"]["containers"][0]["image"] == "registry.example/paddle-stacks/infer:cpu"
    cluster.run(pod, "node-a")
    cluster.write(pod, "一 line".encode())
    (entry,) = json.loads(inv("cluster.status", "--id", job, "--json").stdout)
    assert (entry["id"], entry["state"], entry["nodes"]) == (job, "running", "node-a")
    assert entry["place"] == {"namespace": "training", "context": "here", "kind": "Job"}
    assert inv("cluster.logs", job).stdout == "一 line\n"
    assert inv("cluster.cancel", job).returncode == 0
    assert "stopping" in inv("cluster.status").stdout
    cluster.collect()
    done = inv("cluster.cancel", job)
    assert done.returncode == 2 and "has already ended: unknown" in done.stderr


@pytest.mark.parametrize(
    ("change", "words", "status", "message"),
    [
        (_no_claim, (), 2, "PersistentVolumeClaim workspace does not exist"),
        (_expired, (), 3, "credentials are invalid or have expired"),
        (_quota, (), 3, "exceeded quota"),
        (None, ("--context", "her"), 2, 'did you mean "here"?'),
        (None, ("--nodes", "2"), 2, "infer cannot run on several nodes"),
    ],
)
def test_a_submission_that_fails(
    cluster: Cluster, inv: Command, change: Any, words: tuple[str, ...], status: int, message: str
) -> None:
    if change:
        change(cluster)
    done = inv("cluster.submit", *INFER, *words)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert inv("cluster.status").stderr == "no job was submitted from this workspace\n"


def test_the_dependencies_of_a_recipe_may_be_in_the_claim(
    cluster: Cluster, inv: Command, tmp_path: Path
) -> None:
    config = Path("configs", "jobs", "dcu", "pretrain-pp8.json")
    (tmp_path / "workspace" / config.parent).mkdir(parents=True)
    shutil.copy(ROOT / config, tmp_path / "workspace" / config)
    words = ("pretrain", "--recipe", "pretrain-pp8-nodes", "--backend", "dcu", "--groups", "44")
    done = inv("cluster.submit", *words, "--nodes", "128", "--engine", "kubernetes")
    assert done.returncode == 0, done.stderr
    assert "not checked in the claim: needed first: models/llama-2-13b" in done.stderr
    (job,) = cluster.of("paddlejobs")
    assert job["spec"]["paddleReplicaSpecs"]["Worker"]["replicas"] == 128
    assert len(cluster.of("pods")) == 128
