"""Attempts that must fail in a job, what blocks them, and which ``--profile doc`` allows.

``probe.py`` tries each attempt in real containers. Unit tests compare Kubernetes documents and
the table in docs/security.md with the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ATTEMPTS", "HEAD", "Attempt", "table"]

Pod = Mapping[str, Any]


@dataclass(frozen=True)
class Attempt:
    """A row.

    Args:
        name: of the probe's function.
        by: what blocks it in a plan and a Compose service.
        kubernetes: what blocks it in a pod.
        holds: whether a pod has that; None if a Kubernetes document cannot express it.
        root: whether it succeeds for root in a container of ``--profile doc``, as with
            ``docker exec``; None if that depends on the machine.
        job: whether it succeeds for a job in that container with a workspace that belongs to
            root; the image's entry program drops all capabilities.
    """

    name: str
    by: str
    kubernetes: str
    holds: Callable[[Pod, list[Pod]], bool] | None
    root: bool | None = True
    job: bool | None = False


def _own(pod: Pod) -> Any:
    (container,) = pod["containers"]
    return container["securityContext"]


def _not_root(pod: Pod, _: list[Pod]) -> bool:
    shared = pod["securityContext"]
    return bool(shared.get("runAsNonRoot")) and shared["runAsUser"] > 0


def _no_capability(pod: Pod, _: list[Pod]) -> bool:
    return _own(pod)["capabilities"] == {"drop": ["ALL"]} and not _own(pod).get("privileged")


def _no_more_rights(pod: Pod, _: list[Pod]) -> bool:
    return _own(pod).get("allowPrivilegeEscalation") is False


def _parts_of_the_claim(pod: Pod, _: list[Pod]) -> bool:
    (container,) = pod["containers"]
    claims = {v["name"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    parts = [m for m in container["volumeMounts"] if m["name"] in claims]
    return all(
        m.get("subPath", ".").partition("/")[0] in ("models", "data", "runs", ".output")
        or m.get("readOnly")
        for m in parts
    ) and all(m.get("subPath") for m in parts)


def _seccomp(pod: Pod, _: list[Pod]) -> bool:
    return bool(pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"})


def _read_only_root(pod: Pod, _: list[Pod]) -> bool:
    return _own(pod)["readOnlyRootFilesystem"] is True


def _few_volumes(pod: Pod, _: list[Pod]) -> bool:
    """Return whether the only volume of the node is the DCU's user space, read-only."""
    (container,) = pod["containers"]
    read_only = {m["name"] for m in container["volumeMounts"] if m.get("readOnly")}
    return all(
        volume["hostPath"]["path"] == "/opt/hyhal" and volume["name"] in read_only
        for volume in pod["volumes"]
        if "hostPath" in volume
    )


def _own_namespaces(pod: Pod, _: list[Pod]) -> bool:
    return not any(pod.get(key) for key in ("hostPID", "hostIPC", "hostNetwork"))


def _no_secrets(pod: Pod, _: list[Pod]) -> bool:
    (container,) = pod["containers"]
    kinds = {key for volume in pod["volumes"] for key in volume if key != "name"}
    mounted = kinds & {"secret", "projected", "configMap"}
    return pod["automountServiceAccountToken"] is False and not (
        mounted or container.get("envFrom") or pod.get("serviceAccountName")
    )


def _masked(pod: Pod, _: list[Pod]) -> bool:
    return _own(pod).get("procMount", "Default") == "Default" and not _own(pod).get("privileged")


def _no_devices(pod: Pod, rest: list[Pod]) -> bool:
    (container,) = pod["containers"]
    blocks = container.get("volumeDevices")
    return not blocks and _few_volumes(pod, rest) and not _own(pod).get("privileged")


def _policy(pod: Pod, documents: list[Pod]) -> bool:
    policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
    return any(
        set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"} and "egress" not in p["spec"]
        for p in policies
    )


