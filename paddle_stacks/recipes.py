"""Recipes: the commands of a platform's instructions, each as a job with everything decided.

A platform's recipes are in ``configs/recipes/<backend>.toml``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paddle_stacks import toml
from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs.workspace import has_weights
from paddle_stacks.plan import backend as platforms
from paddle_stacks.toml import STRING, STRINGS, Kind

__all__ = [
    "BENCHMARK",
    "DISTRIBUTED",
    "FOLDER",
    "Line",
    "Recipe",
    "backends",
    "find",
    "is_whole",
    "lines",
    "load",
    "steps",
    "with_model",
]

FOLDER = Path("configs", "recipes")

BENCHMARK = "-benchmark"
_BENCHMARK_ARGUMENTS: Mapping[str, Any] = {
    "batch_size": 1,
    "src_length": 3072,
    "max_length": 1024,
    "benchmark": True,
}
DISTRIBUTED = ("ranks", "nnodes", "master", "rank", "wait", "allow_bf16")
"""The options that say where a training runs, which a recipe leaves to the caller."""

# The jobs that a recipe can be of; the last four can be a script of upstream's.
_JOBS = ("prepare", "finetune", "pretrain", "quantize", "export", "infer")


@dataclass(frozen=True)
class Recipe:
    """A job with everything decided.

    Args:
        name: the recipe's name; also of its folder in ``runs/``.
        job: the job's name.
        summary: one line about it.
        documented: the lines of the instructions that it stands for.
        differs: what is different from them, and why.
        config: a JSON with upstream's keys; empty without one.
        script: upstream's program; empty where the job's own program runs.
        arguments: options of the script, or of ``prepare``, by name.
        before: recipes that are run first, unless what they make is there.
        produces: the folder, or the prefix of a corpus, that it makes in the workspace; empty
            where nothing needs it.
        cards: how many it takes, on each node.
        nodes: how many machines.
        model: the model's name in ``models/``; fetched first where it is not there.
        dtype: what is computed in.
        advice: when to take this recipe, or the one to take in its place; empty if none.
        benchmark: whether there is a variant ``NAME-benchmark`` that measures.
        instead: the recipe to use where this one cannot work; empty if none.
    """

    name: str
    job: str
    summary: str
    documented: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    config: str = ""
    script: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    produces: str = ""
    cards: int = 1
    nodes: int = 1
    model: str = ""
    dtype: str = ""
    advice: str = ""
    benchmark: bool = False
    instead: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as a value that JSON can hold."""
        return {
            **{key: getattr(self, key) for key in self.__dataclass_fields__},
            "documented": list(self.documented),
            "differs": list(self.differs),
            "arguments": dict(self.arguments),
            "before": list(self.before),
        }


@dataclass(frozen=True)
class Line:
    """A line of the instructions that is no job.

    Args:
        documented: the line.
        ours: what does the same here.
        differs: what is different, and why; may be empty.
    """

    documented: str
    ours: str
    differs: str = ""


def load(root: Path, backend: str) -> dict[str, Recipe]:
    """Return a platform's recipes by name, the benchmarks among them.

    Args:
        root: the repository's root.
        backend: the platform.

    Raises:
        RequestError: the file is wrong (every fault, with its line), or the
            platform has no recipes.
    """
    path, table = _read(root, backend)
    problems: list[Problem] = []
    found: dict[str, Recipe] = {}
    for name, entry in table.items():
        if name in _TABLES:
            continue
        faults = _faults(path, name, entry)
        problems += faults
        if not faults:
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()
            }
            found[name] = Recipe(name=name, **values)
    problems += _wrong_references(path, table, found)
    problems += [fault for entry in table.get("line", []) for fault in _line_faults(path, entry)]
    problems += _include_faults(path, table)
    if problems:
        raise RequestError(problems)
    recipes = {each.name: each for recipe in found.values() for each in _with_benchmark(recipe)}
    if include := table.get("include"):
        included = _included(root, **include)
        recipes |= {name: recipe for name, recipe in included.items() if name not in recipes}
    return recipes


def _included(root: Path, backend: str, jobs: list[str], model: str) -> dict[str, Recipe]:
    """Return another backend's recipes of these jobs, with a model that this one can hold."""
    return {
        name: with_model(replace(recipe, instead=""), model, root)
        for name, recipe in load(root, backend).items()
        if recipe.job in jobs
    }


