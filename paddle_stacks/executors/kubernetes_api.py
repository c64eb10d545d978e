"""The API server of a Kubernetes cluster, through the official client: ask, try again, explain.

Objects are plain dictionaries, as the API has them and as documents are written: the client's
classes know no kind that an operator brings along.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_stacks.errors import MachineError, RequestError, StackError, suggest

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from kubernetes.client.exceptions import ApiException

__all__ = ["Api", "Interrupted", "Object", "Refusal", "connect", "explain"]

Object = dict[str, Any]
"""An object of the API, or its answer."""

_TRIES = 4
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
# Somebody who reads along waits for lines; a connection that died says nothing at all.
_SILENCE_SECONDS = 300
# Too many requests, and what a server says that is starting, stopping or overloaded.
_PASSING = frozenset({429, 500, 502, 503, 504})

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Refusal(Exception):
    """The API server has answered, and not as it was asked.

    Args:
        status: of HTTP; 0 where TLS failed.
        reason: the API's word for it, as ``AlreadyExists``.
        message: the API's sentence.
        kind: what resource it is about, as ``namespaces``; may be empty.
        name: of which object; may be empty.
        unsure: whether an earlier try of the same request may have been carried out.
        wait_seconds: after which to try again; 0 where the server does not say.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        kind: str = "",
        name: str = "",
        *,
        unsure: bool = False,
        wait_seconds: float = 0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.kind = kind
        self.name = name
        self.unsure = unsure
        self.wait_seconds = wait_seconds

    @classmethod
    def of(cls, error: ApiException, *, unsure: bool = False) -> Refusal:
        """Return what the client's error says, with the API's own words where there are any."""
        body = error.body or ""
        try:
            told = json.loads(body)
        except ValueError:
            told = {}
        if not isinstance(told, dict) or told.get("kind") != "Status":
            # Not the API itself: a proxy, or a gateway before it.
            text = body.decode(errors="replace") if isinstance(body, bytes) else body
            told = {"message": " ".join(f"{error.reason or ''} {text}".split())[:300]}
        details = told.get("details") or {}
        after = (error.headers or {}).get("Retry-After", "")
        return cls(
            int(error.status or 0),
            str(told.get("reason") or ""),
            str(told.get("message") or error.reason or ""),
            str(details.get("kind") or ""),
            str(details.get("name") or ""),
            unsure=unsure,
            wait_seconds=float(after) if after.isdecimal() else 0,
        )


class Interrupted(Exception):
    """A connection broke, or went silent, while something was read along."""


