"""The plan, and its computation from a job, its arguments and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from paddle_stacks import __version__
from paddle_stacks.dcu.host import HYHAL, Host
from paddle_stacks.jobs.catalog import Job
from paddle_stacks.jobs.events import ENVIRONMENT_SWITCH
from paddle_stacks.plan.backend import Backend
from paddle_stacks.plan.mounts import WORKSPACE, Mount, folders
from paddle_stacks.settings import DEBUG_SWITCH, Settings, without_password

if TYPE_CHECKING:
    from paddle_stacks.request import JobRequest

__all__ = [
    "PLAIN_ENVIRONMENT",
    "WORKSPACE",
    "Device",
    "Mount",
    "Plan",
    "Port",
    "Secret",
    "build_command",
    "image_name",
    "make",
    "node_devices",
]

SECRETS = PurePosixPath("/run/secrets")
LABEL = "paddle-stacks"

# A job has 45 seconds to save and exit: enough to write several GB of optimizer state to a
# slow disk.
GRACE_SECONDS = 45

# Omitted from the printed command line, so that a job started by hand prints plain lines.
PLAIN_ENVIRONMENT = frozenset({ENVIRONMENT_SWITCH})

# A plan for another machine, whose devices cannot be detected here.
_NO_HOST = Host(Path("/"), (), None, None)

# The jobs with outgoing and with incoming connections; all others have no network.
_NETWORKED = frozenset({"fetch", "fetch-data"})
_SERVERS = frozenset({"serve"})
# Variables that set the certificate bundle of OpenSSL, requests and pip.
_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")


@dataclass(frozen=True)
class Device:
    """A device node of the host, or a folder of them.

    Args:
        source: path on the host.
        target: path in the container; differs only on a simulated host.
    """

    source: str
    target: str


@dataclass(frozen=True)
class Port:
    """A published port of the container.

    Args:
        address: address of the host that it is bound to.
        number: port number on the host and in the container.
    """

    address: str
    number: int


@dataclass(frozen=True)
class Secret:
    """A file under ``/run/secrets``, mounted read-only.

    Args:
        name: file name.
        source: the file on the host; None if ``content`` is set.
        content: text that the executor writes to a private file for the run.
        variable: environment variable that replaces the file when the job is run by hand;
            empty for none.
    """

    name: str
    source: str | None = None
    content: str = field(default="", repr=False)
    variable: str = ""

    @property
    def target(self) -> str:
        """Path in the container."""
        return str(SECRETS / self.name)


@dataclass(frozen=True)
class Plan:
    """The complete specification of a job's container.

    Args:
        job: name of the job.
        backend: name of the backend.
        image: the image with its tag.
        name: name of the container.
        argv: arguments of the image's entry point: the job and its arguments.
        environment: environment variables.
        workspace: the folder on the host whose parts are mounted below ``/workspace``.
        mounts: folders and files of the host.
        secrets: files with secrets; their contents are never printed.
        devices: device nodes of the host.
        groups: supplementary groups; those of devices are numeric.
        user: ``uid:gid``.
        shm_mib: size limit of ``/dev/shm`` in MiB.
        tmp_mib: size limit of ``/tmp`` in MiB, the only writable folder besides the mounts.
        pids: maximum number of processes and threads; 0 for unlimited.
        ulimits: resource limits, soft and hard.
        network: ``bridge``, ``none`` or ``host``.
        labels: labels of the container.
        profile: the backend's profile; empty for none.
        cards: indices of the devices to use; empty for all of the host's.
        ranks: number of processes that train together.
        ipc: ``host`` to share the host's shared memory; empty for private.
        privileged: run with all capabilities and all devices.
        cap_add: capabilities to add.
        cap_drop: capabilities to drop.
        security_opt: the engine's security options.
        read_only: mount the root file system read-only.
        grace_seconds: seconds from SIGTERM to SIGKILL when the job is stopped.
        ports: published ports.
        memory_mib: memory limit in MiB, including /dev/shm and /tmp; 0 for none.
        notes: messages for the user, shown before the job starts.
        outputs: names in the workspace's root to which the job's outputs are moved at its end.
        request: the request that ``argv`` renders; None for a container without one.
    """

    job: str
    backend: str
    image: str
    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    workspace: Path
    mounts: tuple[Mount, ...]
    secrets: tuple[Secret, ...]
    devices: tuple[Device, ...]
    groups: tuple[str, ...]
    user: str
    shm_mib: int
    tmp_mib: int
    pids: int
    ulimits: Mapping[str, int]
    network: str
    labels: Mapping[str, str]
    profile: str = ""
    cards: tuple[int, ...] = ()
    ranks: int = 1
    ipc: str = ""
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ("ALL",)
    security_opt: tuple[str, ...] = ("no-new-privileges",)
    read_only: bool = True
    grace_seconds: int = GRACE_SECONDS
    ports: tuple[Port, ...] = ()
    memory_mib: int = 0
    notes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    request: JobRequest | None = field(default=None, repr=False)

    @property
    def build_command(self) -> str:
        """The command that builds the image."""
        return build_command(self._stage, self.backend)

    @property
    def verify_command(self) -> str:
        """The command that runs the image's tests."""
        option = "" if self.backend == "cpu" else f" --backend {self.backend}"
        return f"./inv verify --image {self._stage}{option}"

    @property
    def _stage(self) -> str:
        return self.image.rpartition("/")[2].partition(":")[0]