def with_model(recipe: Recipe, model: str, root: Path) -> Recipe:
    """Return the recipe with another model in the place of its own.

    What it reads and produces is named after the model, so that is replaced too. A
    configuration stays as it is: its values are overridden by options.

    Args:
        recipe: of any job.
        model: a name in ``models/``.
        root: the repository's root.
    """
    own = f"models/{recipe.model}"

    def renamed(value: Any) -> Any:
        is_own = isinstance(value, str) and re.fullmatch(rf"{re.escape(own)}(-.*)?", value)
        return f"models/{model}{value.removeprefix(own)}" if is_own else value

    arguments = {key: renamed(value) for key, value in recipe.arguments.items()}
    if recipe.config:
        config = json.loads((root / recipe.config).read_text(encoding="utf-8"))
        overrides = {k: renamed(v) for k, v in config.items() if renamed(v) != v}
        arguments = overrides | arguments
    return replace(recipe, model=model, arguments=arguments, produces=renamed(recipe.produces))


def lines(root: Path, backend: str) -> tuple[Line, ...]:
    """Return the lines of the platform's instructions that are no jobs."""
    load(root, backend)
    return tuple(Line(**entry) for entry in _read(root, backend)[1].get("line", []))


def find(name: str, root: Path, backend: str, job: str = "") -> Recipe:
    """Return the recipe of that name.

    Args:
        name: of the recipe.
        root: the repository's root.
        backend: the platform.
        job: the job that it has to be of; empty for any.

    Raises:
        RequestError: there is none, or it is another job's.
    """
    known = load(root, backend)
    if name not in known:
        own = [recipe.name for recipe in known.values() if job in ("", recipe.job)]
        hint = did_you_mean(name, own) or did_you_mean(name, known)
        listed = f"recipes of {job}: {', '.join(own)}" if job and own else ""
        listed = listed or f"./inv recipes --backend {backend} lists them"
        for other in backends(root):
            if name in load(root, other):
                hint, listed = f"./inv run {name} --backend {other}", ""
        raise RequestError(
            f'{backend} has no recipe "{name}"', where="--recipe", remedy=f"{hint} {listed}".strip()
        )
    found = known[name]
    if job and found.job != job:
        raise RequestError(
            f'"{name}" is a recipe of {found.job}, not of {job}',
            where="--recipe",
            remedy=f"./inv {found.job} --backend {backend} --recipe {name}",
        )
    return found


def backends(root: Path) -> list[str]:
    """Return the backends that have recipes of their own."""
    return sorted(file.stem for file in (root / FOLDER).glob("*.toml"))


def steps(recipe: Recipe, known: Mapping[str, Recipe]) -> list[Recipe]:
    """Return the recipes to run before one, in order, each once."""
    found: dict[str, Recipe] = {}
    for name in recipe.before:
        for each in (*steps(known[name], known), known[name]):
            found.setdefault(each.name, each)
    return list(found.values())


def is_whole(recipe: Recipe, workspace: Path) -> bool:
    """Whether what a recipe makes is there, and not left by a run that was cut off.

    A folder that no run of ours has made is taken for whole if it has a model in it. What
    ``prepare`` makes never is: the job keeps a corpus that is whole, and only it can tell
    whether that is of the same text and tokenizer.
    """
    folder = workspace / recipe.produces
    if not recipe.produces or not (folder / "config.json").is_file():
        return False
    if not has_weights(folder):
        return False
    run = workspace / "runs" / recipe.name
    return not run.is_dir() or (run / "result.json").is_file()


def _read(root: Path, backend: str) -> tuple[Path, dict[str, Any]]:
    path = root / FOLDER / f"{backend}.toml"
    if not path.is_file() and (parent := platforms.load(backend, root).extends):
        path = root / FOLDER / f"{parent}.toml"
    if not path.is_file():
        raise RequestError(
            f"{backend} has no recipes",
            where=str(root / FOLDER),
            remedy=f"--backend with one of: {', '.join(backends(root))}",
        )
    return path, toml.read(path)


def _with_benchmark(recipe: Recipe) -> list[Recipe]:
    if not recipe.benchmark:
        return [recipe]
    measured = replace(
        recipe,
        name=recipe.name + BENCHMARK,
        summary=f"{recipe.summary}, measured: batch 1, 3072 tokens in, 1024 out",
        arguments={**recipe.arguments, **_BENCHMARK_ARGUMENTS},
        benchmark=False,
        instead=recipe.instead + BENCHMARK if recipe.instead else "",
        documented=(),
        differs=(),
    )
    return [recipe, measured]


# Tables of a file that are not recipes.
_TABLES = ("include", "line")

_REMEDY = "configs/recipes/ has whole ones to copy"
_KEYS = toml.kinds_of(Recipe, without=("name",)) | dict.fromkeys(
    ("cards", "nodes"), Kind("a whole number above 0", int, least=1)
)