@dataclass(frozen=True)
class Api:
    """An API server, as one user.

    Args:
        client: the official client, which knows address, certificates and credentials.
        context: the name in the kubeconfig that it was made from; empty in a pod.
        namespace: of the context.
        pause: waits so many seconds.
    """

    client: ApiClient
    context: str
    namespace: str
    pause: Callable[[float], None] = time.sleep

    @property
    def address(self) -> str:
        """The server's address."""
        return str(self.client.configuration.host)

    def get(self, path: str, **query: str) -> Object:
        """Return an object, or a list of them as ``items``.

        Raises:
            Refusal: the server's answer, if that is another.
            MachineError: the server cannot be reached.
        """
        return self._ask("GET", path, query)

    def create(self, path: str, document: Mapping[str, Any]) -> Object:
        """Create an object and return it as it is then; no field may be unknown.

        After an answer that was lost, an object of that name is the one that was meant:
        names here end in a random number.

        Raises:
            Refusal, MachineError: as :meth:`get`.
        """
        try:
            return self._ask("POST", path, {"fieldValidation": "Strict"}, document)
        except Refusal as refusal:
            if refusal.status == 409 and refusal.unsure:
                return self.get(f"{path}/{document['metadata']['name']}")
            raise

    def patch(self, path: str, change: Mapping[str, Any]) -> Object:
        """Change an object's fields and return it as it is then.

        Raises:
            Refusal, MachineError: as :meth:`get`.
        """
        return self._ask("PATCH", path, {}, change, "application/merge-patch+json")

    def delete(self, path: str, uid: str) -> None:
        """Delete an object and what it owns; it is there until that has ended.

        Raises:
            Refusal, MachineError: as :meth:`get`.
        """
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            # Unless it is said, the pods of a Job are left running.
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        try:
            self._ask("DELETE", path, {}, options)
        except Refusal as refusal:
            if not (refusal.status == 404 and refusal.unsure):
                raise

    def stream(self, path: str, **query: str) -> Iterator[bytes]:
        """Yield an answer's bytes as they come.

        Raises:
            Refusal, MachineError: as :meth:`get`.
            Interrupted: the connection broke on the way.
        """
        import urllib3.exceptions

        timeout = (_CONNECT_SECONDS, _SILENCE_SECONDS)
        answer = self._tried(lambda: self._call("GET", path, query, timeout=timeout, raw=True))
        try:
            yield from answer.stream(65536)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Interrupted(str(error)) from error
        finally:
            answer.close()

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> Object:
        timeout = (_CONNECT_SECONDS, _READ_SECONDS)
        answer = self._tried(
            lambda: self._call(method, path, query, timeout=timeout, body=body, content=content)
        )
        return dict(answer)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        timeout: tuple[int, int],
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        raw: bool = False,
    ) -> Any:
        return self.client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "*/*" if raw else "application/json", "Content-Type": content},
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=not raw,
            _request_timeout=timeout,
        )

    def _tried(self, call: Callable[[], Any]) -> Any:
        """Return a call's answer, after as many tries as it takes and are worth it."""
        import urllib3.exceptions
        from kubernetes.client.exceptions import ApiException

        unsure = False
        for tried in range(1, _TRIES + 1):
            wait: float = 2 ** (tried - 1)
            try:
                return call()
            except ApiException as error:
                refusal = Refusal.of(error, unsure=unsure)
                if refusal.status not in _PASSING or tried == _TRIES:
                    raise refusal from error
                unsure = unsure or refusal.status >= 500
                wait = refusal.wait_seconds or wait
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if _never_connected(error) or tried == _TRIES:
                    raise self._unreachable(error) from error
                unsure = True
            self.pause(wait)
        raise AssertionError("the last try returns or raises")

    def _unreachable(self, error: Exception) -> MachineError:
        words = " ".join(str(error).split())
        return MachineError(
            f"the cluster's API server {self.address} cannot be reached: {words}",
            where=f"context {self.context}" if self.context else "this pod's service account",
            remedy="kubectl cluster-info asks the same; a VPN, a proxy or another --context"
            " may be needed",
        )


def connect(context: str = "", *, pause: Callable[[float], None] = time.sleep) -> Api:
    """Return the cluster of a kubeconfig's context, or the one that this is a pod of.

    ``KUBECONFIG`` names the files, as for kubectl; by default it is ``~/.kube/config``.

    Args:
        context: its name; empty for the current one.
        pause: waits so many seconds between two tries.

    Raises:
        MachineError: there is no configuration, or it is broken.
        RequestError: it has no such context.
    """
    from kubernetes import client, config

    files = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    made = client.Configuration()
    # Tries are ours: the client's own would send what creates something twice.
    made.retries = False
    if not context and "KUBERNETES_SERVICE_HOST" in os.environ and not _exists(files):
        try:
            config.load_incluster_config(client_configuration=made)
        except config.ConfigException as error:
            raise MachineError(
                f"this pod has no service account: {error}",
                remedy="give it one, or a kubeconfig by KUBECONFIG",
            ) from error
        namespace = (_SERVICE_ACCOUNT / "namespace").read_text().strip()
        return Api(client.ApiClient(made), "", namespace, pause)
    found = _context(files, context)
    try:
        config.load_kube_config(files, context=found["name"], client_configuration=made)
    except Exception as error:  # what a broken file makes of the client's own code varies
        raise _broken(files, error) from error
    namespace = found["context"].get("namespace") or "default"
    return Api(client.ApiClient(made), found["name"], namespace, pause)


def _exists(files: str) -> bool:
    return any(Path(file).is_file() for file in files.split(os.pathsep) if file)


