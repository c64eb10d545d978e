"""Runs a plan on Kubernetes: the documents of ``cluster.render``, submitted and looked after."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from paddle_stacks.errors import STATUSES, MachineError, Problem, RequestError, StackError
from paddle_stacks.executors.cluster import Order, Row, Submitted
from paddle_stacks.executors.docker import as_text
from paddle_stacks.executors.kubernetes_api import (
    Api,
    Interrupted,
    Object,
    Refusal,
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
# Where a pod's number is: as a label since Kubernetes 1.28, and as an annotation before.
_NUMBERS = (
    "batch.kubernetes.io/job-completion-index",
    "training.kubeflow.org/replica-index",
)
# What a container waits for in vain; it would be waited for without an end.
_HOPELESS = frozenset(
    {"ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"}
)
_LOOK_AGAIN_SECONDS = 2.0
_BROKEN_IN_A_ROW = 5

Connect = Callable[[str], Api]


class Kubernetes:
    """A cluster that runs Kubernetes, as :class:`~paddle_stacks.executors.cluster.Cluster`.

    Args:
        placement: where in it jobs are submitted; its namespace and operator are looked
            up where they are not said.
        context: of the kubeconfig, for what is submitted; empty for the current one.
        connect: returns a context's API server.
    """

    def __init__(
        self, placement: Placement | None = None, context: str = "", connect: Connect = connect
    ) -> None:
        self._placement = placement or Placement()
        self._context = context
        self._connect = connect
        self._known: dict[str, Api] = {}

    def text(self, order: Order) -> str:
        """Return the documents of a job, without asking a cluster.

        Raises:
            RequestError: the plan cannot be run so; all reasons at once.
        """
        return _render(order, self._placement)

    def submit(self, order: Order) -> Submitted:
        """Create the job and what goes with it, or nothing.

        Nothing of the job starts before all of it is there: a pod that was quicker than
        its NetworkPolicy would have a network.

        Raises:
            RequestError: the plan cannot be run so, or not there.
            MachineError: the cluster cannot be asked, or does not let this user.
        """
        import yaml

        api = self._api(self._context)
        placement = replace(self._placement, namespace=self._placement.namespace or api.namespace)
        # What is wrong with the request itself needs no cluster to be said.
        _render(order, placement)
        if order.nodes > 1:
            placement = replace(placement, operator=_operator(api, placement))
        if problems := _missing(api, placement, order.nodes):
            raise RequestError(problems)
        documents = list(yaml.safe_load_all(_render(order, placement)))
        created = _create(api, documents, placement.namespace)
        return Submitted.of(
            order,
            ENGINE,
            created["metadata"]["name"],
            namespace=placement.namespace,
            context=api.context,
            kind=created["kind"],
        )

    def status(self, jobs: Sequence[Submitted]) -> list[Row]:
        """Return how each of the jobs is, in their order; one that is gone is ``unknown``.

        Raises:
            MachineError: the cluster cannot be asked, or does not let this user.
        """
        return [self._view(job).row() for job in jobs]

    def logs(
        self, job: Submitted, rank: int | None = None, *, follow: bool = False
    ) -> Iterator[str]:
        """Yield the lines of a job's pods.

        A pod's output is that of its first process, where it has several: the launcher
        keeps what the others say in the run's folder.

        Args:
            job: which.
            rank: of a process, counted over all pods; None: of every pod, each line with
                the pod's number where there are several.
            follow: go on until the job has ended, also in a pod that takes another's place.

        Raises:
            RequestError: there is no such rank, or it has no output of its own there.
            MachineError: the cluster cannot be asked, or cannot start the container.
        """
        view = self._view(job)
        if rank is not None:
            return _Reader(view, _pod_number(job, rank), follow).lines()
        if job.nodes == 1:
            return _Reader(view, 0, follow).lines()
        readers = [_Reader(view.again(), number, follow) for number in range(job.nodes)]
        return _together(readers) if follow else _one_after_the_other(readers)

    def cancel(self, job: Submitted) -> None:
        """Delete a job; its pods have their time to save and leave.

        Raises:
            RequestError: it is gone, or has ended.
            MachineError: the cluster cannot be asked, or does not let this user.
        """
        view = self._view(job)
        row = view.row()
        if row.ended:
            raise RequestError(
                f"{job.id} has ended: {row.state}",
                where=f"namespace {view.namespace}",
                remedy="./inv cluster.status shows what runs",
            )
        try:
            view.api.delete(view.path, view.found["metadata"]["uid"])
        except Refusal as refusal:
            raise explain(refusal, f"delete {job.id}", view.namespace) from refusal

    def _api(self, context: str) -> Api:
        if context not in self._known:
            self._known[context] = self._connect(context)
        return self._known[context]

    def _view(self, job: Submitted) -> _View:
        return _View.of(self._api(job.place.get("context", "")), job)


# ------------------------------------------------------------------------------ submitting


def _render(order: Order, placement: Placement) -> str:
    return as_kubernetes(
        order.plan, order.platform, order.nodes, hours=order.hours, placement=placement
    )


def _operator(api: Api, placement: Placement) -> str:
    """Return what runs a job on several nodes: what was asked for, or else what is there.

    The API's own list is asked, which everybody may read, and not for the definition of
    the kind, which few may.
    """
    if placement.operator == "none":
        return "none"
    prefix, plural = _GROUPS["PaddleJob"]
    try:
        names = {resource["name"] for resource in api.get(prefix).get("resources", [])}
    except Refusal as refusal:
        if refusal.status != 404:
            raise explain(refusal, f"ask for {plural}", placement.namespace) from refusal
        names = set()
    if plural in names:
        return "paddlejob"
    if placement.operator:
        raise RequestError(
            "the cluster has no PaddleJob: the Training Operator is not installed",
            where=api.address,
            remedy="--operator none does without it",
        )
    print("no Training Operator there: an Indexed Job", file=sys.stderr)
    return "none"


def _missing(api: Api, placement: Placement, nodes: int) -> list[Problem]:
    """Return what is not there that the job's pods would wait for without an end.

    What the user may not look at is taken to be there: the cluster will say otherwise.
    """
    namespace = placement.namespace
    if _look(api, f"/api/v1/namespaces/{namespace}") is None:
        remedy = "--namespace NAME; kubectl get namespaces lists them"
        return [Problem(f"there is no namespace {namespace}", "--namespace", remedy)]
    found = _problems_of_claim(api, placement, nodes)
    if placement.priority:
        path = f"/apis/scheduling.k8s.io/v1/priorityclasses/{placement.priority}"
        if _look(api, path) is None:
            what = f"there is no PriorityClass {placement.priority}"
            found.append(Problem(what, "--priority", "kubectl get priorityclasses lists them"))
    if placement.queue:
        path = f"/apis/scheduling.volcano.sh/v1beta1/queues/{placement.queue}"
        if _look(api, path) is None:
            what = f"there is no queue {placement.queue} of Volcano, or no Volcano"
            remedy = "kubectl get queues.scheduling.volcano.sh lists them; without --queue the"
            found.append(Problem(what, "--queue", f"{remedy} cluster's own scheduler is taken"))
    return found


def _problems_of_claim(api: Api, placement: Placement, nodes: int) -> list[Problem]:
    name, namespace = placement.claim, placement.namespace
    claim = _look(api, f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
    if claim is None:
        what = f"there is no PersistentVolumeClaim {name} in the namespace {namespace}"
        remedy = "--claim NAME; kubectl get pvc lists them"
        return [Problem(what, "--claim", remedy)]
    modes = claim.get("spec", {}).get("accessModes")
    if nodes > 1 and modes is not None and "ReadWriteMany" not in modes:
        what = f"{nodes} nodes cannot share the claim {name}: it is {', '.join(modes)}"
        return [Problem(what, "--claim", "one of a storage class that gives ReadWriteMany")]
    if claim.get("status", {}).get("phase") == "Lost":
        return [Problem(f"the claim {name} has lost its volume", "--claim", "make it anew")]
    return []


def _look(api: Api, path: str) -> Object | None:
    """Return an object, None where it is not there, and an empty one where it is not shown."""
    try:
        return api.get(path)
    except Refusal as refusal:
        if refusal.status == 404:
            return None
        if refusal.status == 403:
            return {}
        raise explain(refusal, f"look for {path.rpartition('/')[2]}", path) from refusal


def _create(api: Api, documents: Sequence[Object], namespace: str) -> Object:
    """Create the first document, the others as what it owns, and let it start."""
    job, *others = documents
    doing = f"create the {job['kind']} {job['metadata']['name']}"
    try:
        if not others:
            return {**job, **api.create(_folder(job, namespace), job)}
        _suspend(job, True)
        created = {**job, **api.create(_folder(job, namespace), job)}
    except Refusal as refusal:
        raise explain(refusal, doing, namespace) from refusal
    path = f"{_folder(job, namespace)}/{job['metadata']['name']}"
    try:
        for other in others:
            doing = f"create the {other['kind']} {other['metadata']['name']}"
            other["metadata"]["ownerReferences"] = [_owner(created)]
            api.create(_folder(other, namespace), other)
        doing = f"start the {job['kind']} {job['metadata']['name']}"
        api.patch(path, _suspend({"spec": {}}, False, job["kind"]))
    except BaseException as error:
        left = _withdraw(api, path, created)
        if isinstance(error, Refusal):
            told = explain(error, doing, namespace)
            raise type(told)([*told.problems, *left]) from error
        if left and isinstance(error, StackError):
            raise type(error)([*error.problems, *left]) from error
        raise
    return created


def _suspend(job: Object, held: bool, kind: str = "") -> Object:
    """Say in a document of a job, or a part of one, whether it has to wait."""
    spec = job["spec"]
    if (kind or job["kind"]) == "PaddleJob":
        spec = spec.setdefault("runPolicy", {})
    spec["suspend"] = held
    return job


def _owner(job: Object) -> Object:
    return {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
    }


def _withdraw(api: Api, path: str, job: Object) -> list[Problem]:
    """Delete a job that is not whole; return what is left, for a person to delete."""
    try:
        api.delete(path, job["metadata"]["uid"])
    except (Refusal, StackError) as error:
        name = job["metadata"]["name"]
        remedy = f"kubectl delete {job['kind'].lower()} {name}"
        return [Problem(f"{name} is left there, and waits: {error}", api.address, remedy)]
    return []


def _folder(document: Mapping[str, Any], namespace: str) -> str:
    prefix, plural = _GROUPS[document["kind"]]
    return f"{prefix}/namespaces/{namespace}/{plural}"


# --------------------------------------------------------------------------------- looking


@dataclass(frozen=True)
class _View:
    """A job as the cluster has it now.

    Args:
        api: the cluster.
        job: what was submitted.
        found: its object; empty where it is gone.
    """

    api: Api
    job: Submitted
    found: Object

    @classmethod
    def of(cls, api: Api, job: Submitted) -> _View:
        """Return the job as it is now."""
        view = cls(api, job, {})
        try:
            return replace(view, found=api.get(view.path))
        except Refusal as refusal:
            if refusal.status != 404:
                raise explain(refusal, f"look at {job.id}", view.namespace) from refusal
            return view

    def again(self) -> _View:
        """Return the job as it is now."""
        return _View.of(self.api, self.job)

    @property
    def namespace(self) -> str:
        """Where it is."""
        return self.job.place.get("namespace") or self.api.namespace

    @property
    def kind(self) -> str:
        """What it is: a Job or a PaddleJob."""
        return self.job.place.get("kind", "Job")

    @property
    def path(self) -> str:
        """Where the API has it."""
        return f"{_folder({'kind': self.kind}, self.namespace)}/{self.job.id}"

    @property
    def state(self) -> tuple[str, bool, str]:
        """Its state, whether that is for good, and what the cluster says of it."""
        if not self.found:
            return "unknown", True, "the cluster has it no more"
        conditions = {
            c["type"]: c.get("message") or c.get("reason", "")
            for c in self.found.get("status", {}).get("conditions") or []
            if c.get("status") == "True"
        }
        for name in ("Failed", "FailureTarget"):
            if name in conditions:
                return "failed", name == "Failed", conditions[name]
        for name in ("Complete", "Succeeded"):
            if name in conditions:
                return "succeeded", True, ""
        if self.found["metadata"].get("deletionTimestamp"):
            return "stopping", False, ""
        if "Suspended" in conditions:
            return "suspended", False, conditions["Suspended"]
        return "", False, ""

    def pods(self) -> list[Object]:
        """Return the job's pods, oldest first."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        try:
            found = self.api.get(path, labelSelector=f"{RUN_LABEL}={self.job.id}")["items"]
        except Refusal as refusal:
            raise explain(refusal, "list pods", self.namespace) from refusal
        return sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def row(self) -> Row:
        """Return how the job is."""
        state, ended, why = self.state
        if not self.found:
            return Row(self.job.id, state, ended, why=why)
        pods = self.pods()
        running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
        state = state or ("running" if len(running) >= self.job.nodes else "pending")
        if state == "failed":
            why = _how_it_ended(pods) or why
        elif state == "pending":
            why = _waits_for(pods) or self._warning(pods)
        nodes = dict.fromkeys(p["spec"]["nodeName"] for p in pods if p["spec"].get("nodeName"))
        return Row(self.job.id, state, ended, ",".join(nodes), self._elapsed(), why)

    def _elapsed(self) -> str:
        status = self.found.get("status", {})
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
        """Return the last thing that the cluster complained about, of the job or its pods."""
        names = {self.job.id, *(pod["metadata"]["name"] for pod in pods)}
        path = f"/api/v1/namespaces/{self.namespace}/events"
        try:
            events = self.api.get(path, fieldSelector="type=Warning")["items"]
        except Refusal:
            return ""  # a reason is a courtesy
        own = [e for e in events if e.get("involvedObject", {}).get("name") in names]
        own.sort(key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))
        return f"{own[-1]['reason']}: {own[-1].get('message', '')}" if own else ""


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _container(pod: Object) -> Object:
    """Return the state of a pod's container: ``waiting``, ``running`` or ``terminated``."""
    found = pod.get("status", {}).get("containerStatuses") or [{}]
    return dict(found[0].get("state") or {})


