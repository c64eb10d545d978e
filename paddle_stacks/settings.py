"""Settings of all commands on this machine: the backend, mirrors, proxies, secrets.

The value of a setting is the last of: its default, common environment variables
(``SSL_CERT_FILE``, ``HTTPS_PROXY``, …), ``paddle-stacks.toml`` at the repository's root,
``PADDLE_STACKS_<KEY>`` in the environment, a flag.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from paddle_stacks import toml
from paddle_stacks.errors import Problem, RequestError, did_you_mean, without_login

__all__ = [
    "DEBUG_SWITCH",
    "ENV_FALLBACKS",
    "ENV_FLAGS",
    "FILE_NAME",
    "PREFIX",
    "Settings",
    "load",
    "without_password",
]

FILE_NAME = "paddle-stacks.toml"
PREFIX = "PADDLE_STACKS_"
DEBUG_SWITCH = PREFIX + "DEBUG"

ENV_FLAGS = {
    "DEBUG": "1 shows the traceback of an error, as --debug does.",
    "EVENTS": "1 makes a job report its progress as events, for the host's live view.",
    "PYTHON": "The Python for .venv; by default the first python3 that is new enough.",
    "FAULTS_SEED": "Tests: the seed of the times at which processes are killed.",
    "PARITY_PYTHON": "Tests: a Python with transformers, to compare with.",
    "TEST_PYTHON": "Tests: a Python with the packages of the images, to run jobs without them.",
}
"""Variables with our prefix that are not settings, with their purposes."""

# The lower-case names come first because curl, apt and pip read those first.
ENV_FALLBACKS: dict[str, tuple[str, ...]] = {
    "ca_bundle": ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    "index_url": ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    "http_proxy": ("http_proxy", "HTTP_PROXY"),
    "https_proxy": ("https_proxy", "HTTPS_PROXY"),
    "no_proxy": ("no_proxy", "NO_PROXY"),
}
"""Common environment variables of a setting; the first one that is set applies."""

_FOLDERS = {"workspace", "host_root", "packages", "wheels", "headers", "attestations"}
_PATHS = {*_FOLDERS, "ca_bundle", "hub_token_file"}
# Boolean settings: true and false in the file, these words elsewhere.
_ON_OR_OFF = {"require_verified": {"true": True, "false": False, "": False}}


@dataclass(frozen=True)
class Settings:
    """The settings of one command.

    Values that may contain a password are not part of its representation.

    Args:
        root: the repository's root, where ``configs/`` and the Dockerfile are.
        workspace: the folder that is mounted as ``/workspace``; the root by default.
        backend: the backend, a file in ``configs/backends/``.
        registry: where prebuilt images and the OS image are pulled from; empty:
            the engine's default.
        os_image: the OS image to build on; empty: the Dockerfile's default.
        dtk_image: the DTK image that the images for a DCU are built on; empty: the
            Dockerfile's default.
        paddlenlp_src: the source of PaddleNLP for a DCU's operators and programs, a
            folder or a git URL with a commit; empty: the backend's.
        gfx_archs: architectures of a DCU's operators, such as ``gfx928;gfx936``; empty:
            the backend's.
        packages: a folder with all packages of a build, as in a bundle (docs/bundle.md);
            empty: mirrors and indexes.
        wheels: a folder of wheels for a build without an index; empty: none.
        headers: a folder with ``nlohmann/json.hpp``; empty: downloaded.
        dcu_index_url: the index of paddlepaddle-dcu; empty: the vendor's.
        ca_bundle: trusted certificates, instead of the distribution's.
        index_url: the Python package index; empty: the installer's default.
        apt_mirror: the mirror of the distribution's packages; empty: the default.
        http_proxy: proxy for http; empty: none.
        https_proxy: proxy for https; empty: none.
        no_proxy: hosts without a proxy, separated by commas.
        host_root: the folder of the host's devices, drivers and ``/opt/hyhal``; another
            folder than ``/`` is a simulated host.
        hub_token_file: a file with a model hub's access token.
        attestations: the folder of the images' attestations; None:
            ``.cache/attestations`` below the root.
        require_verified: run jobs only in images that passed their tests.
    """

    root: Path
    workspace: Path
    backend: str = "cpu"
    registry: str = ""
    os_image: str = ""
    dtk_image: str = ""
    paddlenlp_src: str = ""
    gfx_archs: str = ""
    packages: Path | None = None
    wheels: Path | None = None
    headers: Path | None = None
    dcu_index_url: str = field(default="", repr=False)
    ca_bundle: Path | None = None
    index_url: str = field(default="", repr=False)
    apt_mirror: str = field(default="", repr=False)
    http_proxy: str = field(default="", repr=False)
    https_proxy: str = field(default="", repr=False)
    no_proxy: str = ""
    host_root: Path = Path("/")
    hub_token_file: Path | None = None
    attestations: Path | None = None
    require_verified: bool = False


_KEYS = tuple(item.name for item in fields(Settings) if item.name != "root")


def load(
    root: Path,
    flags: Mapping[str, str | None] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings for the repository at ``root``.

    Args:
        root: the folder with ``paddle-stacks.toml``, if there is one.
        flags: values of the command line by key; None if omitted.
        environ: the environment; this process's by default.

    Raises:
        RequestError: a key is unknown, a value has the wrong type, or a path does not exist.
            Reports all faults.
    """
    environ = os.environ if environ is None else environ
    root = root.resolve()
    values: dict[str, str | Path | bool] = dict(_from_machine(environ))
    problems: list[Problem] = []
    for source, entries in (
        (FILE_NAME, _from_file(root / FILE_NAME, problems)),
        ("environment", _from_environment(environ, problems)),
        ("flag", {key: value for key, value in (flags or {}).items() if value is not None}),
    ):
        base = root if source == FILE_NAME else Path.cwd()
        for key, value in entries.items():
            values[key] = _checked(key, value, base, source, problems)
    if problems:
        raise RequestError(problems)
    # A path that is set to an empty string overrides others with none.
    resolved: dict[str, Any] = {k: v for k, v in values.items() if v != "" or k not in _PATHS}
    return Settings(root=root, **{"workspace": root, **resolved})


