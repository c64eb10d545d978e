"""Run plans on Kubernetes: submit the rendered documents, and query, follow and delete jobs."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from paddle_stacks.errors import STATUSES, MachineError, Problem, RequestError, StackError
from paddle_stacks.executors.cluster import JobSpec, JobStatus, SubmittedJob
from paddle_stacks.executors.docker import as_text
from paddle_stacks.executors.kubernetes_api import (
    Api,
    ApiError,
    Interrupted,
    Object,
    connect,
    explain,
)
from paddle_stacks.plan.kubernetes import RUN_LABEL, Placement, as_kubernetes

__all__ = ["ENGINE", "Kubernetes"]

ENGINE = "kubernetes"
"""The name of this scheduler."""

_GROUPS = {
    "Job": ("/apis/batch/v1", "jobs"),
    "PaddleJob": ("/apis/kubeflow.org/v1", "paddlejobs"),
    "PodGroup": ("/apis/scheduling.volcano.sh/v1beta1", "podgroups"),
    "Service": ("/api/v1", "services"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
}
# Keys of a pod's index: a label since Kubernetes 1.28, an annotation before.
_NUMBERS = (
    "batch.kubernetes.io/job-completion-index",
    "training.kubeflow.org/replica-index",
)
# Reasons for which a container would wait forever.
_FATAL_REASONS = frozenset(
    {"ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"}
)
_POLL_SECONDS = 2.0
_MAX_INTERRUPTIONS = 5  # without a new line in between

Connect = Callable[[str], Api]


class Kubernetes:
    """A Kubernetes cluster, as :class:`~paddle_stacks.executors.cluster.Cluster`.

    Args:
        placement: the cluster-specific settings of jobs; an empty namespace or operator is
            determined from the cluster.
        context: context of the kubeconfig for submitting; empty for the current one.
        connect: returns a context's API server.
    """

    def __init__(
        self, placement: Placement | None = None, context: str = "", connect: Connect = connect
    ) -> None:
        self._placement = placement or Placement()
        self._context = context
        self._connect = connect
        self._apis: dict[str, Api] = {}

    def text(self, spec: JobSpec) -> str:
        """Return the documents of a job, without access to a cluster.

        Raises:
            RequestError: Kubernetes cannot run the plan. Reports all reasons at once.
        """
        return _render(spec, self._placement)

    def submit(self, spec: JobSpec) -> SubmittedJob:
        """Create the job and its dependents, or nothing.

        The job is suspended until all of them exist: a pod that started before its
        NetworkPolicy would have network access.

        Raises:
            RequestError: the plan cannot run on Kubernetes, or not on this cluster.
            MachineError: the cluster cannot be reached, or denies permission.
        """
        import yaml

        api = self._api(self._context)
        placement = replace(self._placement, namespace=self._placement.namespace or api.namespace)
        # Report problems of the request itself before any query.
        _render(spec, placement)
        if spec.nodes > 1:
            placement = replace(placement, operator=_operator(api, placement))
        if problems := _missing(api, placement, spec.nodes):
            raise RequestError(problems)
        documents = list(yaml.safe_load_all(_render(spec, placement)))
        created = _create(api, documents, placement.namespace)
        return SubmittedJob.of(
            spec,
            ENGINE,
            created["metadata"]["name"],
            namespace=placement.namespace,
            context=api.context,
            kind=created["kind"],
        )

    def status(self, jobs: Sequence[SubmittedJob]) -> list[JobStatus]:
        """Return the status of each job, in order; a deleted job is ``unknown``.

        Raises:
            MachineError: the cluster cannot be reached, or denies permission.
        """
        return [self._view(job).status() for job in jobs]

    def logs(
        self, job: SubmittedJob, rank: int | None = None, *, follow: bool = False
    ) -> Iterator[str]:
        """Yield the lines of the logs of a job's pods.

        A pod's log is that of its first process; the launcher writes the logs of the others
        to the run's folder.

        Args:
            job: the job.
            rank: global rank of a process; None for all pods, with the pod's index before
                each line if there are several.
            follow: continue until the job has ended, including in replacement pods.

        Raises:
            RequestError: there is no such rank, or the cluster does not have its log.
            MachineError: the cluster cannot be reached, or cannot start the container.
        """
        view = self._view(job)
        if rank is not None:
            return _Reader(view, _pod_number(job, rank), follow).lines()
        if job.nodes == 1:
            return _Reader(view, 0, follow).lines()
        readers = [_Reader(view.refreshed(), number, follow) for number in range(job.nodes)]
        return _interleaved(readers) if follow else _in_sequence(readers)

    def cancel(self, job: SubmittedJob) -> None:
        """Delete a job; its pods can still save during their grace period.

        Raises:
            RequestError: it does not exist, or has already ended.
            MachineError: the cluster cannot be reached, or denies permission.
        """
        view = self._view(job)
        status = view.status()
        if status.ended:
            raise RequestError(
                f"{job.id} has already ended: {status.state}",
                where=f"namespace {view.namespace}",
                remedy="list the running jobs: ./inv cluster.status",
            )
        try:
            view.api.delete(view.path, view.resource["metadata"]["uid"])
        except ApiError as error:
            raise explain(error, f"delete {job.id}", view.namespace) from error

    def _api(self, context: str) -> Api:
        if context not in self._apis:
            self._apis[context] = self._connect(context)
        return self._apis[context]

    def _view(self, job: SubmittedJob) -> _View:
        return _View.of(self._api(job.place.get("context", "")), job)


# ------------------------------------------------------------------------------ submitting


def _render(spec: JobSpec, placement: Placement) -> str:
    return as_kubernetes(spec.plan, spec.backend, spec.nodes, hours=spec.hours, placement=placement)


def _operator(api: Api, placement: Placement) -> str:
    """Return the controller for several nodes: the requested one, or the one that exists.

    This queries the API's discovery, which every user can read, not the
    CustomResourceDefinition, which few can.
    """
    if placement.operator == "none":
        return "none"
    prefix, plural = _GROUPS["PaddleJob"]
    try:
        names = {resource["name"] for resource in api.get(prefix).get("resources", [])}
    except ApiError as error:
        if error.status != 404:
            raise explain(error, f"query {plural}", placement.namespace) from error
        names = set()
    if plural in names:
        return "paddlejob"
    if placement.operator:
        raise RequestError(
            "the cluster does not support PaddleJob: the Training Operator is not installed",
            where=api.address,
            remedy="use an Indexed Job: --operator none",
        )
    print("the cluster has no Training Operator: using an Indexed Job", file=sys.stderr)
    return "none"


def _missing(api: Api, placement: Placement, nodes: int) -> list[Problem]:
    """Return missing objects that the job's pods would wait for forever.

    Objects that the user cannot read are assumed to exist; the cluster reports them if not.
    """
    namespace = placement.namespace
    if _get(api, f"/api/v1/namespaces/{namespace}") is None:
        remedy = "use an existing --namespace: kubectl get namespaces"
        return [Problem(f"namespace {namespace} does not exist", "--namespace", remedy)]
    problems = _problems_of_claim(api, placement, nodes)
    if placement.priority:
        path = f"/apis/scheduling.k8s.io/v1/priorityclasses/{placement.priority}"
        if _get(api, path) is None:
            message = f"PriorityClass {placement.priority} does not exist"
            remedy = "use an existing --priority: kubectl get priorityclasses"
            problems.append(Problem(message, "--priority", remedy))
    if placement.queue:
        path = f"/apis/scheduling.volcano.sh/v1beta1/queues/{placement.queue}"
        if _get(api, path) is None:
            message = f"Volcano queue {placement.queue} does not exist, or Volcano is not installed"
            remedy = "use an existing --queue: kubectl get queues.scheduling.volcano.sh; or remove"
            remedy += " --queue to use the default scheduler"
            problems.append(Problem(message, "--queue", remedy))
    return problems


def _problems_of_claim(api: Api, placement: Placement, nodes: int) -> list[Problem]:
    name, namespace = placement.claim, placement.namespace
    claim = _get(api, f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
    if claim is None:
        message = f"PersistentVolumeClaim {name} does not exist in the namespace {namespace}"
        remedy = f"use an existing --claim: kubectl get pvc --namespace {namespace}"
        return [Problem(message, "--claim", remedy)]
    modes = claim.get("spec", {}).get("accessModes")
    if nodes > 1 and modes is not None and "ReadWriteMany" not in modes:
        message = f"{nodes} nodes cannot share the claim {name}: its mode is {', '.join(modes)}"
        return [Problem(message, "--claim", "use a claim with the access mode ReadWriteMany")]
    if claim.get("status", {}).get("phase") == "Lost":
        remedy = f"recreate it, or use another --claim: kubectl get pvc --namespace {namespace}"
        return [Problem(f"the claim {name} has lost its volume", "--claim", remedy)]
    return []


def _get(api: Api, path: str) -> Object | None:
    """Return an object, None if it does not exist, and an empty one if access is denied."""
    try:
        return api.get(path)
    except ApiError as error:
        if error.status == 404:
            return None
        if error.status == 403:
            return {}
        raise explain(error, f"query {path.rpartition('/')[2]}", path) from error


def _create(api: Api, documents: Sequence[Object], namespace: str) -> Object:
    """Create the job suspended, then its dependents, then start it."""
    job, *others = documents
    doing = f"create the {job['kind']} {job['metadata']['name']}"
    try:
        if not others:
            return {**job, **api.create(_folder(job, namespace), job)}
        _suspend(job, True)
        created = {**job, **api.create(_folder(job, namespace), job)}
    except ApiError as error:
        raise explain(error, doing, namespace) from error
    path = f"{_folder(job, namespace)}/{job['metadata']['name']}"
    try:
        for other in others:
            doing = f"create the {other['kind']} {other['metadata']['name']}"
            other["metadata"]["ownerReferences"] = [_owner(created)]
            api.create(_folder(other, namespace), other)
        doing = f"start the {job['kind']} {job['metadata']['name']}"
        api.patch(path, _suspend({"spec": {}}, False, job["kind"]))
    except BaseException as error:
        leftovers = _roll_back(api, path, created)
        if isinstance(error, ApiError):
            failure = explain(error, doing, namespace)
            raise type(failure)([*failure.problems, *leftovers]) from error
        if leftovers and isinstance(error, StackError):
            raise type(error)([*error.problems, *leftovers]) from error
        raise
    return created


def _suspend(job: Object, suspended: bool, kind: str = "") -> Object:
    """Set ``suspend`` in a job's document or in a patch for one."""
    spec = job["spec"]
    if (kind or job["kind"]) == "PaddleJob":
        spec = spec.setdefault("runPolicy", {})
    spec["suspend"] = suspended
    return job


