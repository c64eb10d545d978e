"""The plan itself, and how it follows from a job, its arguments and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from paddle_stacks import __version__
from paddle_stacks.dcu.host import HYHAL, Host
from paddle_stacks.jobs.catalog import Job
from paddle_stacks.jobs.events import ENVIRONMENT_SWITCH
from paddle_stacks.plan.backend import Backend
from paddle_stacks.plan.mounts import WORKSPACE, Mount, folders
from paddle_stacks.settings import DEBUG_SWITCH, Settings, without_password

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
]

SECRETS = PurePosixPath("/run/secrets")
LABEL = "paddle-stacks"

# A job has 45 seconds to save and leave: the time an optimizer state of several
# GB needs to reach a slow disk.
GRACE_SECONDS = 45

# Left out of a command line that a person pastes: there a job prints plain lines.
PLAIN_ENVIRONMENT = frozenset({ENVIRONMENT_SWITCH})

# Where nobody has looked: a plan made on another machine than the one it is for.
_NO_HOST = Host(Path("/"), (), None, None)

# The jobs that reach out, and those that are reached; every other one runs without a network.
_NETWORKED = frozenset({"fetch"})
_REACHED = frozenset({"serve"})
# The variables by which OpenSSL, requests and pip find a certificate bundle.
_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")


@dataclass(frozen=True)
class Device:
    """A device node of the host, or a folder of them.

    Args:
        source: the path on the host.
        target: the path in the container; the same, but on a simulated host.
    """

    source: str
    target: str


@dataclass(frozen=True)
class Port:
    """A port of the container that is reached from outside.

    Args:
        address: the host's, on which it is reached.
        number: on the host, and in the container.
    """

    address: str
    number: int


@dataclass(frozen=True)
class Secret:
    """A file under ``/run/secrets``, mounted read-only.

    Args:
        name: the file's name there.
        source: the file on the host; None where ``content`` is given.
        content: what the executor writes to a private file for the run.
        variable: where the content can come from when a person runs the job by
            hand; empty: nowhere else.
    """

    name: str
    source: str | None = None
    content: str = field(default="", repr=False)
    variable: str = ""

    @property
    def target(self) -> str:
        """The path in the container."""
        return str(SECRETS / self.name)


@dataclass(frozen=True)
class Plan:
    """A job with everything decided.

    Args:
        job: the job's name.
        backend: the platform's name.
        image: the image, with its tag.
        name: the container's name.
        argv: what the image's entry point gets: the job and its arguments.
        environment: variables.
        workspace: the folder on the host whose parts the container sees in ``/workspace``.
        mounts: folders and files of the host.
        secrets: files that hold a secret; their contents are never printed.
        devices: device nodes of the host.
        groups: supplementary groups, by number where they are a device's.
        user: ``uid:gid``.
        shm_mib: size limit of ``/dev/shm`` in MiB.
        tmp_mib: size limit of ``/tmp`` in MiB, the only place outside the mounts
            that can be written.
        pids: how many processes and threads there can be; 0 for no limit.
        ulimits: resource limits, soft and hard alike.
        network: ``bridge``, ``none`` or ``host``.
        labels: labels of the container.
        profile: the backend's profile; empty for none.
        cards: the cards that were picked; empty for all of the host's.
        ranks: how many processes train together.
        ipc: ``host`` to share the host's shared memory; empty for one's own.
        privileged: whether the container has all rights and all devices.
        cap_add: capabilities given.
        cap_drop: capabilities taken away.
        security_opt: the engine's security options.
        read_only: whether the root file system cannot be written.
        grace_seconds: from SIGTERM to SIGKILL when the job is stopped.
        ports: of the container that are reached from outside.
        memory_mib: limit of its memory in MiB, /dev/shm and /tmp included; 0 for none.
        notes: what a person should know before the job starts.
        outputs: names in the workspace's root that what the job wrote gets when it has ended.
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

    @property
    def build_command(self) -> str:
        """The command that builds the image."""
        return build_command(self._stage, self.backend)

    @property
    def verify_command(self) -> str:
        """The command that runs the image's tests."""
        platform = "" if self.backend == "cpu" else f" --backend {self.backend}"
        return f"./inv verify --image {self._stage}{platform}"

    @property
    def _stage(self) -> str:
        return self.image.rpartition("/")[2].partition(":")[0]


def build_command(image: str, backend: str) -> str:
    """Return the command that builds an image, for whoever has it not; "all" for all."""
    words = ["./inv build", *([] if image == "all" else [f"--image {image}"])]
    return " ".join([*words, *([] if backend == "cpu" else [f"--backend {backend}"])])


def image_name(image: str, backend: str) -> str:
    """Return the name of a local image, the newest of its backend."""
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
        job: what to run.
        arguments: the job's arguments; paths in them are relative to the workspace.
        settings: proxies, certificates, tokens and the workspace.
        backend: the platform.
        user: ``uid:gid`` that the container runs as.
        suffix: what makes the container's name unique.
        debug: whether the job shows tracebacks.
        host: the machine's device nodes, as they were found.
        cards: the cards to use; none for all of the host's.
        machine_mib: the machine's memory in MiB; 0 where nobody has looked.
        mounts: of the workspace; None where nobody has looked: the folders that all jobs see.
        outputs: names in the workspace's root that the job's output gets in the end.
    """
    networked = job.name in _NETWORKED
    if not job.computes and not backend.profile:
        backend, cards = _without_cards(backend), ()
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
        network=backend.network or ("bridge" if networked or job.name in _REACHED else "none"),
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


def _without_cards(backend: Backend) -> Backend:
    """Return the backend for a job that computes nothing: it works where no card is."""
    return Backend(backend.name, backend.summary, environment=backend.environment)


def _devices(backend: Backend, host: Host) -> tuple[Device, ...]:
    there = [path for path in backend.optional_devices if host.node(path)]
    # One that is missing stays in the plan: preflight and the doctor say what to do about it.
    return tuple(Device(_below(host.root, path), path) for path in (*backend.devices, *there))


def _groups(backend: Backend, host: Host) -> tuple[str, ...]:
    found = host.gids((*backend.devices, *backend.optional_devices))
    if not backend.device_groups or not found:
        return backend.groups
    return tuple(str(number) for number in found)


def _folders(backend: Backend, host: Host) -> list[Mount]:
    """Return the host's folders; the engine would mount a link as what it names in a container."""
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
    # Paddle's launcher counts within the cards that are visible, and its variable beats
    # its --devices (paddle/distributed/launch/context/args_envs.py, 3.0.0b2).
    ranks = ",".join(str(rank) for rank in range(len(cards)))
    return {backend.card_variable: ",".join(map(str, cards)), "PADDLE_DEVICES": ranks}


def _secrets(settings: Settings) -> tuple[Secret, ...]:
    found = []
    if settings.ca_bundle:
        found.append(Secret("ca_bundle", str(settings.ca_bundle)))
    if settings.hub_token_file:
        found.append(Secret("hub_token", str(settings.hub_token_file)))
    if _has_password(settings.index_url):
        # `docker inspect` shows a container's environment, so it goes into a file.
        content = f"[global]\nindex-url = {settings.index_url}\n"
        found.append(Secret("pip.conf", content=content, variable="PIP_INDEX_URL"))
    return tuple(found)


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
            # Programs disagree about the case of these names.
            environment |= {key: value, key.upper(): value}
    return environment


def _has_password(url: str) -> bool:
    return without_password(url) != url