def build_command(image: str, backend: str) -> str:
    """Return the command that builds an image, or all images for ``all``."""
    words = ["./inv build", *([] if image == "all" else [f"--image {image}"])]
    return " ".join([*words, *([] if backend == "cpu" else [f"--backend {backend}"])])


def image_name(image: str, backend: str) -> str:
    """Return the local image reference of a stage for a backend."""
    return f"paddle-stacks/{image}:{backend}"


def make(
    job: Job,
    arguments: Sequence[str],
    settings: Settings,
    backend: Backend,
    *,
    user: str,
    suffix: str,
    debug: bool = False,
    host: Host = _NO_HOST,
    cards: Sequence[int] = (),
    machine_mib: int = 0,
    mounts: Sequence[Mount] | None = None,
    outputs: Sequence[str] = (),
) -> Plan:
    """Return the plan of one run of a job.

    Args:
        job: the job.
        arguments: the job's arguments; paths in them are relative to the workspace.
        settings: proxies, certificates, tokens and the workspace.
        backend: the backend.
        user: ``uid:gid`` that the container runs as.
        suffix: suffix that makes the container's name unique.
        debug: whether the job shows tracebacks.
        host: the machine's DCU resources.
        cards: indices of the devices to use; empty for all of the host's.
        machine_mib: the machine's memory in MiB; 0 if unknown.
        mounts: mounts of the workspace; None for the folders that all jobs get.
        outputs: names in the workspace's root to which the job's outputs are moved.
    """
    networked = job.name in _NETWORKED
    if not job.computes and not backend.profile:
        backend, cards = _without_devices(backend), ()
    secrets = _secrets(settings) if networked else ()
    return Plan(
        job=job.name,
        backend=backend.name,
        image=image_name(job.image, backend.name),
        name=f"paddle-stacks-{job.name}-{suffix}",
        argv=(job.name, *arguments),
        environment={
            ENVIRONMENT_SWITCH: "1",
            **({DEBUG_SWITCH: "1"} if debug else {}),
            **backend.environment,
            **_card_environment(backend, cards),
            **(_network_environment(settings, secrets) if networked else {}),
        },
        workspace=settings.workspace,
        mounts=(
            *(folders(settings.workspace, job.writes) if mounts is None else mounts),
            *_folders(backend, host),
        ),
        secrets=secrets,
        devices=_devices(backend, host),
        groups=_groups(backend, host),
        user=backend.user or user,
        shm_mib=backend.shm_mib,
        tmp_mib=backend.tmp_mib,
        pids=backend.pids,
        ulimits=backend.ulimits,
        network=backend.network or ("bridge" if networked or job.name in _SERVERS else "none"),
        labels={f"{LABEL}.job": job.name, f"{LABEL}.version": __version__},
        profile=backend.profile,
        cards=tuple(cards),
        ranks=max(1, len(cards)),
        ipc=backend.ipc,
        privileged=backend.privileged,
        cap_add=backend.cap_add,
        cap_drop=backend.cap_drop,
        security_opt=backend.security_opt,
        read_only=backend.read_only,
        memory_mib=machine_mib * backend.memory_percent // 100,
        outputs=tuple(outputs),
    )


