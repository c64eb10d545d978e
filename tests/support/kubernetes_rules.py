"""Kubernetes' requirements for documents: published schemas and Pod Security Standards.

The schemas of the API come from the package kubernetes-validate. The schema of a PaddleJob is
built from the fields in the Training Operator's Python SDK (kubeflow-training,
``openapi_types``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from kubeflow.training import models
from referencing import Registry, Resource

__all__ = ["NEWEST", "OLDEST", "against_baseline", "against_restricted", "faults", "pod_of"]

OLDEST = "1.27"
"""The oldest version of Kubernetes that documents are written for."""

NEWEST: str = kubernetes_validate.latest_version()
"""The newest one whose schemas are known here."""

Document = Mapping[str, Any]

# The part of scheduling.volcano.sh_podgroups.yaml (volcano-sh/volcano, config/crd/volcano/bases)
# that is used. No package ships that file.
_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_POD_GROUP: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"enum": ["scheduling.volcano.sh/v1beta1"]},
        "kind": {"enum": ["PodGroup"]},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "minMember": {"type": "integer", "minimum": 0},
                "priorityClassName": {"type": "string", "maxLength": 253},
                "queue": {"type": "string", "maxLength": 253, "pattern": _NAME},
            },
        },
    },
}

_DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
_CORE = {
    "V1ObjectMeta": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    "V1PodTemplateSpec": "io.k8s.api.core.v1.PodTemplateSpec",
}
_PLAIN = {"str": "string", "int": "integer", "bool": "boolean"}


def faults(document: Document, version: str = NEWEST) -> list[str]:
    """Return the faults that an API server with strict field validation reports."""
    if document["apiVersion"] == "kubeflow.org/v1":
        return [*_against(_paddle_job(), document, version), *_against_webhook(document)]
    if document["apiVersion"] == "scheduling.volcano.sh/v1beta1":
        return _against(_POD_GROUP, document, version)
    return _against(
        _published(document["kind"], document["apiVersion"], version), document, version
    )


@cache
def _published(kind: str, api_version: str, version: str) -> dict[str, Any]:
    """Return the API's schema, which rejects unknown fields."""
    group, _, of = api_version.rpartition("/")
    short = "-".join([kind.lower(), *([group.partition(".")[0]] if group else []), of])
    schema: dict[str, Any] = json.loads((_folder(version) / f"{short}.json").read_text())
    return schema


def _against(schema: Mapping[str, Any], document: Document, version: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema, registry=_registry(version))
    return [
        f"{'.'.join(map(str, error.path))}: {error.message}"
        for error in validator.iter_errors(document)
    ]


@cache
def _registry(version: str) -> Registry[Any]:
    text = (_folder(version) / "_definitions.json").read_text()
    return Resource.from_contents(json.loads(text)) @ Registry()


def _folder(version: str) -> Path:
    """Return the folder with the schemas of a version, or of the last version before it."""
    versions = [
        v for v in kubernetes_validate.utils.all_versions() if _number(v) <= _number(version)
    ]
    root = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    return root / f"v{versions[-1]}-local-strict"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


@cache
def _paddle_job() -> dict[str, Any]:
    """Return the schema of a PaddleJob, which rejects fields that the SDK does not list."""
    schema = _of_model("KubeflowOrgV1PaddleJob")
    schema["properties"]["kind"] = {"enum": ["PaddleJob"]}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


def _of_model(name: str) -> dict[str, Any]:
    model = getattr(models, name)
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            model.attribute_map[key]: _of_type(kind) for key, kind in model.openapi_types.items()
        },
    }


def _of_type(kind: str) -> dict[str, Any]:
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if kind in _CORE:
        return {"$ref": f"{_DEFINITIONS}#/$defs/{_CORE[kind]}"}
    if table := re.fullmatch(r"dict\(str, (\w+)\)", kind):
        return {"type": "object", "additionalProperties": _of_type(table[1])}
    if hasattr(models, kind):
        return _of_model(kind)
    return {}  # nothing that is written here


