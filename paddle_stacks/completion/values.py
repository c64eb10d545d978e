"""What options can be set to, as far as files and tables say."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from paddle_stacks import recipes
from paddle_stacks.errors import StackError
from paddle_stacks.jobs import models
from paddle_stacks.jobs.arguments import PARSERS
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import backend

__all__ = ["of_options"]

_Ask = Callable[[list[str]], Iterable[str]]


def of_options(root: Path, workspace: Path) -> Mapping[str, _Ask]:
    """Return what each option can be, by its name; asked with the words of the line.

    Args:
        root: the repository's root.
        workspace: where ``models/`` and ``runs/`` are.
    """
    asks: dict[str, _Ask] = {}
    for name, choices in _choices().items():
        asks[name] = _always(choices)
    return asks | {
        "--backend": lambda words: backend.names(root),
        "--model": lambda words: {*models.known(root), *_folders(workspace / "models")},
        "--adapter": lambda words: _folders(workspace / "runs"),
        "--profile": lambda words: _profiles(root, _backend_in(words)),
        "--recipe": lambda words: _recipes(root, _backend_in(words), JOBS.keys() & set(words)),
    }


def _always(choices: Iterable[str]) -> _Ask:
    return lambda words: choices


def _choices() -> dict[str, set[str]]:
    """Return the choices of the jobs' own options."""
    choices: dict[str, set[str]] = {}
    actions: list[argparse.Action] = [
        action for make in PARSERS.values() for action in make()._actions
    ]
    for action in actions:
        if action.choices and action.option_strings:
            choices.setdefault(action.option_strings[-1], set()).update(map(str, action.choices))
    return choices


def _backend_in(words: list[str]) -> str:
    """Return the platform that a line names; empty where it names none."""
    for at, word in enumerate(words):
        if word.startswith("--backend="):
            return word.partition("=")[2]
        if word == "--backend" and at + 1 < len(words):
            return words[at + 1]
    return ""


def _recipes(root: Path, name: str, jobs: Collection[str]) -> set[str]:
    """Return the recipes of a platform, of all if none is named; of some jobs, if any are."""
    backends = [path.stem for path in (root / recipes.FOLDER).glob("*.toml")]
    names: set[str] = set()
    for platform in [name] if name else backends:
        try:
            loaded = recipes.load(root, platform).values()
        except StackError:
            continue  # a platform without recipes: nothing to offer
        names |= {recipe.name for recipe in loaded if not jobs or recipe.job in jobs}
    return names


def _profiles(root: Path, name: str) -> set[str]:
    names: set[str] = set()
    for platform in [name] if name in backend.names(root) else backend.names(root):
        names |= {*backend.profiles(platform, root)}
    return names


def _folders(parent: Path) -> set[str]:
    if not parent.is_dir():
        return set()
    return {path.name for path in parent.iterdir() if path.is_dir() and path.name[0] != "."}