def node_devices(backend: Backend, host: Host) -> tuple[Device, ...]:
    """Return the device nodes of the host that a job on several nodes gets too."""
    existing = [path for path in backend.node_devices if host.node(path)]
    return tuple(Device(_below(host.root, path), path) for path in existing)


def _without_devices(backend: Backend) -> Backend:
    """Return the backend for a job that needs no device."""
    return Backend(backend.name, backend.summary, environment=backend.environment)


def _devices(backend: Backend, host: Host) -> tuple[Device, ...]:
    existing = [path for path in backend.optional_devices if host.node(path)]
    # A missing device stays in the plan: preflight and the doctor report it with a remedy.
    return tuple(Device(_below(host.root, path), path) for path in (*backend.devices, *existing))


def _groups(backend: Backend, host: Host) -> tuple[str, ...]:
    gids = host.gids((*backend.devices, *backend.optional_devices))
    if not backend.device_groups or not gids:
        return backend.groups
    return tuple(str(number) for number in gids)


def _folders(backend: Backend, host: Host) -> list[Mount]:
    """Return the mounts of the host's folders.

    A link to hyhal is resolved here: the engine would resolve it inside the container.
    """
    return [
        Mount(
            (path == HYHAL and host.hyhal) or _below(host.root, path),
            path,
            read_only=not backend.writable_folders,
        )
        for path in backend.folders
    ]


def _below(root: Path, path: str) -> str:
    return str(root / path.lstrip("/"))


def _card_environment(backend: Backend, cards: Sequence[int]) -> dict[str, str]:
    if not cards or not backend.card_variable:
        return {}
    # Paddle's launcher numbers the visible devices from 0, and its variable overrides
    # its --devices (paddle/distributed/launch/context/args_envs.py, 3.0.0b2).
    ranks = ",".join(str(rank) for rank in range(len(cards)))
    return {backend.card_variable: ",".join(map(str, cards)), "PADDLE_DEVICES": ranks}


def _secrets(settings: Settings) -> tuple[Secret, ...]:
    secrets = []
    if settings.ca_bundle:
        secrets.append(Secret("ca_bundle", str(settings.ca_bundle)))
    if settings.hub_token_file:
        secrets.append(Secret("hub_token", str(settings.hub_token_file)))
    if _has_password(settings.index_url):
        # In a file, because `docker inspect` shows a container's environment.
        content = f"[global]\nindex-url = {settings.index_url}\n"
        secrets.append(Secret("pip.conf", content=content, variable="PIP_INDEX_URL"))
    return tuple(secrets)


def _network_environment(settings: Settings, secrets: Sequence[Secret]) -> dict[str, str]:
    files = {secret.name: secret.target for secret in secrets}
    environment: dict[str, str] = {}
    if "ca_bundle" in files:
        environment |= dict.fromkeys(_BUNDLE_VARIABLES, files["ca_bundle"])
    if "pip.conf" in files:
        environment["PIP_CONFIG_FILE"] = files["pip.conf"]
    elif settings.index_url:
        environment["PIP_INDEX_URL"] = settings.index_url
    for key in ("http_proxy", "https_proxy", "no_proxy"):
        if value := getattr(settings, key):
            # Some programs read the lower-case names, others the upper-case ones.
            environment |= {key: value, key.upper(): value}
    return environment


def _has_password(url: str) -> bool:
    return without_password(url) != url
