"""Values of options for tab completion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from paddle_stacks import recipes
from paddle_stacks.errors import StackError
from paddle_stacks.jobs import models
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.jobs.options import OPTIONS, specs
from paddle_stacks.plan import backend

__all__ = ["of_options"]

Values = Callable[[list[str]], Iterable[str]]
"""Returns the values of an option for the words of a line."""


def of_options(root: Path, workspace: Path) -> Mapping[str, Values]:
    """Return the functions that return an option's values, by option.

    Args:
        root: the repository's root.
        workspace: the folder of ``models/`` and ``runs/``.
    """
    fixed = {name: _always(choices) for name, choices in _choices().items()}
    return fixed | {
        "--backend": lambda words: backend.names(root),
        "--model": lambda words: {*models.known(root), *_folders(workspace / "models")},
        "--adapter": lambda words: _folders(workspace / "runs"),
        "--profile": lambda words: _profiles(root, _backend_in(words)),
        "--recipe": lambda words: _recipes(root, _backend_in(words), JOBS.keys() & set(words)),
    }


def _always(choices: Iterable[str]) -> Values:
    return lambda words: choices


def _choices() -> dict[str, set[str]]:
    """Return the choices of the jobs' options."""
    choices: dict[str, set[str]] = {}
    for options in OPTIONS.values():
        for spec in specs(options):
            if spec.choices and spec.flag:
                choices.setdefault(spec.flag, set()).update(spec.choices)
    return choices


def _backend_in(words: list[str]) -> str:
    """Return the backend in a line; empty if it has none."""
    for at, word in enumerate(words):
        if word.startswith("--backend="):
            return word.partition("=")[2]
        if word == "--backend" and at + 1 < len(words):
            return words[at + 1]
    return ""


def _recipes(root: Path, name: str, jobs: Collection[str]) -> set[str]:
    """Return the names of recipes.

    Args:
        root: the repository's root.
        name: a backend; empty for all backends.
        jobs: the jobs of the recipes; empty for all jobs.
    """
    names: set[str] = set()
    for each in [name] if name else [p.stem for p in (root / recipes.FOLDER).glob("*.toml")]:
        try:
            loaded = recipes.load(root, each).values()
        except StackError:
            continue  # a backend without recipes
        names |= {recipe.name for recipe in loaded if not jobs or recipe.job in jobs}
    return names


def _profiles(root: Path, name: str) -> set[str]:
    backends = [name] if name in backend.names(root) else backend.names(root)
    return {profile for each in backends for profile in backend.profiles(each, root)}


def _folders(parent: Path) -> set[str]:
    if not parent.is_dir():
        return set()
    return {path.name for path in parent.iterdir() if path.is_dir() and path.name[0] != "."}