def _owner(job: Object) -> Object:
    return {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
    }


def _roll_back(api: Api, path: str, job: Object) -> list[Problem]:
    """Delete an incomplete job; return a problem if that fails and it must be deleted by hand."""
    try:
        api.delete(path, job["metadata"]["uid"])
    except (ApiError, StackError) as error:
        name = job["metadata"]["name"]
        remedy = f"kubectl delete {job['kind'].lower()} {name}"
        message = f"{name} could not be deleted and remains suspended: {error}"
        return [Problem(message, api.address, remedy)]
    return []


def _folder(document: Mapping[str, Any], namespace: str) -> str:
    prefix, plural = _GROUPS[document["kind"]]
    return f"{prefix}/namespaces/{namespace}/{plural}"


# ---------------------------------------------------------------------------------- status


@dataclass(frozen=True)
class _View:
    """A snapshot of a job in the cluster.

    Args:
        api: the cluster.
        job: the record of the submitted job.
        resource: its API object; empty if it no longer exists.
    """

    api: Api
    job: SubmittedJob
    resource: Object

    @classmethod
    def of(cls, api: Api, job: SubmittedJob) -> _View:
        """Return the current state of the job."""
        view = cls(api, job, {})
        try:
            return replace(view, resource=api.get(view.path))
        except ApiError as error:
            if error.status != 404:
                raise explain(error, f"query {job.id}", view.namespace) from error
            return view

    def refreshed(self) -> _View:
        """Return the current state of the job."""
        return _View.of(self.api, self.job)

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return self.job.place.get("namespace") or self.api.namespace

    @property
    def kind(self) -> str:
        """The job's kind: Job or PaddleJob."""
        return self.job.place.get("kind", "Job")

    @property
    def path(self) -> str:
        """The job's path in the API."""
        return f"{_folder({'kind': self.kind}, self.namespace)}/{self.job.id}"

    @property
    def state(self) -> tuple[str, bool, str]:
        """The job's state, whether it is final, and the cluster's message."""
        if not self.resource:
            return "unknown", True, "the job no longer exists"
        conditions = {
            c["type"]: c.get("message") or c.get("reason", "")
            for c in self.resource.get("status", {}).get("conditions") or []
            if c.get("status") == "True"
        }
        for name in ("Failed", "FailureTarget"):
            if name in conditions:
                return "failed", name == "Failed", conditions[name]
        for name in ("Complete", "Succeeded"):
            if name in conditions:
                return "succeeded", True, ""
        if self.resource["metadata"].get("deletionTimestamp"):
            return "stopping", False, ""
        if "Suspended" in conditions:
            return "suspended", False, conditions["Suspended"]
        return "", False, ""

    def pods(self) -> list[Object]:
        """Return the job's pods, oldest first."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        try:
            pods = self.api.get(path, labelSelector=f"{RUN_LABEL}={self.job.id}")["items"]
        except ApiError as error:
            raise explain(error, "list pods", self.namespace) from error
        return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def status(self) -> JobStatus:
        """Return the job's status."""
        state, ended, why = self.state
        if not self.resource:
            return JobStatus(self.job.id, state, ended, why=why)
        pods = self.pods()
        running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
        state = state or ("running" if len(running) >= self.job.nodes else "pending")
        if state == "failed":
            why = _exit_reason(pods) or why
        elif state == "pending":
            why = _waiting_reason(pods) or self._warning(pods)
        nodes = dict.fromkeys(p["spec"]["nodeName"] for p in pods if p["spec"].get("nodeName"))
        return JobStatus(self.job.id, state, ended, ",".join(nodes), self._elapsed(), why)

    def _elapsed(self) -> str:
        status = self.resource.get("status", {})
        begun, ended = status.get("startTime"), status.get("completionTime")
        if not begun:
            return ""
        last = [c.get("lastTransitionTime") for c in status.get("conditions") or []]
        if self.state[1] and not ended:
            ended = max(filter(None, last), default=None)
        until = _time(ended) if ended else datetime.now(timezone.utc)
        seconds = max(0, int((until - _time(begun)).total_seconds()))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _warning(self, pods: Sequence[Object]) -> str:
        """Return the last warning event about the job or its pods."""
        names = {self.job.id, *(pod["metadata"]["name"] for pod in pods)}
        path = f"/api/v1/namespaces/{self.namespace}/events"
        try:
            events = self.api.get(path, fieldSelector="type=Warning")["items"]
        except ApiError:
            return ""  # the reason is optional
        own = [e for e in events if e.get("involvedObject", {}).get("name") in names]
        own.sort(key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))
        return f"{own[-1]['reason']}: {own[-1].get('message', '')}" if own else ""


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _container(pod: Object) -> Object:
    """Return the state of a pod's container: ``waiting``, ``running`` or ``terminated``."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    return dict(statuses[0].get("state") or {})


def _exit_reason(pods: Sequence[Object]) -> str:
    """Return the exit status of the first failed container; empty if there is none."""
    for pod in pods:
        ended = _container(pod).get("terminated") or {}
        if status := ended.get("exitCode"):
            meaning = STATUSES.get(str(status), "")
            if status > 128:
                meaning = f"killed by signal {status - 128}"
            reason = f", {ended['reason']}" if ended.get("reason") not in (None, "Error") else ""
            name = pod["metadata"]["name"]
            return f"{name} exited with status {status}{f' ({meaning})' if meaning else ''}{reason}"
    return ""


def _waiting_reason(pods: Sequence[Object]) -> str:
    for pod in pods:
        waiting = _container(pod).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return ""


def _number(pod: Object) -> int:
    """Return a pod's index in the job."""
    metadata = {
        **(pod["metadata"].get("annotations") or {}),
        **(pod["metadata"].get("labels") or {}),
    }
    return next((int(metadata[name]) for name in _NUMBERS if name in metadata), 0)