def _how_it_ended(pods: Sequence[Object]) -> str:
    """Return the worst that a pod's container said of its end; empty where none did."""
    for pod in pods:
        ended = _container(pod).get("terminated") or {}
        if status := ended.get("exitCode"):
            told = STATUSES.get(str(status), "")
            if status > 128:
                told = f"killed by signal {status - 128}"
            reason = f", {ended['reason']}" if ended.get("reason") not in (None, "Error") else ""
            name = pod["metadata"]["name"]
            return f"{name} ended with status {status}{f' ({told})' if told else ''}{reason}"
    return ""


def _waits_for(pods: Sequence[Object]) -> str:
    for pod in pods:
        waiting = _container(pod).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return ""


def _number(pod: Object) -> int:
    """Return which of a job's pods it is."""
    told = {
        **(pod["metadata"].get("annotations") or {}),
        **(pod["metadata"].get("labels") or {}),
    }
    return next((int(told[name]) for name in _NUMBERS if name in told), 0)


def _pod_number(job: Submitted, rank: int) -> int:
    """Return the pod whose output is that of a process."""
    if not 0 <= rank < job.nodes * job.ranks:
        raise RequestError(
            f"there is no rank {rank} among {job.nodes * job.ranks}",
            where=job.id,
            remedy=f"from 0 to {job.nodes * job.ranks - 1}",
        )
    pod, local = divmod(rank, job.ranks)
    if local:
        run = job.run or "runs/NAME"
        raise RequestError(
            f"a pod's output is that of its first process, and rank {rank} is number {local} of"
            f" pod {pod}",
            where=job.id,
            remedy=f"it is in the claim: {run}/log{f'-{pod}' if job.nodes > 1 else ''}"
            f"/workerlog.{local}",
        )
    return pod