_CAPABILITIES = "no capability"
_DROPPED = "`capabilities.drop: [ALL]`"
_ROOT_READ_ONLY = "read-only root file system"
_READ_ONLY = "`readOnlyRootFilesystem`"
_SECCOMP = "`seccompProfile: RuntimeDefault`"
_MASKED = "mounted read-only"
_NO_HOST_PATH = "no `hostPath` except the DCU driver's, read-only"

ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("become root", "another user, no capability", "`runAsNonRoot`", _not_root, root=False),
    Attempt("hold a capability", _CAPABILITIES, _DROPPED, _no_capability),
    Attempt(
        "run a setuid program",
        "no new privileges",
        "`allowPrivilegeEscalation: false`",
        _no_more_rights,
    ),
    Attempt(
        "use sudo or su", "no new privileges", "`allowPrivilegeEscalation: false`", _no_more_rights
    ),
    Attempt("create a user namespace", "seccomp", _SECCOMP, _seccomp, job=True),
    Attempt("chroot", _CAPABILITIES, _DROPPED, _no_capability),
    Attempt("write to image files", _ROOT_READ_ONLY, _READ_ONLY, _read_only_root, job=True),
    Attempt("replace the code of the job", _ROOT_READ_ONLY, _READ_ONLY, _read_only_root, job=True),
    Attempt(
        "write outside tmp and the workspace",
        "no other writable mount",
        _NO_HOST_PATH,
        _few_volumes,
        job=True,
    ),
    Attempt(
        "modify code that runs on the host",
        "`models/`, `data/` and `runs/` are mounted, never the checkout",
        "`subPath` mounts of the claim",
        _parts_of_the_claim,
        root=False,
    ),
    Attempt("write files of another user", _CAPABILITIES, _DROPPED, _no_capability),
    Attempt("mount a file system", _CAPABILITIES, _DROPPED, _no_capability),
    Attempt("remount root as writable", _CAPABILITIES, _DROPPED, _no_capability),
    Attempt(
        "open a host file by handle",
        _CAPABILITIES,
        _DROPPED,
        _no_capability,
        root=None,
    ),
    Attempt("change kernel settings", _MASKED, "default `procMount`", _masked, job=True),
    Attempt(
        "trigger sysrq",
        _MASKED,
        "default `procMount`",
        _masked,
        root=None,
        job=None,
    ),
    Attempt("change its own limits", _MASKED, "not privileged", _masked, root=None, job=None),
    Attempt("load a kernel module", _CAPABILITIES, _DROPPED, _no_capability, root=None),
    Attempt("load a bpf program", _CAPABILITIES, _DROPPED, _no_capability, root=None),
    Attempt("use the kernel keyring", "seccomp", _SECCOMP, _seccomp, root=None, job=None),
    Attempt("use io uring", "seccomp", _SECCOMP, _seccomp, root=None, job=None),
    Attempt(
        "reach the container engine",
        "its socket is not mounted",
        _NO_HOST_PATH,
        _few_volumes,
        root=False,
    ),
    Attempt(
        "see host processes",
        "own PID namespace",
        "no `hostPID`",
        _own_namespaces,
        root=False,
    ),
    Attempt(
        "signal or trace host processes",
        "own PID namespace",
        "no `hostPID`",
        _own_namespaces,
        root=False,
    ),
    Attempt("read host files", "not mounted", _NO_HOST_PATH, _few_volumes, root=False),
    Attempt(
        "read secrets of other jobs",
        "only the plan's own secrets are mounted",
        "no Secret, no service account token",
        _no_secrets,
        root=False,
    ),
    Attempt("create a device node", _CAPABILITIES, _DROPPED, _no_capability),
    Attempt(
        "open host memory and disks",
        "device cgroup",
        "not privileged",
        _no_devices,
        job=True,
    ),
    Attempt(
        "open devices outside its plan",
        "device cgroup",
        "the device plugin",
        _no_devices,
        job=True,
    ),
    Attempt(
        "reach the network",
        "network `none`, except `fetch`, `fetch-data` and `serve`",
        "a NetworkPolicy",
        _policy,
        job=True,
    ),
    Attempt("send raw packets", _CAPABILITIES, _DROPPED, _no_capability),
    Attempt(
        "start unlimited processes",
        "`pids` of the backend",
        "the kubelet's `podPidsLimit`",
        None,
        job=True,
    ),
    Attempt(
        "use all memory",
        "`memory_percent` of the backend; `MEMORY_LIMIT` with Compose",
        "the namespace's LimitRange",
        None,
        job=True,
    ),
)

HEAD = (
    "attempt",
    "plan, Compose service",
    "job with `--profile doc`",
    "root with `--profile doc`",
    "pod",
)
_OUTCOMES = {True: "**possible**", False: "blocked", None: "depends on the machine"}


def table() -> str:
    """Return the table in docs/security.md."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for row in ATTEMPTS:
        held = row.kubernetes if row.holds else f"{row.kubernetes}, set by the cluster"
        outcomes = _OUTCOMES[row.job], _OUTCOMES[row.root]
        rows.append((row.name, f"blocked: {row.by}", *outcomes, held))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
