"""Access to a Kubernetes API server through the official client, with retries and messages.

Objects are plain dictionaries, as in the API and in documents, because the client has no
classes for the kinds of operators.
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

__all__ = ["Api", "ApiError", "Interrupted", "Object", "connect", "explain"]

Object = dict[str, Any]
"""An object or a response of the API."""

_TRIES = 4
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
# While following a log: longer silence is taken for a dead connection.
_SILENCE_SECONDS = 300
# Too many requests, and errors of a server that is starting, stopping or overloaded.
_RETRYABLE = frozenset({429, 500, 502, 503, 504})

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiError(Exception):
    """An error response of the API server.

    Args:
        status: HTTP status; 0 if TLS failed.
        reason: the API's reason, such as ``AlreadyExists``.
        message: the API's message.
        kind: the resource, such as ``namespaces``; may be empty.
        name: the object's name; may be empty.
        unsure: whether an earlier try of the same request may have succeeded.
        wait_seconds: seconds until the next try, from the server; 0 if not specified.
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
    def of(cls, error: ApiException, *, unsure: bool = False) -> ApiError:
        """Convert an error of the client, with the API's message if there is one."""
        body = error.body or ""
        try:
            status = json.loads(body)
        except ValueError:
            status = {}
        if not isinstance(status, dict) or status.get("kind") != "Status":
            # Not from the API but from a proxy or gateway.
            text = body.decode(errors="replace") if isinstance(body, bytes) else body
            status = {"message": " ".join(f"{error.reason or ''} {text}".split())[:300]}
        details = status.get("details") or {}
        after = (error.headers or {}).get("Retry-After", "")
        return cls(
            int(error.status or 0),
            str(status.get("reason") or ""),
            str(status.get("message") or error.reason or ""),
            str(details.get("kind") or ""),
            str(details.get("name") or ""),
            unsure=unsure,
            wait_seconds=float(after) if after.isdecimal() else 0,
        )


class Interrupted(Exception):
    """The connection broke or timed out while following a log."""


@dataclass(frozen=True)
class Api:
    """An API server with the credentials of one user.

    Args:
        client: the official client, with address, certificates and credentials.
        context: the context of the kubeconfig; empty in a pod.
        namespace: the context's namespace.
        pause: sleeps for a number of seconds.
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
        """Return an object, or a list of objects as ``items``.

        Raises:
            ApiError: the server returned an error.
            MachineError: the server cannot be reached.
        """
        return self._request("GET", path, query)

    def create(self, path: str, document: Mapping[str, Any]) -> Object:
        """Create an object and return it; unknown fields are an error.

        If a response was lost, an existing object with this name is taken for the created
        one: names end in a random number.

        Raises:
            ApiError, MachineError: as :meth:`get`.
        """
        try:
            return self._request("POST", path, {"fieldValidation": "Strict"}, document)
        except ApiError as error:
            if error.status == 409 and error.unsure:
                return self.get(f"{path}/{document['metadata']['name']}")
            raise

    def patch(self, path: str, change: Mapping[str, Any]) -> Object:
        """Change fields of an object and return it.

        Raises:
            ApiError, MachineError: as :meth:`get`.
        """
        return self._request("PATCH", path, {}, change, "application/merge-patch+json")

    def delete(self, path: str, uid: str) -> None:
        """Delete an object and its dependents; it exists until they are gone.

        Raises:
            ApiError, MachineError: as :meth:`get`.
        """
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            # The default would leave the pods of a Job running.
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        try:
            self._request("DELETE", path, {}, options)
        except ApiError as error:
            if not (error.status == 404 and error.unsure):
                raise

    def stream(self, path: str, **query: str) -> Iterator[bytes]:
        """Yield a response's bytes as they arrive.

        Raises:
            ApiError, MachineError: as :meth:`get`.
            Interrupted: the connection broke.
        """
        import urllib3.exceptions

        timeout = (_CONNECT_SECONDS, _SILENCE_SECONDS)
        response = self._retry(lambda: self._call("GET", path, query, timeout=timeout, raw=True))
        try:
            yield from response.stream(65536)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Interrupted(str(error)) from error
        finally:
            response.close()

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> Object:
        timeout = (_CONNECT_SECONDS, _READ_SECONDS)
        response = self._retry(
            lambda: self._call(method, path, query, timeout=timeout, body=body, content=content)
        )
        return dict(response)

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

    def _retry(self, call: Callable[[], Any]) -> Any:
        """Return a call's response, repeating it after errors that may be temporary."""
        import urllib3.exceptions
        from kubernetes.client.exceptions import ApiException

        unsure = False
        for attempt in range(1, _TRIES + 1):
            wait: float = 2 ** (attempt - 1)
            try:
                return call()
            except ApiException as exception:
                error = ApiError.of(exception, unsure=unsure)
                if error.status not in _RETRYABLE or attempt == _TRIES:
                    raise error from exception
                unsure = unsure or error.status >= 500
                wait = error.wait_seconds or wait
            except (urllib3.exceptions.HTTPError, OSError) as exception:
                if _never_connected(exception) or attempt == _TRIES:
                    raise self._unreachable(exception) from exception
                unsure = True
            self.pause(wait)
        raise AssertionError("the last try returns or raises")

    def _unreachable(self, error: Exception) -> MachineError:
        words = " ".join(str(error).split())
        return MachineError(
            f"the cluster's API server {self.address} cannot be reached: {words}",
            where=f"context {self.context}" if self.context else "this pod's service account",
            remedy="check with kubectl cluster-info; a VPN, a proxy or another --context may be"
            " needed",
        )


