"""Contents of an image: packages, files, environment and labels, read from its layers.

Nothing in the image is executed, and nothing is written to the disk: the archive of
``docker save`` is read as a stream. Files that a later layer hides or deletes are left out.
"""

from __future__ import annotations

import email.parser
import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from paddle_stacks.docker_save import saved
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.images import instruction
from paddle_stacks.jobs.files import digest_of

if TYPE_CHECKING:
    import docker

__all__ = ["Contents", "File", "Layer", "Package", "merge", "open_manifest", "packages", "read"]

_STATUS = "/var/lib/dpkg/status"
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_RPM = ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
# The files whose contents are stored: which of them are visible is known after the last layer.
_METADATA = re.compile(
    r"/var/lib/dpkg/status|/(?:etc|usr/lib)/os-release"
    r"|/.*\.(?:dist-info/METADATA|egg-info/PKG-INFO)"
)
_LONGEST_DOCUMENT = 64 * 2**20  # bytes of an image's configuration or list of layers
_LARGEST_METADATA = 256 * 2**20  # bytes of all metadata files of a layer
_LONGEST_METADATA = 16 * 2**20  # bytes of a metadata file
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard link",
}
# How a layer marks deleted files of earlier layers [1].
# [1] https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"

_SAVE = "run `docker save IMAGE > /dev/null` to see the error, and `journalctl -u docker`"


@dataclass(frozen=True)
class File:
    """One entry of a file system.

    Args:
        kind: ``file``, ``folder``, ``link``, ``hard link`` or ``other``.
        mode: the permissions, as ``0644``.
        owner: ``uid:gid``.
        size: bytes; 0 if it is not a file.
        content: a file's SHA-256, or a link's target.
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
        name: from its metadata.
        version: from its metadata.
        source: the source package of a deb.
        source_version: the version of the source package.
        where: the file with the metadata.
    """

    kind: str
    name: str
    version: str
    source: str = ""
    source_version: str = ""
    where: str = ""


@dataclass(frozen=True)
class Layer:
    """One layer of an image.

    Args:
        digest: of the uncompressed layer (its diff id).
        size: of its files, in bytes.
        instruction: the shortened Dockerfile instruction that created it.
    """

    digest: str
    size: int
    instruction: str


@dataclass(frozen=True)
class Contents:
    """The contents of an image.

    Args:
        reference: the tag or id that was read.
        id: the engine's id of the image.
        created: the date in the image's configuration.
        os: the distribution's id and version, such as ``debian 12``.
        labels: of the image.
        environment: of its processes.
        layers: starting with the first.
        packages: of the distribution and of Python.
        files: by path.
        unread: package databases in the image that are not supported.
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
        """Bytes of all layers, uncompressed, including files that later layers hide."""
        return sum(layer.size for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest: the contents as JSON-serializable values."""
        return {"manifest": 1, **asdict(self)}


@dataclass
class Entries:
    """The entries of one layer.

    Args:
        files: by path.
        whiteouts: paths of earlier layers that it deletes.
        opaque: folders whose entries in earlier layers it hides.
        metadata: the contents of package databases and of Python packages' metadata.
    """

    files: dict[str, File] = field(default_factory=dict)
    whiteouts: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    metadata: dict[str, bytes] = field(default_factory=dict)


def read(client: docker.DockerClient, references: Sequence[str]) -> list[Contents]:
    """Return the contents of images; a layer that they share is read once.

    Args:
        client: of the engine.
        references: tags or ids.

    Raises:
        MachineError: an image does not exist, or the engine cannot save it.
    """
    ids = [_id(client, reference) for reference in references]
    with saved([*dict.fromkeys(ids)], _SAVE) as archive:
        layers, documents = _read_archive(archive)
    manifest = documents["manifest.json"]
    return [
        _contents(reference, image_id, _entry(manifest, image_id), layers, documents)
        for reference, image_id in zip(references, ids, strict=True)
    ]


