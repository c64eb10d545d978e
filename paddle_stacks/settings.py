"""What is the same for every command on this machine: the backend, mirrors, proxies, secrets.

A setting comes from, later wins: its default, what the machine's usual variables
say (``SSL_CERT_FILE``, ``HTTPS_PROXY``, …), ``paddle-stacks.toml`` at the root of
the repository, ``PADDLE_STACKS_<KEY>`` in the environment, a flag.
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
    "FILE_NAME",
    "PREFIX",
    "SWITCHES",
    "USUAL",
    "Settings",
    "load",
    "without_password",
]

FILE_NAME = "paddle-stacks.toml"
PREFIX = "PADDLE_STACKS_"
DEBUG_SWITCH = PREFIX + "DEBUG"

SWITCHES = {
    "DEBUG": "1 shows the traceback of an error, as --debug does.",
    "EVENTS": "1 makes a job tell of itself in events, which the host draws its view from.",
    "PYTHON": "The Python that makes .venv, instead of the first python3 that is new enough.",
    "FAULTS_SEED": "The tests': the number from which the moments of all kills follow.",
    "PARITY_PYTHON": "The tests': a Python that has transformers, to compare with.",
    "TEST_PYTHON": "The tests': a Python that has what the images have, to run jobs without them.",
}
"""The variables with our prefix that are no settings, and what each is for."""

# The lower-case names come first because curl, apt and pip read those first.
USUAL: dict[str, tuple[str, ...]] = {
    "ca_bundle": ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    "index_url": ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    "http_proxy": ("http_proxy", "HTTP_PROXY"),
    "https_proxy": ("https_proxy", "HTTPS_PROXY"),
    "no_proxy": ("no_proxy", "NO_PROXY"),
}
"""Where the machine itself says a setting: the first that is set wins."""

_FOLDERS = {"workspace", "host_root", "packages", "wheels", "headers", "attestations"}
_PATHS = {*_FOLDERS, "ca_bundle", "hub_token_file"}
# The settings that are on or off: true and false in the file, those words elsewhere.
_ON_OR_OFF = {"require_verified": {"true": True, "false": False, "": False}}


@dataclass(frozen=True)
class Settings:
    """The settings of one command.

    What may hold a password is left out of the representation.

    Args:
        root: the repository's root, where ``configs/`` and the Dockerfile are.
        workspace: what is mounted as ``/workspace``; the root by default.
        backend: the platform, a file in ``configs/backends/``.
        registry: where prebuilt images and the OS image are pulled from; empty:
            the engine's default.
        os_image: the OS image to build on; empty: the Dockerfile's default.
        dtk_image: the DTK's image that a DCU's images are built on; empty: the
            Dockerfile's default.
        paddlenlp_src: the source of PaddleNLP for a DCU's operators and programs, a
            folder or a git URL with a commit; empty: the backend's.
        gfx_archs: what a DCU's operators are compiled for, as ``gfx928;gfx936``; empty:
            the backend's.
        packages: a folder with all that a build takes from mirrors and indexes otherwise,
            as a bundle has it (docs/bundle.md); empty: none.
        wheels: a folder of wheels for a build that can reach no index; empty: none.
        headers: a folder with ``nlohmann/json.hpp``, likewise; empty: downloaded.
        dcu_index_url: the index of paddlepaddle-dcu; empty: its maker's.
        ca_bundle: the certificates to trust, instead of the distribution's own.
        index_url: the Python package index; empty: the installer's default.
        apt_mirror: the mirror of the distribution's packages; empty: the default.
        http_proxy: proxy for http; empty: none.
        https_proxy: proxy for https; empty: none.
        no_proxy: hosts that are reached without a proxy, separated by commas.
        host_root: where the host's devices, drivers and ``/opt/hyhal`` are looked for;
            another folder than ``/`` is a simulated host.
        hub_token_file: a file that holds a model hub's access token.
        attestations: the folder with what the tests found of images; None:
            ``.cache/attestations`` below the root.
        require_verified: run no job in an image whose tests have not passed.
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
        root: the folder that may hold ``paddle-stacks.toml``.
        flags: keys given on the command line; None as a value means not given.
        environ: the environment; the process's own by default.

    Raises:
        RequestError: an unknown key, a value that is not a string, or a path
            that leads nowhere; all of them at once.
    """
    environ = os.environ if environ is None else environ
    root = root.resolve()
    values: dict[str, str | Path | bool] = dict(_from_machine(environ))
    problems: list[Problem] = []
    for source, found in (
        (FILE_NAME, _from_file(root / FILE_NAME, problems)),
        ("environment", _from_environment(environ, problems)),
        ("flag", {key: value for key, value in (flags or {}).items() if value is not None}),
    ):
        base = root if source == FILE_NAME else Path.cwd()
        for key, value in found.items():
            values[key] = _checked(key, value, base, source, problems)
    if problems:
        raise RequestError(problems)
    # A path set to an empty string means none, whatever said otherwise before.
    given: dict[str, Any] = {k: v for k, v in values.items() if v != "" or k not in _PATHS}
    return Settings(root=root, **{"workspace": root, **given})


def without_password(url: str) -> str:
    """Return ``url`` with the user's name and password replaced by ``***``."""
    return without_login(url)


def _from_machine(environ: Mapping[str, str]) -> dict[str, str | Path]:
    found: dict[str, str | Path] = {}
    for key, names in USUAL.items():
        given = [environ[name] for name in names if environ.get(name)]
        if key in _PATHS:
            # Some machines name a bundle that is not there: not a reason to stop.
            given = [str(Path(value).absolute()) for value in given if Path(value).is_file()]
        if given:
            found[key] = Path(given[0]) if key in _PATHS else given[0]
    return found


def _from_file(path: Path, problems: list[Problem]) -> dict[str, str]:
    if not path.is_file():
        return {}
    table = toml.read(path)
    problems += toml.unknown_keys(path, table, _KEYS)
    found = {key: value for key, value in table.items() if key in _KEYS}
    for key, value in list(found.items()):
        if key in _ON_OR_OFF and isinstance(value, bool):
            found[key] = str(value).lower()
        elif not isinstance(value, str):
            problems.append(
                Problem(
                    f'"{key}" must be a string, not {type(value).__name__}',
                    toml.line_of(path, key),
                    f'{key} = "…"',
                )
            )
            del found[key]
    return found


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> dict[str, str]:
    found: dict[str, str] = {}
    names = {PREFIX + key.upper(): key for key in _KEYS}
    for name, value in environ.items():
        if name in names:
            found[names[name]] = value
        elif name.startswith(PREFIX) and name.removeprefix(PREFIX) not in SWITCHES:
            hint = did_you_mean(name, names) or f"known: {', '.join(names)}"
            problems.append(Problem(f"unknown variable {name}", "environment", hint))
    return found


def _checked(
    key: str, value: str, base: Path, source: str, problems: list[Problem]
) -> str | Path | bool:
    """Return the value as its type; a relative path starts at ``base``."""
    if key in _ON_OR_OFF:
        if value not in _ON_OR_OFF[key]:
            problems.append(
                Problem(f'"{key}" is "{value}"', f"{key} from {source}", "true or false")
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
                "make it, or change or unset the setting",
            )
        )
    return path
