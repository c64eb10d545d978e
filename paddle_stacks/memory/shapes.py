"""The shapes of models that a memory plan knows by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from paddle_stacks import toml
from paddle_stacks.errors import RequestError, suggest
from paddle_stacks.jobs import models
from paddle_stacks.jobs.architecture import Architecture, from_config
from paddle_stacks.jobs.schema.reading import read

__all__ = ["TABLE", "find", "known"]

TABLE = Path(__file__).resolve().parents[2] / "configs" / "memory" / "architectures.toml"


@cache
def known() -> dict[str, Architecture]:
    """Return the shapes in the table, by name and alias."""
    found: dict[str, Architecture] = {}
    for name, entry in toml.read(TABLE).items():
        values = {k: v for k, v in entry.items() if k not in ("aliases", "source")}
        for each in (name, *entry.get("aliases", ())):
            found[each] = from_config(values, each, str(TABLE))
    return found


def find(name: str, workspace: Path = Path()) -> Architecture:
    """Return the shape of a model.

    Args:
        name: of a known one, of a row of ``configs/models`` that has a shape, of a folder in
            ``models/``, or a path of a folder or ``config.json``.
        workspace: where relative names begin.

    Raises:
        RequestError: there is no such model, or its configuration is wrong.
    """
    for path in (workspace / "models" / name, workspace / name):
        file = path if path.suffix == ".json" else path / "config.json"
        if name and file.is_file():
            document = read(file)
            if document.problems:
                raise RequestError(document.problems)
            return from_config(document.values, Path(name).name, str(file))
    short = Path(name).name.lower()
    if short in known():
        return known()[short]
    if short in models.known(workspace) and (
        shape := models.find(short, workspace=workspace).architecture
    ):
        return from_config(shape, short)
    remedy = f"{suggest(short, known(), 'models')}; or the path of a config.json"
    raise RequestError(f'no model is known as "{name}"', where="MODEL", remedy=remedy)