def _pod_number(job: SubmittedJob, rank: int) -> int:
    """Return the pod whose log is that of a rank."""
    if not 0 <= rank < job.nodes * job.ranks:
        raise RequestError(
            f"expected a rank from 0 to {job.nodes * job.ranks - 1}, got {rank}",
            where=job.id,
            remedy="--rank 0",
        )
    pod, local = divmod(rank, job.ranks)
    if local:
        run = job.run or "runs/NAME"
        raise RequestError(
            f"Kubernetes has only the log of each pod's first process; rank {rank} is process"
            f" {local} of pod {pod}",
            where=job.id,
            remedy=f"read it in the claim: {run}/log{f'-{pod}' if job.nodes > 1 else ''}"
            f"/workerlog.{local}",
        )
    return pod


# ------------------------------------------------------------------------------------ logs


class _Reader:
    """Reads the log of one of a job's pods and of its replacements.

    Args:
        view: the job.
        number: index of the pod.
        follow: continue until the job has ended.
    """

    def __init__(self, view: _View, number: int, follow: bool) -> None:
        self.number = number
        self._view = view
        self._follow = follow
        self._pod = ""
        # Position in the pod's log: the time of the last line, and the number of lines with it.
        self._until = b""
        self._count = 0
        self._interruptions = 0

    def lines(self) -> Iterator[str]:
        """Yield the lines, each once."""
        if not self._view.resource:
            raise self._no_output("the job no longer exists")
        while True:
            # Determined before reading: if the job has ended now, this read gets everything.
            last = self._view.state[1] or not self._follow
            pod = self._newest()
            if pod is not None:
                if (yield from self._read(pod)) and last:
                    return
            elif last and self._pod:
                return
            elif last:
                raise self._no_output(self._view.status().why)
            self._view.api.pause(_POLL_SECONDS)
            self._view = self._view.refreshed()

    def _newest(self) -> Object | None:
        own = [pod for pod in self._view.pods() if _number(pod) == self.number]
        return own[-1] if own else None

    def _read(self, pod: Object) -> Generator[str, None, bool]:
        """Yield the new lines of a pod's log; return whether it was read to its end."""
        name = pod["metadata"]["name"]
        if name != self._pod:
            self._pod, self._until, self._count = name, b"", 0
        path = f"/api/v1/namespaces/{self._view.namespace}/pods/{name}/log"
        follow = {"follow": "true"} if self._follow else {}
        try:
            yield from self._fresh(self._view.api.stream(path, timestamps="true", **follow))
        except Interrupted as error:
            self._interruptions += 1
            if self._interruptions < _MAX_INTERRUPTIONS:
                return False
            raise MachineError(
                f"the connection broke {self._interruptions} times while reading {name}: {error}",
                where=self._view.api.address,
                remedy="run the command again; or read the log in the run's folder, in the claim",
            ) from error
        except ApiError as error:
            self._check_error(error, pod)
            return False
        return True

    def _fresh(self, chunks: Iterator[bytes]) -> Iterator[str]:
        """Yield the lines that were not read before; each line starts with its time."""
        until, count, again = self._until, self._count, 0
        for line in _split(chunks):
            time, _, text = line.partition(b" ")
            if time < until:
                continue
            if time == until and again < count:
                again += 1
                continue
            if time != self._until:
                self._until, self._count = time, 0
            self._count += 1
            self._interruptions = 0
            yield as_text(text)

    def _check_error(self, error: ApiError, pod: Object) -> None:
        """Raise an error for a pod whose log cannot be read, unless that may be temporary."""
        name = pod["metadata"]["name"]
        waits = _waiting_reason([pod])
        if waits.partition(":")[0] in _FATAL_REASONS:
            raise MachineError(
                f"{name} cannot be started: {waits}",
                where=pod["spec"].get("nodeName", ""),
                remedy="load the image on every node; or push it to a registry, and set registry"
                " in paddle-stacks.toml",
            )
        # 400: the container is not running yet; 404: the pod was deleted and will be replaced.
        if error.status not in (400, 404):
            raise explain(error, f"read {name}", self._view.namespace) from error
        if not self._follow:
            raise self._no_output(waits or self._view.status().why or error.message) from error

    def _no_output(self, why: str) -> RequestError:
        number = f" in pod {self.number}" if self._view.job.nodes > 1 else ""
        return RequestError(
            f"{self._view.job.id} has no output{number}{f': {why}' if why else ''}",
            where=f"namespace {self._view.namespace}",
            remedy="check ./inv cluster.status; the run's folder is in the claim",
        )


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _in_sequence(readers: Sequence[_Reader]) -> Iterator[str]:
    """Yield the logs of all pods; report those that cannot be read and skip them."""
    for reader in readers:
        try:
            for line in reader.lines():
                yield f"{reader.number}: {line}"
        except RequestError as error:
            print(f"{reader.number}: {error}", file=sys.stderr)


def _interleaved(readers: Sequence[_Reader]) -> Iterator[str]:
    """Yield the lines of all pods as they arrive."""
    news: queue.Queue[tuple[_Reader, str | BaseException | None]] = queue.Queue(maxsize=1024)

    def read(reader: _Reader) -> None:
        try:
            for line in reader.lines():
                news.put((reader, line))
            news.put((reader, None))
        except BaseException as error:  # raised in the reading thread
            news.put((reader, error))

    for reader in readers:
        threading.Thread(target=read, args=(reader,), daemon=True).start()
    remaining = len(readers)
    while remaining:
        reader, line = news.get()
        if isinstance(line, BaseException):
            raise line
        if line is None:
            remaining -= 1
        else:
            yield f"{reader.number}: {line}"
