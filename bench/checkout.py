"""A checkout with an environment of its own in which the tests run under observation.

``bench/line_coverage.py`` and ``bench/mutants.py`` work in it. The user's checkout and
``.venv`` stay as they are; only the images are those of the engine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Checkout", "Suite", "say"]

ROOT = Path(__file__).resolve().parents[1]
_HOOKS = Path(__file__).resolve().parent / "hooks"
_PACKAGES = ("coverage==7.17.5", "pytest-xdist==3.8.0")
_PATIENCE = 60  # seconds
_IMAGES_PYTHON = "3.11"
_SITE_PACKAGES = "/opt/venv/lib/python3.11/site-packages"  # of the images
_START = "import sys; sys.path.append({!r}); import measured_process\n"
# Untracked files that the build leaves and that Compose and the tests read.
_BUILT = (".env", ".env.dcu-sim", ".cache/build")


@dataclass(frozen=True)
class Suite:
    """Tests that are run by one pytest.

    Args:
        folders: of the tests.
        backend: whose images they need.
        is_parallel: whether they may run beside each other.
    """

    folders: list[str]
    backend: str
    is_parallel: bool


class Checkout:
    """A clone of the repository with its own ``.venv``.

    Args:
        work: the folder of the clone and of everything else; its contents are reused.
        revision: the commit.
    """

    def __init__(self, work: Path, revision: str) -> None:
        self.work = work.resolve()
        self.root = self.work / "checkout"
        self.hooks = self.work / "hooks"
        self.data = self.work / "data"
        self.library = self.work / "library"  # mounted into containers
        self.python = self.root / ".venv" / "bin" / "python"
        self.work.mkdir(parents=True, exist_ok=True)
        self._clone(revision)
        self._make_environment()
        self._make_library()
        self._write_hooks()

    def _clone(self, revision: str) -> None:
        if not self.root.is_dir():
            _call(["git", "clone", "--quiet", "--shared", "--no-checkout", ROOT, self.root])
        commit = _output(["git", "-C", ROOT, "rev-parse", f"{revision}^{{commit}}"])
        _call(["git", "-C", self.root, "checkout", "--quiet", "--force", "--detach", commit])
        self.revision = commit
        for name in _BUILT:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.root / name, dirs_exist_ok=True)
            elif (ROOT / name).is_file():
                shutil.copy2(ROOT / name, self.root / name)

    def _make_environment(self) -> None:
        lock, made_from = self.root / "requirements.lock", self.root / ".venv" / "made-from.lock"
        if made_from.is_file() and made_from.read_bytes() == lock.read_bytes():
            return
        say("making an environment from requirements.lock")
        shutil.rmtree(self.root / ".venv", ignore_errors=True)
        _call([sys.executable, "-m", "venv", self.root / ".venv"])
        self._pip("--require-hashes", "--only-binary", ":all:", "--requirement", lock)
        self._pip(*_PACKAGES)
        shutil.copy2(lock, made_from)  # ./inv uses it as it is

    def _make_library(self) -> None:
        if (self.library / "coverage").is_dir():
            return
        platform = ["--python-version", _IMAGES_PYTHON, "--only-binary", ":all:", "--no-deps"]
        self._pip("--target", self.library, *platform, _PACKAGES[0])

    def _pip(self, *arguments: str | Path) -> None:
        _call([self.python, "-m", "pip", "install", "--quiet", *arguments])

    def _write_hooks(self) -> None:
        shutil.copytree(_HOOKS, self.hooks, dirs_exist_ok=True)
        shutil.copy2(_HOOKS / "measured_process.py", self.library)
        [site_packages] = (self.root / ".venv" / "lib").glob("python3.*/site-packages")
        (site_packages / "measured.pth").write_text(_START.format(str(self.hooks)))
        (self.work / "measured.pth").write_text(_START.format("/opt/coverage/library"))
        self.observe([], measured=False)

    def observe(
        self, mounts: Iterable[str], measured: bool, selected: Sequence[str] | None = None
    ) -> None:
        """Choose what the next runs of pytest mount into containers, and their tests.

        Args:
            mounts: in the form of ``--volume``.
            measured: whether lines are measured, on the host and in containers.
            selected: the ids of the only tests to run, in this order.
        """
        every = list(mounts)
        settings = {
            self.hooks / "coveragerc": f"{self.data}/host",
            self.library / "coveragerc": "/opt/coverage/data/container",
        }
        for path, data in settings.items():
            path.unlink(missing_ok=True)
            if measured:
                path.write_text(self.settings(data))
        if measured:
            self.data.mkdir(exist_ok=True)
            self.data.chmod(0o1777)
            every += [
                f"{self.library}:/opt/coverage/library:ro",
                f"{self.work / 'measured.pth'}:{_SITE_PACKAGES}/measured.pth:ro",
            ]
        document: dict[str, Any] = {"mounts": every, "data": str(self.data) if measured else None}
        document["selected"] = selected
        (self.hooks / "mounts.json").write_text(json.dumps(document))

    def settings(self, data: str) -> str:
        """Return coverage's settings, for data files whose names begin with ``data``."""
        return f"""[run]
data_file = {data}
parallel = true
include =
    */paddle_stacks/*
    */entrypoints/*
omit = */tests/*
disable_warnings =
    no-data-collected
    couldnt-parse
    already-imported
    module-not-imported
    module-not-measured
    no-ctracer
    trace-changed
[paths]
paddle_stacks =
    {self.root}/paddle_stacks
    */paddle_stacks
entrypoints =
    {self.root}/entrypoints
    */entrypoints
"""

    def suites(self) -> dict[str, Suite]:
        """Return the suites of the revision, by name."""
        module = "paddle_stacks.testing.suites"
        if not (self.root / f"{module.replace('.', '/')}.py").is_file():
            module = "paddle_stacks.suites"  # until 0.1.0
        code = (
            f"import dataclasses, json; from {module} import SUITES;"
            "print(json.dumps({n: dataclasses.asdict(s) for n, s in SUITES.items()}))"
        )
        return {
            name: Suite(
                suite["folders"], suite["backend"], suite.get("is_parallel", name == "unit")
            )
            for name, suite in json.loads(_output([self.python, "-c", code], self.root)).items()
        }

    def pytest(
        self, arguments: Sequence[str], backend: str, record: Path, timeout: float | None = None
    ) -> int:
        """Run pytest with the plugin, and return its exit status.

        Args:
            arguments: folders, ids and options.
            backend: the backend whose images the tests use.
            record: the JUnit file that it writes; its output goes beside it.
            timeout: in seconds.

        Raises:
            subprocess.TimeoutExpired: it took longer, and was interrupted.
        """
        record.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        command = [self.python, "-m", "pytest", "-p", "measured_pytest", f"--junitxml={record}"]
        # Also in the background, where a shell makes its children ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        environment = {**os.environ, "PADDLE_STACKS_BACKEND": backend, "PYTHONUNBUFFERED": "1"}
        with (
            record.with_suffix(".log").open("wb") as log,
            subprocess.Popen(
                [*map(str, command), *arguments],
                cwd=self.root,
                env=environment,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                return process.wait(timeout)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                _interrupt(process)
                raise


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """End pytest as Ctrl-C does, so that its fixtures remove their containers."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()


def say(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def _call(command: Sequence[str | Path]) -> None:
    subprocess.run(list(map(str, command)), check=True)


def _output(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    return subprocess.run(
        list(map(str, command)), cwd=cwd, check=True, capture_output=True, text=True
    ).stdout.strip()