# --------------------------------------------------------------------------------- reading


class _Reader:
    """Reads the output of one of a job's pods, and of those that take its place.

    Args:
        view: the job.
        number: which pod.
        follow: until the job has ended.
    """

    def __init__(self, view: _View, number: int, follow: bool) -> None:
        self.number = number
        self._view = view
        self._follow = follow
        self._pod = ""
        # How far the pod's output was read: the time of the last line, and how many had it.
        self._until = b""
        self._count = 0
        self._broken = 0

    def lines(self) -> Iterator[str]:
        """Yield the lines, each once."""
        if not self._view.found:
            raise self._nothing("the cluster has it no more")
        while True:
            # Asked before reading: what is read of a job that has ended is all of it.
            last = self._view.state[1] or not self._follow
            pod = self._newest()
            if pod is not None:
                if (yield from self._read(pod)) and last:
                    return
            elif last and self._pod:
                return
            elif last:
                raise self._nothing(self._view.row().why)
            self._view.api.pause(_LOOK_AGAIN_SECONDS)
            self._view = self._view.again()

    def _newest(self) -> Object | None:
        own = [pod for pod in self._view.pods() if _number(pod) == self.number]
        return own[-1] if own else None

    def _read(self, pod: Object) -> Generator[str, None, bool]:
        """Yield what is new of a pod's output; return whether it was read to its end."""
        name = pod["metadata"]["name"]
        if name != self._pod:
            self._pod, self._until, self._count = name, b"", 0
        path = f"/api/v1/namespaces/{self._view.namespace}/pods/{name}/log"
        follow = {"follow": "true"} if self._follow else {}
        try:
            yield from self._fresh(self._view.api.stream(path, timestamps="true", **follow))
        except Interrupted as error:
            self._broken += 1
            if self._broken < _BROKEN_IN_A_ROW:
                return False
            raise MachineError(
                f"the connection broke {self._broken} times while {name} was read: {error}",
                where=self._view.api.address,
                remedy="what the job writes goes on in its run's folder, in the claim",
            ) from error
        except Refusal as refusal:
            self._check_refusal(refusal, pod)
            return False
        return True

    def _fresh(self, chunks: Iterator[bytes]) -> Iterator[str]:
        """Yield the lines that were not read before; each begins with its time."""
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
            self._broken = 0
            yield as_text(text)

    def _check_refusal(self, refusal: Refusal, pod: Object) -> None:
        """Raise what a pod that cannot be read means, unless that may pass."""
        name = pod["metadata"]["name"]
        waits = _waits_for([pod])
        if waits.partition(":")[0] in _HOPELESS:
            raise MachineError(
                f"{name} cannot be started: {waits}",
                where=pod["spec"].get("nodeName", ""),
                remedy="an image without a registry has to be on every node; the setting"
                " registry names one",
            )
        # 400: its container does not run yet; 404: it is gone, for another to come.
        if refusal.status not in (400, 404):
            raise explain(refusal, f"read {name}", self._view.namespace) from refusal
        if not self._follow:
            raise self._nothing(waits or self._view.row().why or refusal.message) from refusal

    def _nothing(self, why: str) -> RequestError:
        number = f" in pod {self.number}" if self._view.job.nodes > 1 else ""
        return RequestError(
            f"{self._view.job.id} has no output{number}{f': {why}' if why else ''}",
            where=f"namespace {self._view.namespace}",
            remedy="./inv cluster.status says how it is; what it wrote into its run's folder is"
            " in the claim",
        )


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _one_after_the_other(readers: Sequence[_Reader]) -> Iterator[str]:
    """Yield what every pod has written; one that cannot be read is told, and left out."""
    for reader in readers:
        try:
            for line in reader.lines():
                yield f"{reader.number}: {line}"
        except RequestError as error:
            print(f"{reader.number}: {error}", file=sys.stderr)


def _together(readers: Sequence[_Reader]) -> Iterator[str]:
    """Yield what all pods write as it comes."""
    news: queue.Queue[tuple[_Reader, str | BaseException | None]] = queue.Queue(maxsize=1024)

    def read(reader: _Reader) -> None:
        try:
            for line in reader.lines():
                news.put((reader, line))
            news.put((reader, None))
        except BaseException as error:  # whatever it is, who reads along raises it
            news.put((reader, error))

    for reader in readers:
        threading.Thread(target=read, args=(reader,), daemon=True).start()
    left = len(readers)
    while left:
        reader, line = news.get()
        if isinstance(line, BaseException):
            raise line
        if line is None:
            left -= 1
        else:
            yield f"{reader.number}: {line}"
