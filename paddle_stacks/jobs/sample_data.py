"""The data that is known by name and can be downloaded.

Each is a file ``configs/datasets/<name>.toml`` of the project, or of the user's workspace,
which wins.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from paddle_stacks.errors import Problem, RequestError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["KINDS", "DataFile", "SampleData", "fetch_command", "find", "known", "local_files"]

KINDS = ("records", "corpus")
"""Records for fine-tuning, or a tokenized corpus for pretraining."""

_SHIPPED = Path(__file__).parents[2] / "configs" / "datasets"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXAMPLE = "configs/datasets/alpaca-demo.toml is an example"


@dataclass(frozen=True)
class DataFile:
    """A file to download.

    Args:
        url: http, https or file.
        sha256: of the file; empty if none is published.
        archive: whether it is a tar archive with the data files in it.
    """

    url: str
    sha256: str = ""
    archive: bool = False

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(unquote(urlsplit(self.url).path)).name


@dataclass(frozen=True)
class SampleData:
    """A row of ``configs/datasets``.

    Args:
        name: of the row.
        title: what it is, for a person.
        kind: one of :data:`KINDS`.
        folder: where it goes in the workspace.
        files: what to download.
    """

    name: str
    title: str
    kind: str
    folder: str
    files: tuple[DataFile, ...]


def known(workspace: Path = Path()) -> dict[str, Path]:
    """Return the rows' files by name; the workspace's replace the project's."""
    folders = (_SHIPPED, workspace / "configs" / "datasets")
    rows = {path.stem: path for folder in folders for path in folder.glob("*.toml")}
    return dict(sorted(rows.items()))


def fetch_command(folder: Path) -> str:
    """Return the command that fetches the data of a folder; empty if none does."""
    for name in known():
        if folder.as_posix().endswith(find(name).folder):
            return f"./inv fetch-data {name}"
    return ""


def find(name: str, workspace: Path = Path()) -> SampleData:
    """Return the data of a name.

    Raises:
        RequestError: there is no such row, or it is malformed.
    """
    rows = known(workspace)
    if name not in rows:
        hint = did_you_mean(name, rows)
        raise RequestError(
            f'no data is known as "{name}"', remedy=f"{hint} known: {', '.join(rows)}".strip()
        )
    path = rows[name]
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"not TOML: {error}", where=str(path), remedy=_EXAMPLE) from error
    try:
        files = tuple(DataFile(**entry) for entry in table.pop("file"))
        row = SampleData(name, files=files, **table)
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"malformed row: {error}", where=str(path), remedy=_EXAMPLE) from error
    if problems := list(_problems(row, path)):
        raise RequestError(problems)
    return row


def _problems(row: SampleData, path: Path) -> list[Problem]:
    faults = []
    if row.kind not in KINDS:
        faults.append(f'kind must be one of {", ".join(KINDS)}, got "{row.kind}"')
    if not row.files:
        faults.append("there is no [[file]]")
    for each in row.files:
        if urlsplit(str(each.url)).scheme not in ("http", "https", "file") or not each.name:
            faults.append(f'"{each.url}" is not the URL of a file')
        if each.sha256 and not _SHA256.fullmatch(str(each.sha256)):
            faults.append(
                f'the sha256 of {each.name} is not 64 hexadecimal digits: "{each.sha256}"'
            )
    return [Problem(fault, str(path), _EXAMPLE) for fault in faults]


def local_files(row: SampleData, folder: Path) -> dict[str, Path]:
    """Return the files of a row in a folder, by their names, for a machine without a network.

    Raises:
        RequestError: the folder or one of the files does not exist.
    """
    missing = [each for each in row.files if not (folder / each.name).is_file()]
    if missing:
        message = f"{missing[0].name} is not in the folder"
        if not folder.is_dir():
            message = "the folder does not exist" if not folder.exists() else "not a folder"
        urls = " ".join(each.url for each in missing)
        raise RequestError(
            message,
            where=f"--from {folder}",
            remedy=f"download it on another machine (wget {urls}) and copy it there; "
            "paths start in the workspace",
        )
    return {each.name: folder / each.name for each in row.files}