def connect(context: str = "", *, pause: Callable[[float], None] = time.sleep) -> Api:
    """Connect to the cluster of a kubeconfig's context, or to the cluster of this pod.

    The kubeconfig is ``KUBECONFIG``, or ``~/.kube/config``, as for kubectl.

    Args:
        context: name of the context; empty for the current one.
        pause: sleeps for a number of seconds between tries.

    Raises:
        MachineError: there is no configuration, or it is invalid.
        RequestError: it has no such context.
    """
    from kubernetes import client, config

    files = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    configuration = client.Configuration()
    # Api retries itself: the client's retries could create an object twice.
    configuration.retries = False
    if not context and "KUBERNETES_SERVICE_HOST" in os.environ and not _exists(files):
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise MachineError(
                f"this pod has no service account: {error}",
                remedy="set serviceAccountName in the pod's spec, or KUBECONFIG to a kubeconfig",
            ) from error
        namespace = (_SERVICE_ACCOUNT / "namespace").read_text().strip()
        return Api(client.ApiClient(configuration), "", namespace, pause)
    selected = _context(files, context)
    try:
        config.load_kube_config(files, context=selected["name"], client_configuration=configuration)
    except Exception as error:  # the client raises various exceptions for invalid files
        raise _broken(files, error) from error
    namespace = selected["context"].get("namespace") or "default"
    return Api(client.ApiClient(configuration), selected["name"], namespace, pause)


def _exists(files: str) -> bool:
    return any(Path(file).is_file() for file in files.split(os.pathsep) if file)


def _context(files: str, name: str) -> Object:
    """Return a context of the kubeconfig by name, or the current one."""
    from kubernetes import config

    if not _exists(files):
        raise MachineError(
            "no kubeconfig found",
            where=files,
            remedy="get a kubeconfig from the cluster's administrator, and set KUBECONFIG to it",
        )
    try:
        contexts, current = config.list_kube_config_contexts(files)
    except Exception as error:  # see above
        raise _broken(files, error) from error
    names = [context["name"] for context in contexts]
    if not name:
        return dict(current)
    if name not in names:
        raise RequestError(
            f'the kubeconfig has no context "{name}"',
            where=files,
            remedy=suggest(name, names, "contexts"),
        )
    return dict(contexts[names.index(name)])


def _broken(files: str, error: Exception) -> MachineError:
    words = " ".join(str(error).split())[:300] or type(error).__name__
    return MachineError(
        f"the kubeconfig is invalid: {words}",
        where=files,
        remedy="check it with kubectl config view; or set KUBECONFIG to another file",
    )


def _never_connected(error: BaseException) -> bool:
    """Return whether the request cannot have reached the server; retrying is then pointless."""
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


def explain(error: ApiError, doing: str, namespace: str) -> StackError:
    """Convert an API error to one with a remedy.

    Args:
        error: the API error.
        doing: the attempted action, such as "create the Job x".
        namespace: the namespace.

    Returns:
        A RequestError if the request must be changed, a MachineError for a fault of the
        cluster or missing permissions.
    """
    message = " ".join(error.message.split())
    where = f"namespace {namespace}"
    if error.status == 0:
        return MachineError(
            f"the cluster's certificate is not trusted: {message}",
            remedy="set certificate-authority in the kubeconfig to the CA that signed it",
        )
    if error.status == 401:
        return MachineError(
            f"the credentials are invalid or have expired: {message}",
            remedy="log in again, then check with kubectl auth whoami",
        )
    if error.status == 403:
        return _forbidden(message, doing, where, namespace)
    if error.status == 404:
        return _missing(error, message, doing, where)
    if error.status == 409:
        return RequestError(
            f"cannot {doing}: an object with this name already exists",
            where=where,
            remedy="submit it again: it gets a new name",
        )
    if error.status in (400, 422):
        return RequestError(
            f"the cluster refuses to {doing}: {message}",
            where=where,
            remedy="check the documents: ./inv cluster.render … --engine kubernetes",
        )
    return MachineError(
        f"the cluster failed to {doing}: {message} (HTTP {error.status}, {_TRIES} tries)",
        where=where,
        remedy="try again later; check the server with kubectl get --raw /readyz?verbose",
    )


def _forbidden(message: str, doing: str, where: str, namespace: str) -> StackError:
    """Convert a 403, which is not only used for missing permissions."""
    if "exceeded quota" in message or "failed quota" in message:
        return MachineError(
            f"the namespace's quota does not allow to {doing}: {message}",
            where=where,
            remedy=f"check kubectl describe quota --namespace {namespace}; end other jobs, use"
            " fewer nodes, or request a higher quota",
        )
    if "violates PodSecurity" in message:
        return RequestError(
            f"the namespace's security standard does not allow to {doing}: {message}",
            where=where,
            remedy="see docs/clusters.md for a job's requirements; or use another --namespace",
        )
    if "is being terminated" in message:
        remedy = "use another namespace: --namespace NAME"
        return RequestError(f"cannot {doing}: {message}", where=where, remedy=remedy)
    return MachineError(
        f"permission denied to {doing}: {message}",
        where=where,
        remedy="ask the cluster's administrator for the role in"
        " configs/cluster/kubernetes-role.yaml",
    )


def _missing(error: ApiError, message: str, doing: str, where: str) -> StackError:
    if error.kind == "namespaces":
        return RequestError(
            f"namespace {error.name} does not exist",
            where=where,
            remedy="use an existing --namespace: kubectl get namespaces",
        )
    return RequestError(
        f"cannot {doing}: {message}",
        where=where,
        remedy="check --namespace; list the jobs with ./inv cluster.status",
    )
