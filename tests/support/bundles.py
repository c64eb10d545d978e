"""A tiny bundle: a project of three files, two images of a few bytes, and a model."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from paddle_stacks import engine
from paddle_stacks.bundle import create, downloads, saving
from paddle_stacks.settings import Settings

BACKEND = "cpu"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LAYERS = {name: os.urandom(40_000) for name in ("os", "base", "train", "infer")}
IMAGES = {
    "base": ("os", "base"),
    "train": ("os", "base", "train"),
    "infer": ("os", "base", "infer"),
}

# The project's ./inv: it records its calls, and can be made to fail.
_INV = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/calls"
! [ -e "$(dirname "$0")/fail-$1" ]
"""


class Site:
    """Folders of the machine with a network and of the one without.

    Args:
        home: has ``project`` (a checkout), ``engine`` (a fake one), ``bundle`` and ``to``.
    """

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.project, self.bundle, self.to = home / "project", home / "bundle", home / "to"
        self.engine = home / "engine"
        self.settings = Settings(root=self.project, workspace=self.project, backend=BACKEND)
        self.said: list[str] = []
        # Without the user's git settings: names, signatures, hooks.
        for name in ("GLOBAL", "SYSTEM"):
            monkeypatch.setenv(f"GIT_CONFIG_{name}", os.devnull)
        self._make_project()
        self._make_engine(monkeypatch)
        monkeypatch.setattr(engine, "connect", lambda: None)
        monkeypatch.setattr(saving, "find", lambda *_: self.wanted)
        monkeypatch.setattr(downloads, "_pip_download", self._pip)
        monkeypatch.setattr("paddle_stacks.build.export", self._export)

    def order(self, **changes: object) -> create.BundleSpec:
        """Return the specification of the bundle."""
        values = {"output": self.bundle, "models": ("tiny",), "pythons": (PYTHON,), **changes}
        return create.BundleSpec(**values)  # type: ignore[arg-type]

    def create(self, **changes: object) -> None:
        """Create the bundle."""
        create.create(self.order(**changes), self.settings, self.said.append)

    def program(self, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the bundle's program in isolation from the project."""
        command = [sys.executable, "-I", self.bundle / "bundle.pyz", *map(str, words)]
        return subprocess.run(
            command, cwd=self.home, env={**os.environ, **variables}, capture_output=True, text=True
        )

    def load(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Load the bundle with its program."""
        return self.program("load", "--to", self.to, *words)

    def loaded(self) -> dict[str, bytes]:
        """Return the loaded state: the project's files, and the engine's images and tags."""
        state = {
            f"{folder.name}/{path.relative_to(folder)}": path.read_bytes()
            for folder in (self.to, self.engine)
            for path in folder.rglob("*")
            if path.is_file() and path.name not in ("loads", "calls", "state.json")
        }
        return dict(sorted(state.items()))

    def _make_project(self) -> None:
        self.project.mkdir()
        (self.project / "inv").write_text(_INV)
        (self.project / "inv").chmod(0o755)
        (self.project / "docs").mkdir()
        (self.project / "docs" / "bundle.md").write_text("# Bundles\n")
        (self.project / ".git_archival.txt").write_text("node: $Format:%H$\n")
        (self.project / ".gitignore").write_text("/models/\n")
        (self.project / "requirements.lock").write_text("a==1 \\\n    --hash=sha256:00\n")
        lock = self.project / "images" / "framework" / "requirements.cpu.lock"
        lock.parent.mkdir(parents=True)
        lock.write_text("pip==1 \\\n    --hash=sha256:00\n")
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Begin"]):
            self.git(*words)
        model = self.project / "models" / "tiny"
        (model / "deep").mkdir(parents=True)
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(bytes(range(256)) * 10_000)
        (model / "deep" / "tokenizer.json").write_text("[]")

    def git(self, *words: str) -> None:
        """Run git in the project."""
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *words], cwd=self.project, check=True)

    def _make_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine.mkdir()
        programs = self.home / "bin"
        programs.mkdir()
        fake = Path(__file__).with_name("fake_docker.py")
        (programs / "docker").write_text(f'#!/bin/sh\nexec {sys.executable} -I {fake} "$@"\n')
        (programs / "docker").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_DOCKER", str(self.engine))
        self.wanted = []
        blobs, entries = {}, []
        for name, layers in IMAGES.items():
            digests = [hashlib.sha256(LAYERS[layer]).hexdigest() for layer in layers]
            blobs |= {digest: LAYERS[layer] for digest, layer in zip(digests, layers, strict=True)}
            diff_ids = [f"sha256:{digest}" for digest in digests]
            config = json.dumps(
                {"rootfs": {"diff_ids": diff_ids}, "config": {"Labels": {"is": name}}}
            ).encode()
            identity = hashlib.sha256(config).hexdigest()
            blobs[identity] = config
            tag = f"paddle-stacks/{name}:cpu"
            entries.append(
                {
                    "Config": f"blobs/sha256/{identity}",
                    "RepoTags": [tag],
                    "Layers": [f"blobs/sha256/{digest}" for digest in digests],
                }
            )
            self.wanted.append(
                saving.ImageToSave(tag, (tag,), f"sha256:{identity}", tuple(diff_ids), 40_000)
            )
        files = {f"blobs/sha256/{digest}": content for digest, content in blobs.items()}
        with tarfile.open(self.engine / "archive.tar", "w") as archive:
            for path, content in {**files, "manifest.json": json.dumps(entries).encode()}.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    @staticmethod
    def _pip(folder: Path, requirements: str, python: str, settings: Settings) -> None:
        for line in requirements.splitlines()[::2]:
            name, _, version = line.removesuffix(" \\").partition("==")
            (folder / f"{name}-{version}-py3-none-any.whl").write_text(line)

    @staticmethod
    def _export(target: str, into: Path, settings: Settings) -> None:
        (into / "packages" / "simple").mkdir(parents=True)
        (into / "packages" / "sources.list").write_text("deb file:/srv/packages x main\n")
        (into / "packages" / "simple" / "index.html").write_text("<html></html>\n")
        (into / "sources").mkdir()


# Counts the moments at which something takes its final name, and ends at one of them.
KILL = """
import os, signal
def _counted(real):
    def call(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    return call
left = int(os.environ["KILL_AT"])
os.replace, os.rename = _counted(os.replace), _counted(os.rename)
"""


def killed_at(moment: int, body: Callable[[], object]) -> bool:
    """Run ``body`` in a process that is killed before its n-th rename; return whether it was."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ["KILL_AT"] = str(moment)
            exec(KILL, {})
            body()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False