def _faults(path: Path, name: str, entry: Any) -> list[Problem]:
    if not isinstance(entry, dict):
        return [Problem(f'"{name}" is no recipe', toml.line_of(path, name), f"write [{name}]")]
    place = toml.heading_of(path, name)
    problems = toml.faults(path, entry, _KEYS, _REMEDY, name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        remedy = "small letters, digits and -: it names a folder in runs/"
        problems.append(Problem(f'"{name}" cannot name a recipe', place, remedy))
    problems += [
        Problem(f'[{name}] "{key}" is missing', place, _REMEDY)
        for key in ("job", "summary") - entry.keys()
    ]
    job = entry.get("job")
    if isinstance(job, str) and job not in _JOBS:
        hint = did_you_mean(job, _JOBS) or f"jobs: {', '.join(_JOBS)}"
        what = f'[{name}] there are no recipes of a job "{job}"'
        problems.append(Problem(what, toml.line_of(path, "job", name), hint))
    if job == "prepare":
        problems += [
            Problem(f'[{name}] "{key}" is missing', place, "prepare cannot do without it")
            for key in ("arguments", "model", "produces")
            if not entry.get(key)
        ]
    elif not entry.get("config") and not entry.get("script"):
        problems.append(
            Problem(
                f'[{name}] needs a "config", a "script" or both',
                place,
                _REMEDY,
            )
        )
    return problems


def _wrong_references(
    path: Path, table: Mapping[str, Any], found: Mapping[str, Recipe]
) -> list[Problem]:
    problems = []
    for recipe in found.values():
        named = [("before", name) for name in recipe.before]
        named += [("instead", recipe.instead)] if recipe.instead else []
        for key, name in named:
            where = toml.line_of(path, key, recipe.name)
            if name not in table:
                hint = did_you_mean(name, found)
                what = f'[{recipe.name}] "{key}" names no recipe: "{name}"'
                problems.append(Problem(what, where, hint or "./inv recipes lists them"))
            elif key == "before" and name in found and not found[name].produces:
                what = f'[{recipe.name}] "{name}" goes before it and says not what it makes'
                problems.append(Problem(what, where, f'add "produces" to [{name}]'))
        problems += _instead_faults(path, recipe, found)
        if not problems and _is_circle(recipe.name, found):
            what = f"[{recipe.name}] would have to be run before itself"
            problems.append(
                Problem(
                    what,
                    toml.line_of(path, "before", recipe.name),
                    'take it out of the "before" of one of them',
                )
            )
        config = path.parents[2] / recipe.config
        if recipe.config and not config.is_file():
            what = f"[{recipe.name}] there is no {recipe.config}"
            problems.append(
                Problem(
                    what,
                    toml.line_of(path, "config", recipe.name),
                    "name a file of this checkout, from its root",
                )
            )
    return problems


def _instead_faults(path: Path, recipe: Recipe, found: Mapping[str, Recipe]) -> list[Problem]:
    other = found.get(recipe.instead)
    if other and recipe.benchmark and not other.benchmark:
        what = f'[{recipe.name}] has a benchmark, but "{other.name}", its replacement, has none'
        where = toml.line_of(path, "instead", recipe.name)
        return [Problem(what, where, f'"benchmark = true" in [{other.name}]')]
    return []


def _is_circle(name: str, found: Mapping[str, Recipe]) -> bool:
    seen: set[str] = set()
    left = list(found[name].before)
    while left:
        each = left.pop()
        if each == name:
            return True
        if each not in seen and each in found:
            seen.add(each)
            left += found[each].before
    return False


def _include_faults(path: Path, table: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with ``[include]``: recipes taken over from another backend."""
    if "include" not in table:
        return []
    where = toml.heading_of(path, "include")
    include = table["include"]
    kinds = {"backend": STRING, "jobs": STRINGS, "model": STRING}
    if not isinstance(include, dict):
        return [Problem('"include" must be a table', where, "write [include]")]
    remedy = "configs/recipes/cpu.toml has a complete one"
    # A key that is left out is faulty too.
    return toml.faults(path, {**dict.fromkeys(kinds), **include}, kinds, remedy, "include")


def _line_faults(path: Path, entry: Any) -> list[Problem]:
    where = toml.heading_of(path, "line")
    if not isinstance(entry, dict):
        return [Problem('"line" must be a list of tables', where, "write [[line]]")]
    problems = toml.unknown_keys(path, entry, ("documented", "ours", "differs"))
    for key in ("documented", "ours"):
        if not isinstance(entry.get(key), str):
            said = f'a [[line]] needs "{key}", a string'
            problems.append(Problem(said, where, _REMEDY))
    return problems
