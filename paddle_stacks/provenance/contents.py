"""What is in an image: packages, files, environment, labels, read from its layers.

Nothing of the image is run and nothing of it is written to the disk: the archive that
``docker save`` makes is read as it comes. What a later layer hides or deletes does not count.
"""

from __future__ import annotations

import email.parser
import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.images import instruction

if TYPE_CHECKING:
    import docker

__all__ = ["Contents", "File", "Layer", "Package", "merge", "open_manifest", "packages", "read"]

_STATUS = "/var/lib/dpkg/status"
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_RPM = ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
# The files that are kept as they are, to be read when it is known which of them are visible.
_KEPT = re.compile(
    r"/var/lib/dpkg/status|/(?:etc|usr/lib)/os-release"
    r"|/.*\.(?:dist-info/METADATA|egg-info/PKG-INFO)"
)
_LONGEST_DOCUMENT = 64 * 2**20  # bytes of an image's configuration or list of layers
_LARGEST_KEPT = 256 * 2**20  # bytes of all files of a layer that are kept
_LONGEST_KEPT = 16 * 2**20
_CHUNK = 2**20
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard link",
}
# How a layer says that something of an earlier one is gone [1].
# [1] https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"

_SAVE = "run it by hand: docker save IMAGE > /dev/null; journalctl -u docker says more"


@dataclass(frozen=True)
class File:
    """One entry of a file system.

    Args:
        kind: ``file``, ``folder``, ``link``, ``hard link`` or ``other``.
        mode: the permissions, as ``0644``.
        owner: ``uid:gid``.
        size: bytes; 0 for all but files.
        content: a file's SHA-256, or where a link leads.
    """

    kind: str
    mode: str
    owner: str
    size: int = 0
    content: str = ""


@dataclass(frozen=True)
class Package:
    """An installed package.

    Args:
        kind: ``deb`` or ``pypi``.
        name: as its own metadata have it.
        version: likewise.
        source: the source package that it was built of; a deb's.
        source_version: of that.
        where: the file that says so.
    """

    kind: str
    name: str
    version: str
    source: str = ""
    source_version: str = ""
    where: str = ""


@dataclass(frozen=True)
class Layer:
    """What one instruction added.

    Args:
        digest: of the uncompressed layer (its diff id).
        size: of its files, in bytes.
        instruction: the Dockerfile's, shortened.
    """

    digest: str
    size: int
    instruction: str


@dataclass(frozen=True)
class Contents:
    """What is in an image.

    Args:
        reference: what it was asked for by.
        id: the engine's.
        created: when, as the image says.
        os: the distribution's id and version, as ``debian 12``.
        labels: all of them.
        environment: of its processes.
        layers: the first first.
        packages: those of the distribution, and Python's.
        files: by their paths.
        unread: databases of packages that are there, and that this does not read.
    """

    reference: str
    id: str
    created: str
    os: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    layers: tuple[Layer, ...]
    packages: tuple[Package, ...]
    files: Mapping[str, File] = field(repr=False)
    unread: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all layers, uncompressed, with what later ones hide."""
        return sum(layer.size for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest: the contents as JSON-serializable values."""
        return {"manifest": 1, **asdict(self)}


@dataclass
class Entries:
    """What one layer's archive has.

    Args:
        files: by path.
        gone: paths of earlier layers that it deletes.
        emptied: folders of earlier layers whose old entries it hides.
        kept: the contents of the files that are kept.
    """

    files: dict[str, File] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    emptied: set[str] = field(default_factory=set)
    kept: dict[str, bytes] = field(default_factory=dict)