def _against_webhook(job: Document) -> list[str]:
    """Return the faults that the operator's webhook reports (1.9, paddlepaddle_webhook.go)."""
    faults = []
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job["metadata"]["name"]):
        faults.append("metadata.name: not a DNS-1035 label")
    for kind, replicas in job["spec"]["paddleReplicaSpecs"].items():
        if kind not in ("Master", "Worker"):
            faults.append(f"spec.paddleReplicaSpecs.{kind}: no such kind")
        names = [c["name"] for c in replicas["template"]["spec"]["containers"] if c["image"]]
        if "paddle" not in names:
            faults.append(f"spec.paddleReplicaSpecs.{kind}: no container named paddle")
    return faults


def pod_of(job: Document) -> dict[str, Any]:
    """Return the pod that a Job or a PaddleJob starts."""
    spec = job["spec"]
    if job["kind"] == "PaddleJob":
        spec = spec["paddleReplicaSpecs"]["Worker"]
    pod: dict[str, Any] = spec["template"]["spec"]
    return pod


# ---------------------------------------------------------------- Pod Security Standards
# https://kubernetes.io/docs/concepts/security/pod-security-standards/, for Linux, with a
# control's own name in front of what is said against a pod.

_ADDABLE = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies"),
    *("net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"),
    *("net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time"),
    *("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
}
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
    *("projected", "secret"),
}


def against_baseline(pod: Document) -> list[str]:
    """Return the violations of the "baseline" standard in a pod."""
    faults = [f"Host Namespaces: {k}" for k in ("hostNetwork", "hostPID", "hostIPC") if pod.get(k)]
    faults += [
        f"HostPath Volumes: {volume['hostPath']['path']}"
        for volume in pod.get("volumes", [])
        if "hostPath" in volume
    ]
    faults += [
        f"Sysctls: {sysctl['name']}"
        for sysctl in pod.get("securityContext", {}).get("sysctls", [])
        if sysctl["name"] not in _SYSCTLS
    ]
    for where, context in _contexts(pod):
        if context.get("seccompProfile", {}).get("type") == "Unconfined":
            faults.append(f"Seccomp: {where}")
        if context.get("seLinuxOptions", {}).get("type", "") not in _SELINUX:
            faults.append(f"SELinux: {where}")
        if context.get("appArmorProfile", {}).get("type") == "Unconfined":
            faults.append(f"AppArmor: {where}")
        if context.get("windowsOptions", {}).get("hostProcess"):
            faults.append(f"HostProcess: {where}")
    for container in _containers(pod):
        name, context = container["name"], container.get("securityContext", {})
        if context.get("privileged"):
            faults.append(f"Privileged Containers: {name}")
        if context.get("procMount", "Default") != "Default":
            faults.append(f"/proc Mount Type: {name}")
        if set(context.get("capabilities", {}).get("add", [])) - _ADDABLE:
            faults.append(f"Capabilities: {name}")
        if any(port.get("hostPort") for port in container.get("ports", [])):
            faults.append(f"Host Ports: {name}")
    return faults


def against_restricted(pod: Document) -> list[str]:
    """Return the violations of the "restricted" and "baseline" standards in a pod."""
    faults = against_baseline(pod)
    shared = pod.get("securityContext", {})
    faults += [
        f"Volume Types: {volume['name']}"
        for volume in pod.get("volumes", [])
        if not set(volume) - {"name"} <= _VOLUMES
    ]
    for container in _containers(pod):
        name, context = container["name"], container.get("securityContext", {})
        capabilities = context.get("capabilities", {})
        if context.get("allowPrivilegeEscalation") is not False:
            faults.append(f"Privilege Escalation: {name}")
        if context.get("runAsNonRoot", shared.get("runAsNonRoot")) is not True:
            faults.append(f"Running as Non-root: {name}")
        if context.get("runAsUser", shared.get("runAsUser")) == 0:
            faults.append(f"Running as Non-root user: {name}")
        profile = context.get("seccompProfile", shared.get("seccompProfile", {}))
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            faults.append(f"Seccomp (restricted): {name}")
        if "ALL" not in capabilities.get("drop", []):
            faults.append(f"Capabilities (restricted), dropped: {name}")
        if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            faults.append(f"Capabilities (restricted), added: {name}")
    return faults


def _containers(pod: Document) -> Iterator[dict[str, Any]]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod.get(kind, [])


def _contexts(pod: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "the pod", pod.get("securityContext", {})
    for container in _containers(pod):
        yield container["name"], container.get("securityContext", {})