def _context(files: str, wanted: str) -> Object:
    """Return a context of the kubeconfig: the one that is wanted, or the current one."""
    from kubernetes import config

    if not _exists(files):
        raise MachineError(
            "there is no configuration of a Kubernetes cluster",
            where=files,
            remedy="get a kubeconfig from the cluster's administrator, and name it in KUBECONFIG",
        )
    try:
        contexts, current = config.list_kube_config_contexts(files)
    except Exception as error:  # see above
        raise _broken(files, error) from error
    names = [context["name"] for context in contexts]
    if not wanted:
        return dict(current)
    if wanted not in names:
        raise RequestError(
            f'the kubeconfig has no context "{wanted}"',
            where=files,
            remedy=suggest(wanted, names, "contexts"),
        )
    return dict(contexts[names.index(wanted)])


def _broken(files: str, error: Exception) -> MachineError:
    words = " ".join(str(error).split())[:300] or type(error).__name__
    return MachineError(
        f"the configuration of the cluster is not one: {words}",
        where=files,
        remedy="kubectl config view says what it has; name another file in KUBECONFIG",
    )


def _never_connected(error: BaseException) -> bool:
    """Whether nothing can have reached the server: there is no use in trying at once again."""
    import urllib3.exceptions

    return isinstance(
        error,
        (
            urllib3.exceptions.NewConnectionError,
            urllib3.exceptions.ConnectTimeoutError,
            urllib3.exceptions.ProxyError,
            urllib3.exceptions.LocationParseError,
            urllib3.exceptions.LocationValueError,
        ),
    )


def explain(refusal: Refusal, doing: str, namespace: str) -> StackError:
    """Return what a refusal means to a person.

    Args:
        refusal: the server's answer.
        doing: what was asked of it, as "create the Job x".
        namespace: where.

    Returns:
        A RequestError where the request is to be changed, a MachineError where the cluster
        or the user's rights on it are.
    """
    said = " ".join(refusal.message.split())
    where = f"namespace {namespace}"
    if refusal.status == 0:
        return MachineError(
            f"the cluster's certificate is not trusted: {said}",
            remedy="certificate-authority in the kubeconfig names who has signed it",
        )
    if refusal.status == 401:
        return MachineError(
            f"the cluster does not accept these credentials, or not any more: {said}",
            remedy="log in anew, and try: kubectl auth whoami",
        )
    if refusal.status == 403:
        return _forbidden(said, doing, where, namespace)
    if refusal.status == 404:
        return _missing(refusal, said, doing, where)
    if refusal.status == 409:
        return RequestError(
            f"cannot {doing}: one of that name is there already",
            where=where,
            remedy="submit it again, under a name that is made anew",
        )
    if refusal.status in (400, 422):
        return RequestError(
            f"the cluster refuses to {doing}: {said}",
            where=where,
            remedy="see what is submitted: ./inv cluster.render … --engine kubernetes",
        )
    return MachineError(
        f"the cluster cannot {doing} now: {said} (HTTP {refusal.status}, {_TRIES} tries)",
        where=where,
        remedy="try again later; kubectl get --raw /readyz?verbose says what it lacks",
    )


def _forbidden(said: str, doing: str, where: str, namespace: str) -> StackError:
    """Return what 403 means: not only rights are answered with it."""
    if "exceeded quota" in said or "failed quota" in said:
        return MachineError(
            f"the namespace's quota does not let you {doing}: {said}",
            where=where,
            remedy=f"kubectl describe quota --namespace {namespace} says what is used; end other"
            " jobs, take fewer nodes, or ask for more",
        )
    if "violates PodSecurity" in said:
        return RequestError(
            f"the namespace's security standard does not let you {doing}: {said}",
            where=where,
            remedy="docs/clusters.md says what a job takes; --namespace names another",
        )
    if "is being terminated" in said:
        return RequestError(f"cannot {doing}: {said}", where=where, remedy="--namespace NAME")
    return MachineError(
        f"you may not {doing}: {said}",
        where=where,
        remedy="configs/cluster/kubernetes-role.yaml is all that it takes: ask for it",
    )


def _missing(refusal: Refusal, said: str, doing: str, where: str) -> StackError:
    if refusal.kind == "namespaces":
        return RequestError(
            f"there is no namespace {refusal.name}",
            where=where,
            remedy="--namespace NAME; kubectl get namespaces lists them",
        )
    return RequestError(
        f"cannot {doing}: {said}",
        where=where,
        remedy="--namespace NAME says where it is; ./inv cluster.status shows what there is",
    )