def read(client: docker.DockerClient, references: Sequence[str]) -> list[Contents]:
    """Return what is in images of the engine; a layer that they share is read once.

    Args:
        client: of the engine.
        references: tags or ids.

    Raises:
        MachineError: the engine has not one of them, or cannot save them.
    """
    ids = [_id(client, reference) for reference in references]
    with subprocess.Popen(
        ["docker", "save", *dict.fromkeys(ids)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as save:
        assert save.stdout is not None and save.stderr is not None
        try:
            layers, documents = _read_archive(save.stdout)
        except tarfile.TarError as error:
            save.kill()
            said = save.stderr.read().decode(errors="replace").strip()
            what = f"the images cannot be read: {said or error}"
            raise MachineError(what, where="docker save", remedy=_SAVE) from error
        message = save.stderr.read().decode(errors="replace").strip()
    if save.returncode:
        raise MachineError(
            f"the images cannot be read: {message}", where="docker save", remedy=_SAVE
        )
    manifest = documents["manifest.json"]
    return [
        _contents(reference, wanted, _entry(manifest, wanted), layers, documents)
        for reference, wanted in zip(references, ids, strict=True)
    ]


def open_all(names: Sequence[str]) -> list[Contents]:
    """Return what is in images and manifests; what the engine has is read in one go.

    Args:
        names: images, with or without the project's prefix, and manifests (``*.json``).

    Raises:
        StackError: an image or a manifest cannot be read.
    """
    from paddle_stacks import engine

    images = [name for name in names if not name.endswith(".json")]
    found: dict[str, Contents] = {}
    if images:
        references = [name if "/" in name else f"paddle-stacks/{name}" for name in images]
        found = dict(zip(images, read(engine.connect(), references), strict=True))
    return [found.get(name) or open_manifest(Path(name)) for name in names]


def open_manifest(path: Path) -> Contents:
    """Return the contents that a manifest tells of, for an image that may be gone.

    Raises:
        RequestError: the file is no manifest.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("manifest") != 1:
            raise ValueError("it is of another version")
        return Contents(
            **{
                **found,
                "layers": tuple(Layer(**layer) for layer in found["layers"]),
                "packages": tuple(Package(**package) for package in found["packages"]),
                "files": {name: File(**file) for name, file in found["files"].items()},
                "unread": tuple(found["unread"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "./inv images.sbom --format manifest writes one"
        what = f"this is no manifest: {error}"
        raise RequestError(what, where=str(path), remedy=remedy) from error


def merge(layers: Iterable[Entries]) -> tuple[dict[str, File], dict[str, bytes]]:
    """Return what is visible when layers lie on each other: files, and the contents kept."""
    files: dict[str, File] = {}
    kept: dict[str, bytes] = {}
    for layer in layers:
        # A folder stays what it is where a layer has it again; anything else replaces a folder.
        hidden = layer.gone | {name for name, file in layer.files.items() if file.kind != "folder"}
        for name in [name for name in files if _is_hidden(name, hidden, layer.emptied)]:
            del files[name]
            kept.pop(name, None)
        files.update(layer.files)
        kept.update(layer.kept)
    return files, kept


def packages(kept: Mapping[str, bytes]) -> tuple[Package, ...]:
    """Return the packages that the contents of files tell of, sorted."""
    found = [*_debian(kept[_STATUS])] if _STATUS in kept else []
    for where, content in kept.items():
        if where.endswith(("/METADATA", "/PKG-INFO")):
            text = content.decode("utf-8", errors="replace")
            metadata = email.parser.HeaderParser().parsestr(text)
            name, version = metadata.get("Name", ""), metadata.get("Version", "")
            found.append(Package("pypi", str(name), str(version), where=where))
    return tuple(sorted(found, key=lambda p: (p.kind, p.name.lower(), p.version, p.where)))


def _debian(status: bytes) -> Iterable[Package]:
    for stanza in status.decode("utf-8", errors="replace").split("\n\n"):
        fields: dict[str, str] = dict(re.findall(r"^(\S+): (.*)$", stanza, re.MULTILINE))
        named = "Package" in fields and "Version" in fields
        if named and fields.get("Status", "").endswith(" installed"):
            # "Source: gcc-12 (12.2.0-14)": with a version only where it is another.
            source, _, version = fields.get("Source", fields["Package"]).partition(" ")
            built_of = version.strip("()") or fields["Version"]
            yield Package(
                "deb", fields["Package"], fields["Version"], source, built_of, where=_STATUS
            )


def _is_hidden(name: str, hidden: set[str], emptied: set[str]) -> bool:
    if name in hidden:
        return True
    while name := name.rpartition("/")[0]:
        if name in hidden or name in emptied:
            return True
    return False


def _id(client: docker.DockerClient, reference: str) -> str:
    import docker.errors

    try:
        return str(client.images.get(reference).id)
    except docker.errors.ImageNotFound as error:
        raise MachineError(
            f"there is no image {reference}", remedy="docker images lists them; ./inv build"
        ) from error


def _read_archive(stream: IO[bytes]) -> tuple[dict[str, Entries], dict[str, Any]]:
    """Return the layers and the JSON documents of what ``docker save`` writes, by name."""
    layers: dict[str, Entries] = {}
    documents: dict[str, Any] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for blob in archive:
            content = archive.extractfile(blob) if blob.isfile() else None
            if content is None:
                continue
            head = content.peek(512)[:512]  # type: ignore[attr-defined]
            # Engines with containerd's image store save layers as they are, in gzip.
            packed = head.startswith(b"\x1f\x8b")
            # An empty layer is zeros and nothing else.
            if packed or head[257:262] == b"ustar" or not head.strip(b"\0"):
                layers[blob.name] = _read_layer(content, "r|gz" if packed else "r|")
            elif head[:1] in (b"{", b"["):
                documents[blob.name] = _document(content.read(_LONGEST_DOCUMENT + 1), blob.name)
    return layers, documents


def _document(content: bytes, name: str) -> Any:
    try:
        if len(content) > _LONGEST_DOCUMENT:
            raise ValueError(f"it is longer than {_LONGEST_DOCUMENT} bytes")
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        what = f"the image has a document that cannot be read: {error}"
        raise MachineError(what, where=name, remedy=_SAVE) from error


def _read_layer(stream: IO[bytes], mode: Any) -> Entries:
    found = Entries()
    with tarfile.open(fileobj=stream, mode=mode) as members:
        for member in members:
            name = "/" + member.name.removeprefix("./").strip("/")
            folder, _, last = name.rpartition("/")
            if last == _OPAQUE:
                found.emptied.add(folder)
            elif last.startswith(_WHITEOUT):
                found.gone.add(f"{folder}/{last.removeprefix(_WHITEOUT)}")
            elif name != "/":
                found.files[name] = _file(members, member, name, found.kept)
    return found


def _file(
    members: tarfile.TarFile, member: tarfile.TarInfo, name: str, kept: dict[str, bytes]
) -> File:
    kind = _KINDS.get(member.type, "other")
    content = member.linkname
    if kind == "hard link":
        content = "/" + content.lstrip("./")
    stream = members.extractfile(member) if kind == "file" else None
    if stream is not None:
        room = _LARGEST_KEPT - sum(map(len, kept.values()))
        keep = bool(_KEPT.fullmatch(name)) and member.size <= min(_LONGEST_KEPT, room)
        digest = hashlib.sha256()
        chunks = []
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            if keep:
                chunks.append(chunk)
        if keep:
            kept[name] = b"".join(chunks)
        content = digest.hexdigest()
    size = member.size if kind == "file" else 0
    return File(kind, f"{member.mode:04o}", f"{member.uid}:{member.gid}", size, content)


def _entry(manifest: Sequence[Mapping[str, Any]], image_id: str) -> Mapping[str, Any]:
    """Return an image's entry: its configuration has the id as its name, or it is the only one."""
    digits = image_id.rpartition(":")[2]
    named = [entry for entry in manifest if digits in entry["Config"]]
    return (named or list(manifest))[0]


def _contents(
    reference: str,
    image_id: str,
    entry: Mapping[str, Any],
    layers: Mapping[str, Entries],
    documents: Mapping[str, Any],
) -> Contents:
    configuration = documents[entry["Config"]]
    stack = [layers[name] for name in entry["Layers"]]
    files, kept = merge(stack)
    steps = [step for step in configuration.get("history", []) if not step.get("empty_layer")]
    told = [instruction(step.get("created_by", "")) for step in steps]
    told += ["?"] * (len(stack) - len(told))
    own = configuration.get("config") or {}
    return Contents(
        reference=reference,
        id=image_id,
        created=str(configuration.get("created", "")),
        os=_os(kept),
        labels=own.get("Labels") or {},
        environment=dict(text.split("=", 1) for text in own.get("Env") or []),
        layers=tuple(
            Layer(digest, sum(file.size for file in layer.files.values()), text)
            for digest, layer, text in zip(
                configuration["rootfs"]["diff_ids"], stack, told, strict=False
            )
        ),
        packages=packages(kept),
        files=dict(sorted(files.items())),
        unread=tuple(path for path in _RPM if path in files),
    )


def _os(kept: Mapping[str, bytes]) -> str:
    """Return the distribution's id and version; ``unknown`` where no file says."""
    for path in _OS_RELEASE:
        if path in kept:
            text = kept[path].decode("utf-8", errors="replace")
            fields = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)', text, re.MULTILINE))
            return f"{fields.get('ID', 'unknown')} {fields.get('VERSION_ID', '')}".strip()
    return "unknown"