def without_password(url: str) -> str:
    """Return ``url`` with the user's name and password replaced by ``***``."""
    return without_login(url)


def _from_machine(environ: Mapping[str, str]) -> dict[str, str | Path]:
    settings: dict[str, str | Path] = {}
    for key, names in ENV_FALLBACKS.items():
        candidates = [environ[name] for name in names if environ.get(name)]
        if key in _PATHS:
            # Some machines set a bundle that does not exist, which is no reason to stop.
            candidates = [
                str(Path(value).absolute()) for value in candidates if Path(value).is_file()
            ]
        if candidates:
            settings[key] = Path(candidates[0]) if key in _PATHS else candidates[0]
    return settings


def _from_file(path: Path, problems: list[Problem]) -> dict[str, str]:
    if not path.is_file():
        return {}
    table = toml.read(path)
    problems += toml.unknown_keys(path, table, _KEYS)
    settings = {key: value for key, value in table.items() if key in _KEYS}
    for key, value in list(settings.items()):
        if key in _ON_OR_OFF and isinstance(value, bool):
            settings[key] = str(value).lower()
        elif not isinstance(value, str):
            problems.append(
                Problem(
                    f'"{key}" must be a string, not {type(value).__name__}',
                    toml.line_of(path, key),
                    f'{key} = "…"',
                )
            )
            del settings[key]
    return settings


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> dict[str, str]:
    settings: dict[str, str] = {}
    names = {PREFIX + key.upper(): key for key in _KEYS}
    for name, value in environ.items():
        if name in names:
            settings[names[name]] = value
        elif name.startswith(PREFIX) and name.removeprefix(PREFIX) not in ENV_FLAGS:
            hint = did_you_mean(name, names) or f"variables: {', '.join(names)}"
            problems.append(Problem(f"unknown variable {name}", "environment", hint))
    return settings


def _checked(
    key: str, value: str, base: Path, source: str, problems: list[Problem]
) -> str | Path | bool:
    """Return the value as its type; a relative path starts at ``base``."""
    if key in _ON_OR_OFF:
        if value not in _ON_OR_OFF[key]:
            problems.append(
                Problem(
                    f'"{key}" must be true or false, got "{value}"',
                    f"{key} from {source}",
                    f"{key} = true",
                )
            )
        return _ON_OR_OFF[key].get(value, False)
    if key not in _PATHS or not value:
        return value
    path = (base / Path(value).expanduser()).absolute()
    kind, there = ("folder", path.is_dir()) if key in _FOLDERS else ("file", path.is_file())
    if not there:
        problems.append(
            Problem(
                f'"{key}" names a {kind} that does not exist: {path}',
                f"{key} from {source}",
                "create it, or change or unset the setting",
            )
        )
    return path
