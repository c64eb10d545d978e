"""A fake Kubernetes API server on loopback, with the parts of the API that the project uses.

It checks tokens, roles, namespaces and kinds, validates documents with the published schemas,
stores objects, deletes dependents, starts a job's pods and serves their logs. Tests can inject
faults.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support import kubernetes_rules as rules

Object = dict[str, Any]
Key = tuple[str, str, str, str]  # group and version, plural, namespace, name

CORE = "v1"
BATCH = "batch/v1"
OPERATOR = "kubeflow.org/v1"
VOLCANO = "scheduling.volcano.sh/v1beta1"
RESET = b"\0reset"
"""In a pod's output: the connection breaks here, once."""

_KINDS = {
    (CORE, "services"): "Service",
    (BATCH, "jobs"): "Job",
    ("networking.k8s.io/v1", "networkpolicies"): "NetworkPolicy",
    (OPERATOR, "paddlejobs"): "PaddleJob",
    (VOLCANO, "podgroups"): "PodGroup",
}
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "AlreadyExists",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}
_BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Answer(Exception):
    """Ends a request with an error response."""

    def __init__(self, code: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    @property
    def status(self) -> Object:
        """Return the response body in the API's format."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": _REASONS[self.code],
            "details": self.details,
            "code": self.code,
        }


@dataclass(frozen=True)
class Request:
    """A received request."""

    method: str
    path: str
    query: Mapping[str, str]
    content: str
    body: Any


@dataclass
class Cluster:
    """A cluster.

    Args:
        url: the server's address.
        namespaces: existing namespaces.
        served: groups with versions that the server has.
        token: the valid token.
        rules: of its user's Role; None allows everything.
        quota: maximum number of jobs in a namespace.
        faults: of the next matching requests: a method, a part of the path, and a status,
            "reset" (before the request is executed) or "lost" (after it).
        objects: all stored objects.
        logs: output of each pod: lines without line ends, and :data:`RESET`.
        requests: all requests.
    """

    url: str = ""
    namespaces: set[str] = field(default_factory=lambda: {"training"})
    served: set[str] = field(default_factory=lambda: {group for group, _ in _KINDS})
    token: str = "valid"
    rules: list[Object] | None = None
    quota: int | None = None
    faults: list[tuple[str, str, int | str]] = field(default_factory=list)
    objects: dict[Key, Object] = field(default_factory=dict)
    logs: dict[str, list[bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    _clock: int = 0

    # ------------------------------------------------------------- what a test says and asks

    def add(self, group: str, plural: str, name: str, namespace: str = "", **rest: Any) -> Object:
        """Store an object without a request."""
        metadata = {"name": name, "uid": str(uuid.uuid4()), **rest.pop("metadata", {})}
        stored = self.objects[group, plural, namespace, name] = {"metadata": metadata, **rest}
        return stored

    def add_claim(
        self, name: str = "workspace", modes: tuple[str, ...] = ("ReadWriteMany",)
    ) -> None:
        """Store a PersistentVolumeClaim."""
        spec = {"accessModes": list(modes)}
        self.add(CORE, "persistentvolumeclaims", name, "training", spec=spec, status={})

    def warn(self, name: str, reason: str, message: str) -> None:
        """Add a warning event for an object, like the scheduler or a controller."""
        self.add(
            CORE,
            "events",
            f"{name}.{self._tick()}",
            "training",
            type="Warning",
            reason=reason,
            message=message,
            involvedObject={"name": name},
            lastTimestamp=self._now(),
        )

    def of(self, plural: str) -> list[Object]:
        """Return all objects of a kind in order of creation."""
        return [each for key, each in self.objects.items() if key[1] == plural]

    def run(self, pod: Object, node: str = "node-a") -> None:
        """Set a pod's container to running."""
        with self.changed:
            pod["spec"]["nodeName"] = node
            self._set(pod, "Running", running={"startedAt": self._now()})

    def wait(self, pod: Object, reason: str, message: str = "") -> None:
        """Set a pod's container to waiting."""
        with self.changed:
            self._set(pod, "Pending", waiting={"reason": reason, "message": message})

    def end(self, pod: Object, status: int = 0, reason: str = "") -> None:
        """Terminate a pod's container."""
        with self.changed:
            reason = reason or ("Error" if status else "Completed")
            ended = {"exitCode": status, "reason": reason}
            self._set(pod, "Failed" if status else "Succeeded", terminated=ended)

    def finish(self, job: Object, condition: str, message: str = "", seconds: int = 3661) -> None:
        """Finish a job a number of seconds after its start."""
        with self.changed:
            begun = datetime.fromisoformat(job["status"]["startTime"].replace("Z", "+00:00"))
            at = _text(begun + timedelta(seconds=seconds))
            status = {"type": condition, "status": "True", "lastTransitionTime": at}
            job["status"].setdefault("conditions", []).append({**status, "message": message})
            if condition in ("Complete", "Succeeded"):
                job["status"]["completionTime"] = at
            self.changed.notify_all()

    def replace(self, pod: Object) -> Object:
        """Replace a pod, like a controller after an eviction."""
        with self.changed:
            replacement = self._pod(self._owner_of(pod), _number(pod))
            self.changed.notify_all()
            return replacement

    def write(self, pod: Object, *lines: bytes) -> None:
        """Append lines to the log of a pod's container."""
        with self.changed:
            self.logs.setdefault(pod["metadata"]["name"], []).extend(lines)
            self.changed.notify_all()

    def collect(self) -> None:
        """Remove the objects that are being deleted."""
        with self.changed:
            gone = {o["metadata"]["uid"] for o in self.objects.values() if _is_going(o)}
            self._remove(gone)
            self.changed.notify_all()

    # ---------------------------------------------------------------- what the server does

    def answer(self, request: Request, token: str) -> Object:
        """Execute a request and return the body of the response."""
        if token != f"Bearer {self.token}":
            raise Answer(401, "Unauthorized")
        path = request.path.strip("/").split("/")
        group, rest = (CORE, path[2:]) if path[0] == "api" else ("/".join(path[1:3]), path[3:])
        if group not in self.served | {CORE, "scheduling.k8s.io/v1"}:
            raise Answer(404, "the server could not find the requested resource")
        if not rest:
            names = [plural for of, plural in _KINDS if of == group]
            return {"kind": "APIResourceList", "resources": [{"name": name} for name in names]}
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name = rest[0], rest[1] if len(rest) > 1 else ""
        self._authorize(request.method, group, "/".join([plural, *rest[2:]]), name, namespace)
        if plural == "namespaces":
            if name not in self.namespaces:
                raise _not_found("", "namespaces", name)
            return {"kind": "Namespace", "metadata": {"name": name}}
        if request.method == "POST":
            return self._create(request, group, plural, namespace)
        if not name:
            return {"kind": "List", "items": self._list(request, group, plural, namespace)}
        stored = self.objects.get((group, plural, namespace, name))
        if stored is None:
            raise _not_found(group, plural, name)
        if rest[2:] == ["log"] and stored["status"]["phase"] == "Pending":
            raise Answer(400, f'container "paddle" in pod "{name}" is waiting to start')
        if request.method == "PATCH":
            return self._patch(request, stored)
        if request.method == "DELETE":
            return self._delete(request, stored)
        return stored

    def _authorize(self, method: str, group: str, plural: str, name: str, namespace: str) -> None:
        verb = {"POST": "create", "GET": "get" if name else "list"}.get(method, method.lower())
        own = group.rpartition("/")[0]
        for rule in self.rules or []:
            if not namespace or own not in rule["apiGroups"]:
                continue
            if plural in rule["resources"] and verb in rule["verbs"]:
                return
        if self.rules is not None:
            kind = f'"{plural}" in API group "{own}"'
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            raise Answer(
                403, f'{plural} is forbidden: User "me" cannot {verb} resource {kind} {where}'
            )

    def _create(self, request: Request, group: str, plural: str, namespace: str) -> Object:
        if namespace not in self.namespaces:
            raise _not_found("", "namespaces", namespace)
        kind = _KINDS[group, plural]
        body: Object = request.body
        name = body["metadata"]["name"]
        if (body.get("apiVersion"), body.get("kind")) != (group, kind):
            raise Answer(400, "the object provided is of another kind than the path")
        if body["metadata"].get("namespace", namespace) != namespace:
            raise Answer(400, "the namespace of the object does not match the request's")
        if faults := rules.faults(body):
            strict = request.query.get("fieldValidation") == "Strict"
            text = f"strict decoding error: {'; '.join(faults)}" if strict else "; ".join(faults)
            raise Answer(400 if strict else 422, f'{kind} "{name}" is invalid: {text}', name=name)
        if (group, plural, namespace, name) in self.objects:
            raise Answer(409, f'{plural} "{name}" already exists', name=name, kind=plural)
        if plural == "jobs" and self.quota is not None and len(self.of("jobs")) >= self.quota:
            raise Answer(
                403,
                f'jobs.batch "{name}" is forbidden: exceeded quota: team, requested: '
                f"count/jobs.batch=1, used: count/jobs.batch={self.quota}, "
                f"limited: count/jobs.batch={self.quota}",
                name=name,
                kind="jobs",
            )
        metadata = {**body["metadata"], "namespace": namespace, "creationTimestamp": self._now()}
        metadata["uid"] = str(uuid.uuid4())
        for owner in metadata.get("ownerReferences", []):
            if owner["uid"] not in {o["metadata"]["uid"] for o in self.objects.values()}:
                raise Answer(422, "an owner that is not there", name=name)
        stored = self.objects[group, plural, namespace, name] = {**body, "metadata": metadata}
        if kind in ("Job", "PaddleJob"):
            stored["status"] = {}
            self._reconcile(stored)
        return stored

    def _list(self, request: Request, group: str, plural: str, namespace: str) -> list[Object]:
        labels = dict(
            p.split("=", 1) for p in request.query.get("labelSelector", "").split(",") if p
        )
        kind = request.query.get("fieldSelector", "").removeprefix("type=")
        return [
            each
            for key, each in self.objects.items()
            if key[:3] == (group, plural, namespace)
            and labels.items() <= each["metadata"].get("labels", {}).items()
            and kind in ("", each.get("type"))
        ]

    def _patch(self, request: Request, stored: Object) -> Object:
        if request.content != "application/merge-patch+json":
            raise Answer(400, f"the body of the request is not {request.content}")
        _merge(stored, request.body)
        self._reconcile(stored)
        return stored

    def _delete(self, request: Request, stored: Object) -> Object:
        options = request.body or {}
        uid = options.get("preconditions", {}).get("uid", stored["metadata"]["uid"])
        if uid != stored["metadata"]["uid"]:
            raise Answer(409, "the UID in the precondition does not match the UID in record")
        policy = options.get("propagationPolicy")
        if policy == "Foreground":
            for each in [stored, *self._owned(stored)]:
                each["metadata"]["deletionTimestamp"] = self._now()
        elif policy == "Background":
            self._remove({stored["metadata"]["uid"]})
        else:  # of a Job, its pods are left
            self.objects = {k: o for k, o in self.objects.items() if o is not stored}
        return stored

    def _reconcile(self, job: Object) -> None:
        """Start a job's pods like its controller, unless it must wait."""
        spec = job["spec"]
        paddle = job["kind"] == "PaddleJob"
        suspended = (spec["runPolicy"] if paddle else spec).get("suspend", False)
        status = job["status"]
        held = {"type": "Suspended", "status": str(suspended), "message": "Job suspended"}
        status["conditions"] = [held] if suspended or status.get("conditions") else []
        if suspended or status.get("startTime"):
            return
        status["startTime"] = self._now()
        worker = spec["paddleReplicaSpecs"]["Worker"] if paddle else {}
        for number in range(worker.get("replicas") or spec.get("completions", 1)):
            self._pod(job, number)

    def _pod(self, job: Object, number: int) -> Object:
        paddle = job["kind"] == "PaddleJob"
        template = (job["spec"]["paddleReplicaSpecs"]["Worker"] if paddle else job["spec"])[
            "template"
        ]
        name = job["metadata"]["name"]
        labels = {**template["metadata"]["labels"]}
        annotations = {**template["metadata"]["annotations"]}
        if paddle:
            labels["training.kubeflow.org/replica-index"] = str(number)
        elif job["spec"].get("completionMode") == "Indexed":
            annotations["batch.kubernetes.io/job-completion-index"] = str(number)
        return self.add(
            CORE,
            "pods",
            f"{name}-{number}-{self._tick():05}",
            job["metadata"]["namespace"],
            metadata={
                "labels": labels,
                "annotations": annotations,
                "creationTimestamp": self._now(),
                "ownerReferences": [{"uid": job["metadata"]["uid"]}],
            },
            spec={**template["spec"]},
            status={"phase": "Pending"},
        )

    def _owner_of(self, pod: Object) -> Object:
        (owner,) = pod["metadata"]["ownerReferences"]
        return next(o for o in self.objects.values() if o["metadata"]["uid"] == owner["uid"])

    def _owned(self, owner: Object) -> list[Object]:
        uid = owner["metadata"]["uid"]
        return [
            each
            for each in self.objects.values()
            if uid in {o["uid"] for o in each["metadata"].get("ownerReferences", [])}
        ]

    def _remove(self, uids: set[str]) -> None:
        """Remove objects and their dependents, like the garbage collector."""
        gone = {
            key: each
            for key, each in self.objects.items()
            if each["metadata"]["uid"] in uids
            or uids & {o["uid"] for o in each["metadata"].get("ownerReferences", [])}
        }
        self.objects = {key: o for key, o in self.objects.items() if key not in gone}

    def _set(self, pod: Object, phase: str, **state: Any) -> None:
        pod["status"] = {"phase": phase, "containerStatuses": [{"name": "paddle", "state": state}]}
        self.changed.notify_all()

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _now(self) -> str:
        return _text(_BEGIN + timedelta(seconds=self._tick()))


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _not_found(group: str, plural: str, name: str) -> Answer:
    of = f".{group.rpartition('/')[0]}" if "/" in group else ""
    return Answer(404, f'{plural}{of} "{name}" not found', name=name, kind=plural)


def _is_going(stored: Object) -> bool:
    return "deletionTimestamp" in stored["metadata"]


def _number(pod: Object) -> int:
    values = {**pod["metadata"]["annotations"], **pod["metadata"]["labels"]}
    return int(next((v for name, v in values.items() if name.endswith("-index")), 0))


def _merge(stored: Object, change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(stored.get(key), dict):
            _merge(stored[key], value)
        else:
            stored[key] = value


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Cluster

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        content = self.headers.get("Content-Type", "")
        request = Request(self.command, parts.path, query, content, body)
        state, token = self.state, self.headers.get("Authorization", "")
        with state.changed:
            state.requests.append(request)
            fault = self._fault(request)
            if fault == "reset":
                self._reset()
                return
            try:
                if isinstance(fault, int):
                    raise Answer(fault, "injected fault")
                document = state.answer(request, token)
                text = json.dumps(document)
            except Answer as answer:
                self._send(answer.code, json.dumps(answer.status))
                return
        if fault == "lost":
            self._reset()
        elif request.path.endswith("/log"):
            self._log(document, follow="follow" in query)
        else:
            self._send(201 if self.command == "POST" else 200, text)

    do_GET = do_POST = do_PATCH = do_DELETE = _handle

    def _fault(self, request: Request) -> int | str:
        for fault in self.state.faults:
            method, part, kind = fault
            if method == request.method and re.search(part, request.path):
                self.state.faults.remove(fault)
                return kind
        return ""

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "7")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _reset(self) -> None:
        # What is lost on the way is lost without a word: no end of file, a reset.
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True
        self.wfile = _Nowhere()  # type: ignore[assignment]

    def _log(self, pod: Object, *, follow: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self._lines(pod, follow=follow):
            self.wfile.write(b"0\r\n\r\n")

    def _lines(self, pod: Object, *, follow: bool) -> bool:
        """Send a pod's output; return whether it was sent completely."""
        written = self.state.logs.setdefault(pod["metadata"]["name"], [])
        at = 0
        while True:
            with self.state.changed:
                while at == len(written) and follow and pod["status"]["phase"] == "Running":
                    if not self.state.changed.wait(30):
                        raise AssertionError("a test left a pod running that is followed")
                if at == len(written):
                    return True
                line = written[at]
                if line == RESET:
                    del written[at]
                    self._reset()
                    return False
                at += 1
            # Two lines of one instant, as a container can write them.
            text = f"2026-01-01T00:00:00.{at // 2:09}Z ".encode() + line + b"\n"
            half = len(text) // 2
            for part in (text[:half], text[half:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: tests inspect the requests."""


class _Nowhere:
    """A sink for the rest of an answer after the connection was reset."""

    closed = False

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore disconnected clients."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, OSError, ValueError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving(role: Path | None = None) -> Iterator[Cluster]:
    """Yield a cluster with the namespace ``training`` and a claim ``workspace`` in it.

    Args:
        role: a file with a Role, which is all that its user may do there.
    """
    handler = type("Handler", (_Handler,), {})
    server = _Listener(("127.0.0.1", 0), handler)
    state = Cluster(f"http://127.0.0.1:{server.server_port}")
    handler.state = state
    state.add_claim()
    if role:
        state.rules = yaml.safe_load(role.read_text())["rules"]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        with state.changed:
            for pod in state.of("pods"):
                state.end(pod)
        server.shutdown()
        server.server_close()


def kubeconfig(path: Path, **servers: str) -> Path:
    """Write a kubeconfig with a context for each server, the first of them current.

    Args:
        path: the file.
        servers: ``ADDRESS|TOKEN`` by context.
    """
    parts = {name: text.partition("|") for name, text in servers.items()}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": next(iter(servers)),
        "clusters": [{"name": n, "cluster": {"server": p[0]}} for n, p in parts.items()],
        "users": [{"name": n, "user": {"token": p[2] or "valid"}} for n, p in parts.items()],
        "contexts": [
            {"name": n, "context": {"cluster": n, "user": n, "namespace": "training"}}
            for n in parts
        ],
    }
    path.write_text(yaml.safe_dump(config))
    return path
