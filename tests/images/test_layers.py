"""No secret of the build, and nothing of the builder's trust, is in any layer of an image."""

from __future__ import annotations

import base64
import hashlib
import io
import json
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

from paddle_stacks import settings
from paddle_stacks.build.variables import secrets as build_secrets
from paddle_stacks.plan import image_name
from tests.support.leaks import Secrets, certificates, leaks
from tests.support.stages import BACKEND, IMAGES, ROOT

# In a file that the Dockerfile's framework stage makes.
LINE = b"import paddle_stacks_startup"


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
    # A line that is known to be in a layer and in the history shows that both were read.
    known = Secrets((LINE, *of_this_machine.texts), of_this_machine.certificates)
    found = leaks(ids, known)
    assert [line for line in found if not line.endswith(": text 0")] == []
    assert any("/site-packages/paddle-stacks.pth: " in line for line in found)
    assert any(line.count(": ") == 1 for line in found)


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

Leaky = Callable[..., str]


@pytest.fixture
def leaky(engine: docker.DockerClient) -> Iterator[Leaky]:
    """``leaky(files, changes)`` makes an image of these files, and returns its id."""
    made: list[str] = []

    def leaky(files: dict[str, bytes], *changes: str) -> str:
        answer = engine.api.import_image_from_data(_archive(files), changes=list(changes))
        made.append(json.loads(answer.splitlines()[-1])["status"])
        return made[-1]

    yield leaky
    for image in made:
        engine.images.remove(image, force=True)


@pytest.fixture
def regretful(engine: docker.DockerClient, ids: list[str]) -> Iterator[Callable[..., str]]:
    """``regretful(files)`` makes an image with a layer of files, and one that deletes them."""
    containers: list[Container] = []
    made: list[Image] = []

    def layer(parent: str, command: str, files: dict[str, bytes]) -> str:
        container = engine.containers.create(parent, ["-c", command], entrypoint="sh")
        containers.append(container)
        container.put_archive("/", _archive(files))
        container.start()
        assert container.wait()["StatusCode"] == 0
        made.append(container.commit())
        return str(made[-1].id)

    def regretful(files: dict[str, bytes]) -> str:
        first = layer(ids[IMAGES.index("base")], "true", files)
        return layer(first, f"rm {' '.join('/' + name for name in files)}", {})

    yield regretful
    for container in containers:
        container.remove(force=True)
    # With it goes the untagged image that it was made from.
    engine.images.remove(str(made[-1].id), force=True)


FILES = {"etc/apt/apt.conf.d/99proxy": b"x" * 100_000 + TEXT, "opt/bundle.pem": b"# one\n" + PEM}
FOUND = [
    "/etc/apt/apt.conf.d/99proxy: text 0",
    f"/opt/bundle.pem: certificate {hashlib.sha256(DER).hexdigest()[:12]}",
]


def test_a_secret_in_a_layer_is_found(leaky: Leaky) -> None:
    assert _told(leaks([leaky(FILES)], PLANTED)) == FOUND


def test_a_secret_that_a_later_layer_deletes_is_found(regretful: Callable[..., str]) -> None:
    assert _told(leaks([regretful(FILES)], PLANTED)) == FOUND


def test_a_certificate_in_lines_of_another_length_is_found(leaky: Leaky) -> None:
    body = base64.encodebytes(DER).replace(b"\n", b"\r\n")
    pem = b"-----BEGIN TRUSTED CERTIFICATE-----\r\n" + body + b"-----END TRUSTED CERTIFICATE-----"
    assert _told(leaks([leaky({"opt/bundle.pem": pem})], PLANTED)) == [FOUND[1]]


def test_a_mount_point_of_a_secret_is_found(leaky: Leaky) -> None:
    found = leaks([leaky({"run/secrets/ca_bundle": b""})], PLANTED)
    assert _told(found) == ["/run/secrets/ca_bundle: a secret's mount point"]


@pytest.mark.parametrize("instruction", ["ENV https_proxy_line", "LABEL built-with"])
def test_a_secret_in_the_configuration_is_found(leaky: Leaky, instruction: str) -> None:
    found = leaks([leaky({}, f"{instruction}={TEXT.decode()}")], PLANTED)
    assert found
    # In the image's configuration, and in the copy that older engines read.
    assert set(_told(found)) == {"text 0"}


def test_what_is_no_secret_is_not_found(leaky: Leaky) -> None:
    other = PEM.replace(b"\n", b"\nAAAA", 1)
    files = {"run/secretary": TEXT[:-1], "opt/other.pem": other, "opt/cut.pem": PEM[:-30]}
    assert leaks([leaky(files)], PLANTED) == []


def _told(found: list[str]) -> list[str]:
    """Return what was found without the name of the blob that has it."""
    return sorted(line.split(": ", 1)[1] for line in found)


def _archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()
