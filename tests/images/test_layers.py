"""No secret of the build, and nothing of the builder's trust, is in any layer of an image."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import tarfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import docker
import pytest
from docker.models.containers import Container
from docker.models.images import Image
from leaks import Secrets, certificates, leaks
from stages import BACKEND, IMAGES, ROOT

from paddle_stacks import settings
from paddle_stacks.build.variables import secrets as build_secrets
from paddle_stacks.plan import image_name


@pytest.fixture(scope="module")
def ids(engine: docker.DockerClient) -> list[str]:
    here = {tag for found in engine.images.list() for tag in found.tags}
    missing = [name for name in (image_name(i, BACKEND) for i in IMAGES) if name not in here]
    if missing:
        pytest.fail(f"there is no {', '.join(missing)}: run ./inv build", pytrace=False)
    return [str(engine.images.get(image_name(image, BACKEND)).id) for image in IMAGES]


@pytest.fixture(scope="module")
def of_this_machine(engine: docker.DockerClient, ids: list[str]) -> Secrets:
    """What this machine's builds are told in secret."""
    found = settings.load(ROOT)
    with build_secrets(found) as files:
        network = Path(files["NETWORK"]).read_bytes().split(b"\n")
        bundle = Path(files["CA_BUNDLE"]).read_bytes()
    values = [str(getattr(found, item.name)) for item in fields(found)]
    logins = [urlsplit(value).netloc.rpartition("@")[0] for value in values if "://" in value]
    texts = [line for line in network if line and not line.startswith(b"no_proxy=")]
    texts += [login.encode() for login in logins if login]
    return Secrets(tuple(texts), certificates(bundle) - _public(engine, ids))


def test_no_layer_holds_a_secret(ids: list[str], of_this_machine: Secrets) -> None:
    assert leaks(ids, of_this_machine) == []


def _public(engine: docker.DockerClient, ids: list[str]) -> frozenset[str]:
    """Return the certificates that Debian's package and the locked certifi bring themselves.

    Both are compared with what their package lists, so that a certificate that
    a build slipped into one of them is not taken for a public one.
    """
    program = """
        import base64, hashlib, importlib.metadata, pathlib, sys
        sums = pathlib.Path('/var/lib/dpkg/info/ca-certificates.md5sums').read_text()
        for line in sums.splitlines():
            digest, name = line.split()
            content = pathlib.Path('/', name)
            if name.endswith('.crt') and content.is_file():
                assert hashlib.md5(content.read_bytes()).hexdigest() == digest, name
                print(content.read_text())
        for file in importlib.metadata.files('certifi'):
            if file.name == 'cacert.pem':
                digest = hashlib.sha256(file.locate().read_bytes()).digest()
                listed = base64.urlsafe_b64encode(digest).decode().rstrip('=')
                assert listed == file.hash.value, file
                print(file.locate().read_text())
    """
    output = engine.containers.run(
        ids[IMAGES.index("framework")],
        ["-c", textwrap.dedent(program)],
        entrypoint="python",
        remove=True,
        network_mode="none",
    )
    found = certificates(output)
    assert len(found) > 100
    return found


# ------------------------------------------------- that what leaks is found, by images that leak

TEXT = b"https_proxy=http://somebody:" + hashlib.sha256(os.urandom(16)).hexdigest().encode()
DER = os.urandom(900)
PEM = (
    b"-----BEGIN CERTIFICATE-----\n"
    + b"\n".join(re.findall(rb".{1,64}", base64.b64encode(DER)))
    + b"\n-----END CERTIFICATE-----\n"
)
PLANTED = Secrets((TEXT,), frozenset([hashlib.sha256(DER).hexdigest()]))

Spoil = Callable[..., Image]


@pytest.fixture
def spoil(engine: docker.DockerClient, ids: list[str]) -> Iterator[Spoil]:
    """``spoil(files, deleted, changes)`` makes an image of the base, with a layer for each."""
    containers: list[Container] = []
    made: list[Image] = []

    def commit(parent: str, files: dict[str, bytes], command: str, changes: list[str]) -> Image:
        container = engine.containers.create(parent, ["-c", command], entrypoint="sh")
        containers.append(container)
        container.put_archive("/", _archive(files))
        container.start()
        assert container.wait()["StatusCode"] == 0
        return container.commit(changes=changes)

    def spoil(
        files: dict[str, bytes], *, deleted: bool = False, changes: tuple[str, ...] = ()
    ) -> Image:
        image = commit(ids[IMAGES.index("base")], files, "true", list(changes))
        if deleted:
            image = commit(str(image.id), {}, f"rm {' '.join('/' + name for name in files)}", [])
        made.append(image)
        return image

    yield spoil
    for container in containers:
        container.remove(force=True)
    for image in made:  # and with it the untagged image that it was made from
        engine.images.remove(str(image.id), force=True)


@pytest.mark.parametrize("deleted", [False, True], ids=["kept", "deleted later"])
def test_a_secret_in_a_layer_is_found(spoil: Spoil, deleted: bool) -> None:
    files = {
        "etc/apt/apt.conf.d/99proxy": b"x" * 100_000 + TEXT,
        "opt/bundle.pem": b"# one\n" + PEM,
    }
    found = leaks([str(spoil(files, deleted=deleted).id)], PLANTED)
    assert sorted(line.split(": ", 1)[1] for line in found) == [
        "/etc/apt/apt.conf.d/99proxy: text 0",
        f"/opt/bundle.pem: certificate {hashlib.sha256(DER).hexdigest()[:12]}",
    ]


def test_a_certificate_in_lines_of_another_length_is_found(spoil: Spoil) -> None:
    body = base64.encodebytes(DER).replace(b"\n", b"\r\n")
    pem = b"-----BEGIN TRUSTED CERTIFICATE-----\r\n" + body + b"-----END TRUSTED CERTIFICATE-----"
    found = leaks([str(spoil({"opt/bundle.pem": pem}).id)], PLANTED)
    assert len(found) == 1
    assert "/opt/bundle.pem: certificate " in found[0]


def test_a_mount_point_of_a_secret_is_found(spoil: Spoil) -> None:
    found = leaks([str(spoil({"run/secrets/ca_bundle": b""}).id)], PLANTED)
    assert [line.split(": ", 1)[1] for line in found if "ca_bundle" in line] == [
        "/run/secrets/ca_bundle: a secret's mount point"
    ]


@pytest.mark.parametrize("instruction", ["ENV https_proxy_line", "LABEL built-with"])
def test_a_secret_in_the_configuration_is_found(spoil: Spoil, instruction: str) -> None:
    image = spoil({}, changes=(f"{instruction}={TEXT.decode()}",))
    found = leaks([str(image.id)], PLANTED)
    # In the image's configuration, and in the copy that older engines read.
    assert {line.rpartition(": ")[2] for line in found} == {"text 0"}


def test_a_clean_image_is_clean(ids: list[str]) -> None:
    assert leaks([ids[IMAGES.index("base")]], PLANTED) == []


def _archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()
