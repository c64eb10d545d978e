"""Look up a model's architecture by name or path."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from paddle_stacks import toml
from paddle_stacks.errors import RequestError, suggest
from paddle_stacks.jobs import models
from paddle_stacks.jobs.llama_config import LlamaConfig, from_config
from paddle_stacks.jobs.schema.reading import read

__all__ = ["TABLE", "architectures", "find"]

TABLE = Path(__file__).resolve().parents[2] / "configs" / "memory" / "architectures.toml"


@cache
def architectures() -> dict[str, LlamaConfig]:
    """Return the architectures in the table, by name and alias."""
    shapes: dict[str, LlamaConfig] = {}
    for name, entry in toml.read(TABLE).items():
        values = {k: v for k, v in entry.items() if k not in ("aliases", "source")}
        for each in (name, *entry.get("aliases", ())):
            shapes[each] = from_config(values, each, str(TABLE))
    return shapes


def find(name: str, workspace: Path = Path()) -> LlamaConfig:
    """Return the architecture of a model.

    Args:
        name: a name in the table or in ``configs/models``, a folder in ``models/``, or the
            path of a folder or ``config.json``.
        workspace: folder that relative names start from.

    Raises:
        RequestError: there is no such model, or its configuration is invalid.
    """
    for path in (workspace / "models" / name, workspace / name):
        file = path if path.suffix == ".json" else path / "config.json"
        if name and file.is_file():
            document = read(file)
            if document.problems:
                raise RequestError(document.problems)
            return from_config(document.values, Path(name).name, str(file))
    short = Path(name).name.lower()
    if short in architectures():
        return architectures()[short]
    if short in models.known(workspace) and (
        shape := models.find(short, workspace=workspace).architecture
    ):
        return from_config(shape, short)
    remedy = f"{suggest(short, architectures(), 'models')}; or the path of a config.json"
    raise RequestError(f'unknown model "{name}"', where="--model", remedy=remedy)
