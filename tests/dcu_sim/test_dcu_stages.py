"""The stages of the ``dcu`` backend itself, on stand-ins for what cannot be had here.

The DTK's image is the simulated one with its Python where DTK's is, and the wheel of
paddlepaddle-dcu is a CPU's under that name. What is the backend's own is real: its locks
with their hashes, the wheel from a folder, the headers from a folder, every step.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddle_stacks import settings
from paddle_stacks.build.os_image import BOOTSTRAPPED, default_reference
from paddle_stacks.build.variables import paddle_version, secrets
from tests.support.stages import BACKEND, ROOT

pytestmark = pytest.mark.skipif(BACKEND != "dcu-sim", reason="needs the images of dcu-sim")

DTK = "paddle-stacks/dtk:stand-in"


def buildx(*words: str, stdin: str | None = None) -> str:
    """Run a build and return what it says."""
    with secrets(settings.load(ROOT)) as files:
        command = ["docker", "buildx", "build", "--progress=plain"]
        command += [f"--secret=id=ca_bundle,src={files['CA_BUNDLE']}"]
        command += [f"--secret=id=network,src={files['NETWORK']}", *words]
        done = subprocess.run(
            command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


@pytest.fixture(scope="module")
def os_image() -> str:
    """The OS image that is here: the registry's or the bootstrapped one."""
    wanted = settings.load(ROOT).os_image or default_reference(ROOT / "Dockerfile")
    found = subprocess.run(["docker", "image", "inspect", wanted], capture_output=True, check=False)
    return BOOTSTRAPPED if found.returncode else wanted


@pytest.fixture(scope="module")
def dtk(os_image: str) -> Iterator[str]:
    """An image with the DTK's layout and its Python's path."""
    simulated = f"{DTK}-base"
    arguments = ["--build-arg=BACKEND=dcu-sim", f"--build-arg=OS_IMAGE={os_image}"]
    buildx("--target=dtk-dcu-sim", *arguments, f"--tag={simulated}", ".")
    link = "mkdir -p /opt/py310/bin && ln -s /usr/bin/python3 /opt/py310/bin/python"
    buildx(f"--tag={DTK}", "-", stdin=f"FROM {simulated}\nRUN {link}\n")
    yield DTK
    subprocess.run(["docker", "rmi", DTK, simulated], capture_output=True, check=False)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CPU's Paddle as a wheel of paddlepaddle-dcu."""
    folder = tmp_path_factory.mktemp("wheels")
    version = paddle_version(ROOT)
    uv = Path(sys.executable).parent / "uv"
    target = ["--python-version=3.11", f"--target={folder / 'installed'}"]
    install = ["pip", "install", "--quiet", "--no-deps", *target, f"paddlepaddle=={version}"]
    subprocess.run([uv, *install], check=True)
    name = f"paddlepaddle_dcu-{version}"
    (folder / "wheels").mkdir()
    pack(folder / "installed", folder / "wheels" / f"{name}-cp311-cp311-linux_x86_64.whl", name)
    return folder / "wheels"


def pack(installed: Path, wheel: Path, name: str) -> None:
    """Write what is installed as a wheel of another name."""
    old = next(installed.glob("paddlepaddle-*.dist-info")).name
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(p for p in installed.rglob("*") if p.is_file()):
            inside = str(path.relative_to(installed)).replace(old, f"{name}.dist-info")
            if Path(inside).name in ("RECORD", "INSTALLER", "REQUESTED") or "bin/" in inside[:4]:
                continue
            content = path.read_bytes()
            if inside.endswith("dist-info/METADATA"):
                content = content.replace(b"Name: paddlepaddle\n", b"Name: paddlepaddle-dcu\n")
            archive.writestr(inside, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            rows.writerow([inside, f"sha256={digest.decode()}", len(content)])
        archive.writestr(f"{name}.dist-info/RECORD", record.getvalue())


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nlohmann/json.hpp, as a closed network would carry it."""
    folder = tmp_path_factory.mktemp("headers")
    image = "paddle-stacks/base:dcu-sim"
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint=tar", image]
    with subprocess.Popen(
        [*command, "-C", "/usr/include", "-c", "nlohmann"], stdout=subprocess.PIPE
    ) as source:
        subprocess.run(["tar", "-x", "-C", str(folder)], stdin=source.stdout, check=True)
    assert (folder / "nlohmann" / "json.hpp").is_file()
    return folder


def test_every_stage_of_the_dcu_is_built(
    os_image: str, dtk: str, wheels: Path, headers: Path
) -> None:
    arguments = {"BACKEND": "dcu", "LOCK": "dcu", "OS_IMAGE": os_image, "DTK_IMAGE": dtk}
    contexts = {"paddlenlp": ROOT / "tests/paddlenlp", "wheels": wheels, "headers": headers}
    buildx(
        "--target=infer",
        *(f"--build-arg={key}={value}" for key, value in arguments.items()),
        "--build-arg=GFX_ARCHS=gfx906;gfx90a",
        *(f"--build-context={key}={value}" for key, value in contexts.items()),
        f"--iidfile={wheels / 'id'}",
        "--load",
        ".",
    )
    image = (wheels / "id").read_text()
    shown = (
        "import os, importlib.metadata as m, paddlenlp_ops, fused_ln; "
        "print(m.version('paddlepaddle-dcu'), m.version('paddleslim'),"
        " os.environ['PADDLE_STACKS_BACKEND'], os.environ['ROCM_PATH'],"
        " paddlenlp_ops.get_padding_offset.__name__, fused_ln.fused_rms_norm.__name__)"
    )
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint=python", image, "-c", shown]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        *(paddle_version(ROOT), "2.6.0", "dcu", "/opt/dtk-24.04.1"),
        *("get_padding_offset", "fused_rms_norm"),
    ]
    subprocess.run(["docker", "rmi", "--force", image], capture_output=True, check=False)
