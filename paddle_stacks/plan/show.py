"""Render a plan as text, as JSON and as a ``docker run`` command line, without passwords."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from typing import Any

from paddle_stacks.plan.make import PLAIN_ENVIRONMENT, Device, Plan, Port
from paddle_stacks.settings import without_password

__all__ = [
    "LOG_DRIVER",
    "LOG_OPTIONS",
    "as_docker_command",
    "as_json",
    "as_line",
    "as_text",
    "beside_command",
    "docker_arguments",
    "mount_option",
]


LOG_DRIVER = "local"
"""The engine's log driver: rotated files in a compact format."""
LOG_OPTIONS = {"max-size": "32m", "max-file": "3"}
"""The log's limits, so that a job cannot fill the engine's disk."""


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON-serializable values."""
    return {
        "job": plan.job,
        "backend": plan.backend,
        "image": plan.image,
        "name": plan.name,
        "argv": list(plan.argv),
        "workspace": str(plan.workspace),
        "environment": {name: without_password(v) for name, v in plan.environment.items()},
        "mounts": [
            {"source": m.source, "target": m.target, "read_only": m.read_only} for m in plan.mounts
        ],
        "secrets": [{"target": s.target, "source": s.source} for s in plan.secrets],
        "devices": [{"source": d.source, "target": d.target} for d in plan.devices],
        "groups": list(plan.groups),
        "user": plan.user,
        "shm_mib": plan.shm_mib,
        "tmp_mib": plan.tmp_mib,
        "memory_mib": plan.memory_mib,
        "pids": plan.pids,
        "ulimits": dict(plan.ulimits),
        "network": plan.network,
        "labels": dict(plan.labels),
        "profile": plan.profile,
        "cards": list(plan.cards),
        "ranks": plan.ranks,
        "ipc": plan.ipc,
        "privileged": plan.privileged,
        "cap_add": list(plan.cap_add),
        "cap_drop": list(plan.cap_drop),
        "security_opt": list(plan.security_opt),
        "read_only": plan.read_only,
        "grace_seconds": plan.grace_seconds,
        "outputs": list(plan.outputs),
        "ports": [{"address": p.address, "number": p.number} for p in plan.ports],
        "notes": list(plan.notes),
        "command": as_docker_command(plan, multiline=False),
    }


def as_text(plan: Plan) -> str:
    """Return the plan without its command line, one line per setting."""
    rows = [
        ("job", shlex.join(plan.argv)),
        ("image", plan.image),
        ("container", plan.name),
        ("user", plan.user),
        ("network", plan.network),
        *(("port", _port(port)) for port in plan.ports),
        *(("mount", f"{m.source} → {m.target}{_mode(m.read_only)}") for m in plan.mounts),
        *(("output", f"{name}, moved to {plan.workspace} at the end") for name in plan.outputs),
        *(("secret", f"{s.source or '(written for the run)'} → {s.target}") for s in plan.secrets),
        *(("set", f"{name}={without_password(v)}") for name, v in plan.environment.items()),
        *(("device", _device(device, " → ")) for device in plan.devices),
        *(("group", group) for group in plan.groups),
        *(("limit", f"{name} {_amount(n)}") for name, n in plan.ulimits.items()),
        *([("limit", f"processes and threads {plan.pids}")] if plan.pids else []),
        ("memory", _memory(plan)),
        *([("devices", ", ".join(map(str, plan.cards)))] if plan.cards else []),
        ("ranks", str(plan.ranks)),
        *(("note", note) for note in plan.notes),
        ("rights", _rights(plan)),
        ("stopping", f"SIGTERM, then SIGKILL after {plan.grace_seconds} s"),
    ]
    width = max(len(label) for label, _ in rows)
    lines = []
    previous = ""
    for label, value in rows:
        lines.append(f"  {label if label != previous else '':<{width}}  {value}")
        previous = label
    return "\n".join([f"plan: {plan.job} on {plan.backend}", *lines])


def beside_command(plan: Plan) -> list[str]:
    """Return the settings that the ``docker run`` command line lacks, one line each."""
    rows = [
        *(("output", f"{name}, moved to {plan.workspace} at the end") for name in plan.outputs),
        *(("secret", f"{s.target}, written for the run") for s in plan.secrets if not s.source),
        *([("devices", ", ".join(map(str, plan.cards)))] if plan.cards else []),
        *([("ranks", str(plan.ranks))] if plan.ranks > 1 else []),
        *(("note", note) for note in plan.notes),
    ]
    return [f"  {label:<8}{value}" for label, value in rows]


def as_line(plan: Plan) -> str:
    """Return a one-line summary: command, image, user, network, ports, devices, ranks."""
    parts = [
        f"plan: {shlex.join(plan.argv)}",
        plan.image,
        f"user {plan.user}",
        f"network {plan.network}",
        *(f"port {_port(port)}" for port in plan.ports),
        *([", ".join(device.target for device in plan.devices)] if plan.devices else []),
        *([f"devices {','.join(map(str, plan.cards))}"] if plan.cards else []),
        *([f"{plan.ranks} ranks"] if plan.ranks > 1 else []),
        *plan.notes,
    ]
    return " · ".join(parts)


def as_docker_command(plan: Plan, *, multiline: bool = True) -> str:
    """Return an equivalent ``docker run`` command line, ready to be pasted.

    Variables with passwords are passed by name only: the docker command takes their
    values from its own environment.
    """
    words = [shlex.join(group) for group in docker_arguments(plan)]
    return (" \\\n  " if multiline else " ").join(words)


def docker_arguments(plan: Plan, *, attach: Sequence[str] = ()) -> list[list[str]]:
    """Return the words of the ``docker run`` command line, grouped by option.

    Args:
        plan: the plan.
        attach: ``--interactive`` to attach standard input, ``--tty`` for a terminal.
    """
    groups = [["docker", "run", "--rm", *attach]]
    groups += [["--name", plan.name], ["--user", plan.user], ["--network", plan.network]]
    groups += [["--publish", f"{_port(port)}:{port.number}"] for port in plan.ports]
    groups += [["--privileged"]] if plan.privileged else []
    groups += [["--ipc", plan.ipc]] if plan.ipc else []
    groups += [["--read-only"]] if plan.read_only else []
    groups += [["--cap-add", capability] for capability in plan.cap_add]
    groups += [["--cap-drop", capability] for capability in plan.cap_drop]
    groups += [["--security-opt", option] for option in plan.security_opt]
    groups += [["--tmpfs", f"/tmp:{tmpfs_options(plan)}"], ["--shm-size", f"{plan.shm_mib}m"]]
    groups += [["--memory", f"{plan.memory_mib}m"]] if plan.memory_mib else []
    groups += [["--pids-limit", str(plan.pids)]] if plan.pids else []
    groups += [["--stop-timeout", str(plan.grace_seconds)]]
    groups += [["--device", _device(device, ":")] for device in plan.devices]
    groups += [["--group-add", group] for group in plan.groups]
    groups += [["--ulimit", f"{name}={n}:{n}"] for name, n in plan.ulimits.items()]
    groups += [["--log-driver", LOG_DRIVER]]
    groups += [["--log-opt", f"{name}={value}"] for name, value in LOG_OPTIONS.items()]
    groups += [["--label", f"{name}={value}"] for name, value in plan.labels.items()]
    groups += [
        ["--mount", mount_option(m.source, m.target, read_only=m.read_only)] for m in plan.mounts
    ]
    groups += [["--mount", mount_option(s.source, s.target)] for s in plan.secrets if s.source]
    groups += _environment_options(plan)
    return [*groups, [plan.image, *plan.argv]]


def tmpfs_options(plan: Plan) -> str:
    """Return the mount options of ``/tmp``."""
    return f"size={plan.tmp_mib}m,mode=1777"


def _environment_options(plan: Plan) -> list[list[str]]:
    written = {secret.target for secret in plan.secrets if secret.source is None}
    options = []
    for name, value in plan.environment.items():
        # Skip paths of files that only the executor writes: they do not exist here.
        if name in PLAIN_ENVIRONMENT or value in written:
            continue
        hidden = without_password(value) != value
        options.append(["--env", name if hidden else f"{name}={value}"])
    variables = [secret.variable for secret in plan.secrets if secret.variable]
    return options + [["--env", name] for name in variables]


def mount_option(source: str, target: str, *, read_only: bool = True) -> str:
    """Return the value of ``--mount`` for a bind mount, for Docker and Apptainer."""
    # The option is a line of CSV: a path with a comma must be quoted.
    fields = ["type=bind", f"source={source}", f"target={target}"]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([*fields, *(["readonly"] if read_only else [])])
    return line.getvalue()


def _port(port: Port) -> str:
    address = f"[{port.address}]" if ":" in port.address else port.address
    return f"{address}:{port.number}"


def _device(device: Device, between: str) -> str:
    same = device.source == device.target
    return device.target if same else f"{device.source}{between}{device.target}"


def _mode(read_only: bool) -> str:
    return ", read only" if read_only else ""


def _memory(plan: Plan) -> str:
    total = f"up to {plan.memory_mib} MiB, including " if plan.memory_mib else ""
    return f"{total}/dev/shm up to {plan.shm_mib} MiB, /tmp up to {plan.tmp_mib} MiB"


def _amount(number: int) -> str:
    return "unlimited" if number == -1 else str(number)


def _rights(plan: Plan) -> str:
    parts = [
        "privileged" if plan.privileged else "",
        "root file system read only" if plan.read_only else "",
        f"capabilities dropped: {' '.join(plan.cap_drop)}" if plan.cap_drop else "",
        f"capabilities added: {' '.join(plan.cap_add)}" if plan.cap_add else "",
        f"{plan.ipc}'s IPC" if plan.ipc else "",
        *plan.security_opt,
    ]
    return ", ".join(filter(None, parts))
