"""What a build starts from is recorded at first sight, and compared from then on."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks import build
from paddle_stacks.build import recorded
from paddle_stacks.build.os_image import OsImage, default_reference, recorded_name
from paddle_stacks.build.variables import paddle_dcu, secrets
from paddle_stacks.errors import BuildError, RequestError
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
ONE, OTHER, THIRD = (f"sha256:{digit * 64}" for digit in "123")
NAME = "debian:x"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "configs").mkdir()
    return tmp_path


def write(root: Path, *digests: str) -> None:
    listed = ", ".join(f'"{digest}"' for digest in digests)
    (root / recorded.FILE).write_text(f'["{NAME}"]\ndigests = [{listed}]\n')


def test_what_is_met_first_is_recorded_and_another_one_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded.compare(root, NAME, (ONE,))
    assert recorded.digests_of(root, NAME) == (ONE,)
    assert f"recorded: {NAME} {ONE}" in capsys.readouterr().err
    recorded.compare(root, NAME, (ONE,))
    recorded.compare(root, NAME, (THIRD, ONE))
    assert capsys.readouterr().err == ""
    with pytest.raises(BuildError) as caught:
        recorded.compare(root, NAME, (OTHER,))
    problem = caught.value.problems[0]
    assert problem.what == f"{NAME} has the digest {OTHER}, expected {ONE}"
    assert "--record-hash" in problem.remedy and problem.where == str(recorded.LOCAL)
    assert recorded.digests_of(root, NAME) == (ONE,), "a refusal changes nothing"


def test_another_one_is_accepted_when_somebody_says_so(root: Path) -> None:
    write(root, ONE, OTHER)
    recorded.compare(root, NAME, (OTHER,))
    assert not (root / recorded.LOCAL).exists(), "the project knows it"
    with pytest.raises(BuildError, match=f"expected {ONE} or {OTHER}"):
        recorded.compare(root, NAME, (THIRD,))
    recorded.compare(root, NAME, (THIRD,), record=True)
    recorded.compare(root, NAME, (THIRD,))
    with pytest.raises(BuildError, match=f"expected {THIRD}"):
        recorded.compare(root, NAME, (ONE,))


def test_what_has_no_digest_is_not_compared(root: Path) -> None:
    write(root, ONE)
    recorded.compare(root, NAME, ())
    recorded.compare(root, NAME, (), record=True)
    assert recorded.digests_of(root, NAME) == (ONE,)


@pytest.mark.parametrize("text", ["[]", "{", '{"x": "sha256:1"}', '{"x": 1}', "[" * 100_000])
def test_a_damaged_record_is_told(root: Path, text: str) -> None:
    (root / ".cache").mkdir()
    (root / recorded.LOCAL).write_text(text)
    with pytest.raises(RequestError, match="not a list of digests"):
        recorded.digests_of(root, NAME)


@pytest.mark.parametrize("entry", ["x = 1", "[x]", '[x]\ndigests = ["1"]', "[x]\ndigests = 1"])
def test_a_wrong_file_of_the_project_is_told(root: Path, entry: str) -> None:
    (root / recorded.FILE).write_text(f"{entry}\n")
    with pytest.raises(RequestError, match='requires "digests"'):
        recorded.digests_of(root, NAME)


def test_the_os_image_of_the_dockerfile_has_a_digest() -> None:
    assert recorded.digests_of(ROOT, default_reference(ROOT / "Dockerfile"))


@pytest.mark.parametrize(
    ("reference", "argument", "same"),
    [
        ("debian:bookworm-20250520-slim", "OS_IMAGE", True),
        ("registry.example/debian:bookworm-20250520-slim", "OS_IMAGE", True),
        ("debian:trixie-slim", "OS_IMAGE", False),
        ("registry.example/device/paddle-dcu:dtk24.04.1-kylinv10-gcc82", "DTK_IMAGE", True),
        ("registry.example/device/paddle-dcu:dtk25.04", "DTK_IMAGE", False),
    ],
)
def test_an_image_of_a_mirror_is_compared_with_the_original(
    reference: str, argument: str, same: bool
) -> None:
    name = recorded_name(OsImage(reference, ONE, "registry"), ROOT / "Dockerfile", argument)
    default = default_reference(ROOT / "Dockerfile", argument)
    assert name == (default if same else reference)


def test_a_build_compares_both_images(root: Path) -> None:
    (root / "Dockerfile").write_text("ARG OS_IMAGE=debian:x\nARG DTK_IMAGE=host/device/dcu:x\n")
    here = Settings(root=root, workspace=root, backend="dcu")
    debian = OsImage("debian:x", ONE, "registry", (ONE,))
    dtk = OsImage("mirror.example/device/dcu:x", OTHER, "registry", (OTHER,))
    build._compare_images(here, debian, dtk, record=False)
    assert recorded.digests_of(root, "host/device/dcu:x") == (OTHER,)
    changed = OsImage("mirror.example/device/dcu:x", THIRD, "registry", (THIRD,))
    with pytest.raises(BuildError, match="host/device/dcu:x has the digest"):
        build._compare_images(here, debian, changed, record=False)
    made = OsImage("paddle-stacks/os:bookworm", THIRD, "bootstrap")
    build._compare_images(here, made, None, record=False)


class Container:
    """One with the hash of the wheel that was installed in its image."""

    def __init__(self, digest: str) -> None:
        self.removed = False
        content = f"{digest}\n".encode()
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("paddle-dcu.sha256")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        self.archive = buffer.getvalue()

    def get_archive(self, path: str) -> tuple[list[bytes], dict[str, Any]]:
        assert path == "/opt/venv/paddle-dcu.sha256"
        return [self.archive[:100], self.archive[100:]], {}

    def remove(self) -> None:
        self.removed = True


class Engine:
    def __init__(self, digest: str) -> None:
        self.container = Container(digest)
        self.asked: list[str] = []
        self.containers = self

    def create(self, image: str) -> Container:
        self.asked.append(image)
        return self.container


def test_the_wheel_of_a_dcus_paddle_is_recorded_from_the_image(root: Path) -> None:
    (root / "images" / "framework").mkdir(parents=True)
    (root / "images" / "framework" / "requirements.in").write_text("paddlepaddle==3.0.0b2\n")
    here = Settings(root=root, workspace=root, backend="dcu")
    engine: Any = Engine("1" * 64)
    build._compare_paddle(here, engine, ["base"], record=False)
    assert engine.asked == []
    build._compare_paddle(here, engine, ["base", "train"], record=False)
    assert engine.asked == ["paddle-stacks/train:dcu"] and engine.container.removed
    assert recorded.digests_of(root, "paddlepaddle-dcu==3.0.0b2") == (ONE,)
    with pytest.raises(BuildError, match=r"paddlepaddle-dcu==3\.0\.0b2 has the digest"):
        build._compare_paddle(here, Engine("2" * 64), ["train"], record=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "record", "told"),
    [("dcu", False, True), ("dcu", True, False), ("cpu", False, False)],
)
def test_build_steps_get_the_recorded_hash_as_a_secret(
    root: Path, backend: str, record: bool, told: bool
) -> None:
    (root / "images" / "framework").mkdir(parents=True)
    (root / "images" / "framework" / "requirements.in").write_text("paddlepaddle==3.0.0b2\n")
    recorded.compare(root, paddle_dcu(root), (ONE,))
    here = Settings(root=root, workspace=root, backend=backend)
    with secrets(here, record=record) as files:
        lines = Path(files["NETWORK"]).read_text()
    assert lines == (f"paddle_dcu_sha256={'1' * 64}\n" if told else "")


# --------------------------------------------------------------------------- in a build step

SCRIPT = ROOT / "images" / "steps" / "download-paddle-dcu"
CONTENT = b"a wheel"
HASH = hashlib.sha256(CONTENT).hexdigest()
PIP = f"""#!{sys.executable}
import os, pathlib, sys
words = sys.argv[1:]
pathlib.Path(os.environ["ASKED"]).write_text("\\n".join(words))
folder = pathlib.Path(words[words.index("--dest") + 1])
(folder / "paddlepaddle_dcu-3.0.0b2-cp310-cp310-linux_x86_64.whl").write_bytes({CONTENT!r})
"""


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """A folder with a Python whose pip writes a wheel and says what it was asked."""
    (tmp_path / "requirements.in").write_text("paddlepaddle==3.0.0b2   # the version\nsix\n")
    (tmp_path / "python").write_text(PIP)
    (tmp_path / "python").chmod(0o755)
    for name in ("downloads", "wheels"):
        (tmp_path / name).mkdir()
    return tmp_path


def fetch(step: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    line = [str(step / name) for name in ("requirements.in", "python", "downloads")]
    environment = {
        "PATH": os.environ["PATH"],
        "ASKED": str(step / "asked"),
        "WHEELS_FOLDER": str(step / "wheels"),
        **variables,
    }
    return subprocess.run(
        ["sh", str(SCRIPT), *line], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("right", ["", HASH, f"{'0' * 64},{HASH}"])
def test_a_wheel_with_the_right_hash_is_taken(step: Path, right: str) -> None:
    done = fetch(step, PADDLE_DCU_SHA256=right)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == CONTENT
    words = (step / "asked").read_text().split("\n")
    assert words[-1] == "paddlepaddle-dcu==3.0.0b2" and "--no-deps" in words
    assert words[words.index("--index-url") + 1].startswith("https://www.paddlepaddle.org.cn/")


@pytest.mark.parametrize("right", ["0" * 64, HASH[:-1], f"{HASH}0"])
def test_a_wheel_with_another_hash_ends_the_build(step: Path, right: str) -> None:
    done = fetch(step, PADDLE_DCU_SHA256=right)
    assert done.returncode == 1 and done.stdout == ""
    assert f"has the hash {HASH}, expected {right}" in done.stderr
    assert "--record-hash" in done.stderr


def test_a_wheel_in_a_folder_needs_no_index(step: Path) -> None:
    (step / "wheels" / "paddlepaddle_dcu-3.0.0b2-cp310-cp310-linux_x86_64.whl").touch()
    done = fetch(step, DCU_INDEX_URL="https://index.example/")
    assert done.returncode == 0, done.stderr
    words = (step / "asked").read_text().split("\n")
    assert "--no-index" in words and "--index-url" not in words