def open_all(names: Sequence[str]) -> list[Contents]:
    """Return the contents of images and manifests; all images are read at once.

    Args:
        names: images, with or without the project's prefix, and manifests (``*.json``).

    Raises:
        StackError: an image or a manifest cannot be read.
    """
    from paddle_stacks import engine

    images = [name for name in names if not name.endswith(".json")]
    by_name: dict[str, Contents] = {}
    if images:
        references = [name if "/" in name else f"paddle-stacks/{name}" for name in images]
        by_name = dict(zip(images, read(engine.connect(), references), strict=True))
    return [by_name.get(name) or open_manifest(Path(name)) for name in names]


def open_manifest(path: Path) -> Contents:
    """Return the contents that are stored in a manifest; the image need not exist any more.

    Raises:
        RequestError: the file is not a manifest.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("manifest") != 1:
            raise ValueError("its version is not supported")
        return Contents(
            **{
                **values,
                "layers": tuple(Layer(**layer) for layer in values["layers"]),
                "packages": tuple(Package(**package) for package in values["packages"]),
                "files": {name: File(**file) for name, file in values["files"].items()},
                "unread": tuple(values["unread"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"not a manifest: {error}",
            where=str(path),
            remedy="./inv images.sbom --format manifest writes one",
        ) from error


def merge(layers: Iterable[Entries]) -> tuple[dict[str, File], dict[str, bytes]]:
    """Return the files that are visible in a stack of layers, and their metadata."""
    files: dict[str, File] = {}
    metadata: dict[str, bytes] = {}
    for layer in layers:
        # A folder that a layer has again keeps its entries; anything else replaces the folder.
        replaced = {name for name, file in layer.files.items() if file.kind != "folder"}
        hidden = layer.whiteouts | replaced
        for name in [name for name in files if _is_hidden(name, hidden, layer.opaque)]:
            del files[name]
            metadata.pop(name, None)
        files.update(layer.files)
        metadata.update(layer.metadata)
    return files, metadata


def packages(metadata: Mapping[str, bytes]) -> tuple[Package, ...]:
    """Return the packages in dpkg's status file and in Python's metadata, sorted."""
    rows = [*_debian(metadata[_STATUS])] if _STATUS in metadata else []
    for where, content in metadata.items():
        if where.endswith(("/METADATA", "/PKG-INFO")):
            text = content.decode("utf-8", errors="replace")
            headers = email.parser.HeaderParser().parsestr(text)
            name, version = headers.get("Name", ""), headers.get("Version", "")
            rows.append(Package("pypi", str(name), str(version), where=where))
    return tuple(sorted(rows, key=lambda p: (p.kind, p.name.lower(), p.version, p.where)))


def _debian(status: bytes) -> Iterable[Package]:
    for stanza in status.decode("utf-8", errors="replace").split("\n\n"):
        fields: dict[str, str] = dict(re.findall(r"^(\S+): (.*)$", stanza, re.MULTILINE))
        complete = "Package" in fields and "Version" in fields
        if complete and fields.get("Status", "").endswith(" installed"):
            # "Source: gcc-12 (12.2.0-14)": the version is left out if it is the package's.
            source, _, version = fields.get("Source", fields["Package"]).partition(" ")
            source_version = version.strip("()") or fields["Version"]
            yield Package(
                "deb", fields["Package"], fields["Version"], source, source_version, where=_STATUS
            )


def _is_hidden(name: str, hidden: set[str], opaque: set[str]) -> bool:
    if name in hidden:
        return True
    while name := name.rpartition("/")[0]:
        if name in hidden or name in opaque:
            return True
    return False


def _id(client: docker.DockerClient, reference: str) -> str:
    import docker.errors

    try:
        return str(client.images.get(reference).id)
    except docker.errors.ImageNotFound as error:
        raise MachineError(
            f"there is no image {reference}",
            remedy="`docker images` lists all images; ./inv build builds the project's",
        ) from error


def _read_archive(
    files: Iterable[tuple[str, IO[bytes]]],
) -> tuple[dict[str, Entries], dict[str, Any]]:
    """Return the layers and the JSON documents in the archive of ``docker save``, by name."""
    layers: dict[str, Entries] = {}
    documents: dict[str, Any] = {}
    for name, content in files:
        head = content.peek(512)[:512]  # type: ignore[attr-defined]
        # Engines with containerd's image store save layers compressed.
        compressed = head.startswith(b"\x1f\x8b")
        # An empty layer consists of zeros.
        if compressed or head[257:262] == b"ustar" or not head.strip(b"\0"):
            layers[name] = _read_layer(content, "r|gz" if compressed else "r|")
        elif head[:1] in (b"{", b"["):
            documents[name] = _document(content.read(_LONGEST_DOCUMENT + 1), name)
    return layers, documents


def _document(content: bytes, name: str) -> Any:
    try:
        if len(content) > _LONGEST_DOCUMENT:
            raise ValueError(f"it is longer than {_LONGEST_DOCUMENT} bytes")
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MachineError(
            f"a document of the image cannot be read: {error}", where=name, remedy=_SAVE
        ) from error


def _read_layer(stream: IO[bytes], mode: Any) -> Entries:
    entries = Entries()
    with tarfile.open(fileobj=stream, mode=mode) as members:
        for member in members:
            name = "/" + member.name.removeprefix("./").strip("/")
            folder, _, last = name.rpartition("/")
            if last == _OPAQUE:
                entries.opaque.add(folder)
            elif last.startswith(_WHITEOUT):
                entries.whiteouts.add(f"{folder}/{last.removeprefix(_WHITEOUT)}")
            elif name != "/":
                entries.files[name] = _file(members, member, name, entries.metadata)
    return entries


def _file(
    members: tarfile.TarFile, member: tarfile.TarInfo, name: str, metadata: dict[str, bytes]
) -> File:
    kind = _KINDS.get(member.type, "other")
    size, content = 0, member.linkname
    if kind == "hard link":
        content = "/" + content.lstrip("./")
    stream = members.extractfile(member) if kind == "file" else None
    if stream is not None:
        room = _LARGEST_METADATA - sum(map(len, metadata.values()))
        is_metadata = _METADATA.fullmatch(name) and member.size <= min(_LONGEST_METADATA, room)
        copy = io.BytesIO() if is_metadata else None
        size, content = digest_of(stream, copy=copy)
        if copy:
            metadata[name] = copy.getvalue()
    return File(kind, f"{member.mode:04o}", f"{member.uid}:{member.gid}", size, content)


def _entry(manifest: Sequence[Mapping[str, Any]], image_id: str) -> Mapping[str, Any]:
    """Return the entry whose configuration is named after the id; otherwise the only entry."""
    digits = image_id.rpartition(":")[2]
    matches = [entry for entry in manifest if digits in entry["Config"]]
    return (matches or list(manifest))[0]


def _contents(
    reference: str,
    image_id: str,
    entry: Mapping[str, Any],
    layers: Mapping[str, Entries],
    documents: Mapping[str, Any],
) -> Contents:
    configuration = documents[entry["Config"]]
    stack = [layers[name] for name in entry["Layers"]]
    files, metadata = merge(stack)
    steps = [step for step in configuration.get("history", []) if not step.get("empty_layer")]
    instructions = [instruction(step.get("created_by", "")) for step in steps]
    instructions += ["?"] * (len(stack) - len(instructions))
    config = configuration.get("config") or {}
    return Contents(
        reference=reference,
        id=image_id,
        created=str(configuration.get("created", "")),
        os=_os(metadata),
        labels=config.get("Labels") or {},
        environment=dict(text.split("=", 1) for text in config.get("Env") or []),
        layers=tuple(
            Layer(digest, sum(file.size for file in layer.files.values()), text)
            for digest, layer, text in zip(
                configuration["rootfs"]["diff_ids"], stack, instructions, strict=False
            )
        ),
        packages=packages(metadata),
        files=dict(sorted(files.items())),
        unread=tuple(path for path in _RPM if path in files),
    )


def _os(metadata: Mapping[str, bytes]) -> str:
    """Return the distribution's id and version; ``unknown`` without an os-release file."""
    for path in _OS_RELEASE:
        if path in metadata:
            text = metadata[path].decode("utf-8", errors="replace")
            fields = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)', text, re.MULTILINE))
            return f"{fields.get('ID', 'unknown')} {fields.get('VERSION_ID', '')}".strip()
    return "unknown"
