"""Recipes: jobs with all options set, most of them commands of a vendor's instructions.

Those of a backend are in ``configs/recipes/<backend>.toml``.
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

# The jobs that can have recipes; the last four can run one of upstream's scripts.
_JOBS = ("prepare", "finetune", "pretrain", "quantize", "export", "infer")


@dataclass(frozen=True)
class Recipe:
    """A job with all options set.

    Args:
        name: name of the recipe and of its folder in ``runs/``.
        job: name of the job.
        summary: one line about it.
        documented: the commands of the instructions that it replaces.
        deviations: differences from these commands, with reasons.
        config: a JSON configuration with upstream's keys; empty for none.
        script: upstream's program; empty for the job's own program.
        arguments: options of the script, or of ``prepare``, by name.
        depends_on: recipes that run first, unless their output exists.
        produces: the folder, or the prefix of a corpus, that it writes in the workspace; empty
            if no other recipe needs it.
        cards: number of devices on each node.
        nodes: number of nodes.
        model: name of the model in ``models/``, which is fetched first if it is missing.
        dtype: type of computation.
        advice: when to use this recipe, or which one to use instead; empty for none.
        benchmark: whether a variant ``NAME-benchmark`` measures speed.
        fallback: the recipe to use if this one is rejected; empty for none.
    """

    name: str
    job: str
    summary: str
    documented: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    config: str = ""
    script: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    produces: str = ""
    cards: int = 1
    nodes: int = 1
    model: str = ""
    dtype: str = ""
    advice: str = ""
    benchmark: bool = False
    fallback: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON-serializable values."""
        return {
            **{key: getattr(self, key) for key in self.__dataclass_fields__},
            "documented": list(self.documented),
            "deviations": list(self.deviations),
            "arguments": dict(self.arguments),
            "depends_on": list(self.depends_on),
        }


@dataclass(frozen=True)
class Line:
    """A command of the instructions that is not a job.

    Args:
        documented: the command.
        ours: the corresponding command of this project.
        deviations: differences, with reasons; may be empty.
    """

    documented: str
    ours: str
    deviations: str = ""


def load(root: Path, backend: str) -> dict[str, Recipe]:
    """Return a backend's recipes by name, including the benchmarks.

    Args:
        root: the repository's root.
        backend: name of the backend.

    Raises:
        RequestError: the backend has no recipes, or their file is wrong. Reports every fault
            with its line.
    """
    path, table = _read(root, backend)
    problems: list[Problem] = []
    recipes: dict[str, Recipe] = {}
    for name, entry in table.items():
        if name in _TABLES:
            continue
        faults = _faults(path, name, entry)
        problems += faults
        if not faults:
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()
            }
            recipes[name] = Recipe(name=name, **values)
    problems += _reference_faults(path, table, recipes)
    problems += [fault for entry in table.get("line", []) for fault in _line_faults(path, entry)]
    problems += _include_faults(path, table)
    if problems:
        raise RequestError(problems)
    recipes = {each.name: each for recipe in recipes.values() for each in _with_benchmark(recipe)}
    if include := table.get("include"):
        # The backend's own come first, and replace those of the same name.
        return recipes | _included(root, **include) | recipes
    return recipes


def _included(root: Path, backend: str, jobs: list[str], model: str) -> dict[str, Recipe]:
    """Return another backend's recipes of these jobs, with another model."""
    return {
        name: with_model(replace(recipe, fallback=""), model, root)
        for name, recipe in load(root, backend).items()
        if recipe.job in jobs
    }


def with_model(recipe: Recipe, model: str, root: Path) -> Recipe:
    """Return the recipe with another model.

    Its inputs and outputs are named after the model and change too. The values of its
    configuration are overridden by options.

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
    """Return the commands of the backend's instructions that are not jobs."""
    load(root, backend)
    return tuple(Line(**entry) for entry in _read(root, backend)[1].get("line", []))


def find(name: str, root: Path, backend: str, job: str = "") -> Recipe:
    """Return the recipe of that name.

    Args:
        name: name of the recipe.
        root: the repository's root.
        backend: name of the backend.
        job: name of the job that it must belong to; empty for any.

    Raises:
        RequestError: the recipe does not exist or belongs to another job.
    """
    recipes = load(root, backend)
    if name not in recipes:
        own = [recipe.name for recipe in recipes.values() if job in ("", recipe.job)]
        hint = did_you_mean(name, own) or did_you_mean(name, recipes)
        listed = f"recipes of {job}: {', '.join(own)}" if job and own else ""
        listed = listed or f"./inv recipes --backend {backend} lists them"
        for other in backends(root):
            if name in load(root, other):
                hint, listed = f"./inv run {name} --backend {other}", ""
        raise RequestError(
            f'{backend} has no recipe "{name}"', where="--recipe", remedy=f"{hint} {listed}".strip()
        )
    recipe = recipes[name]
    if job and recipe.job != job:
        raise RequestError(
            f'"{name}" is a recipe of {recipe.job}, not of {job}',
            where="--recipe",
            remedy=f"./inv {recipe.job} --backend {backend} --recipe {name}",
        )
    return recipe


def backends(root: Path) -> list[str]:
    """Return the backends that have recipes of their own."""
    return sorted(file.stem for file in (root / FOLDER).glob("*.toml"))


def steps(recipe: Recipe, recipes: Mapping[str, Recipe]) -> list[Recipe]:
    """Return the recipes that one depends on, in order, each once."""
    by_name: dict[str, Recipe] = {}
    for name in recipe.depends_on:
        for each in (*steps(recipes[name], recipes), recipes[name]):
            by_name.setdefault(each.name, each)
    return list(by_name.values())


def is_whole(recipe: Recipe, workspace: Path) -> bool:
    """Return whether a recipe's output exists and was not left by an interrupted run.

    A folder without a run counts as complete if it contains a model. The output of
    ``prepare`` never does: the job itself keeps a complete corpus, and only it can tell
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
    benchmark = replace(
        recipe,
        name=recipe.name + BENCHMARK,
        summary=f"{recipe.summary}, measured: batch 1, 3072 tokens in, 1024 out",
        arguments={**recipe.arguments, **_BENCHMARK_ARGUMENTS},
        benchmark=False,
        fallback=recipe.fallback + BENCHMARK if recipe.fallback else "",
        documented=(),
        deviations=(),
    )
    return [recipe, benchmark]


# Tables of a file that are not recipes.
_TABLES = ("include", "line")

_REMEDY = "copy a complete one from configs/recipes/"
_KEYS = toml.kinds_of(Recipe, without=("name",)) | dict.fromkeys(
    ("cards", "nodes"), Kind("a whole number above 0", int, least=1)
)


def _faults(path: Path, name: str, entry: Any) -> list[Problem]:
    if not isinstance(entry, dict):
        return [Problem(f'"{name}" is not a recipe', toml.line_of(path, name), f"write [{name}]")]
    place = toml.heading_of(path, name)
    problems = toml.faults(path, entry, _KEYS, _REMEDY, name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        remedy = "use lower-case letters, digits and -, because it names a folder in runs/"
        problems.append(Problem(f'"{name}" cannot name a recipe', place, remedy))
    problems += [
        Problem(f'[{name}] "{key}" is missing', place, _REMEDY)
        for key in ("job", "summary") - entry.keys()
    ]
    job = entry.get("job")
    if isinstance(job, str) and job not in _JOBS:
        hint = did_you_mean(job, _JOBS) or f"jobs: {', '.join(_JOBS)}"
        message = f'[{name}] "{job}" cannot have recipes'
        problems.append(Problem(message, toml.line_of(path, "job", name), hint))
    if job == "prepare":
        problems += [
            Problem(f'[{name}] "{key}" is missing', place, "prepare requires it")
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


def _reference_faults(
    path: Path, table: Mapping[str, Any], recipes: Mapping[str, Recipe]
) -> list[Problem]:
    problems = []
    for recipe in recipes.values():
        references = [("depends_on", name) for name in recipe.depends_on]
        references += [("fallback", recipe.fallback)] if recipe.fallback else []
        for key, name in references:
            where = toml.line_of(path, key, recipe.name)
            if name not in table:
                hint = did_you_mean(name, recipes) or "./inv recipes lists them"
                message = f'[{recipe.name}] "{key}" has an unknown recipe: "{name}"'
                problems.append(Problem(message, where, hint))
            elif key == "depends_on" and name in recipes and not recipes[name].produces:
                message = f'[{recipe.name}] depends on "{name}", which has no "produces"'
                problems.append(Problem(message, where, f'add "produces" to [{name}]'))
        problems += _fallback_faults(path, recipe, recipes)
        if not problems and _depends_on_itself(recipe.name, recipes):
            where = toml.line_of(path, "depends_on", recipe.name)
            remedy = 'remove it from the "depends_on" of one of them'
            problems.append(Problem(f"[{recipe.name}] depends on itself", where, remedy))
        config = path.parents[2] / recipe.config
        if recipe.config and not config.is_file():
            message = f"[{recipe.name}] {recipe.config} does not exist"
            where = toml.line_of(path, "config", recipe.name)
            remedy = "name a file of this checkout, relative to its root"
            problems.append(Problem(message, where, remedy))
    return problems


def _fallback_faults(path: Path, recipe: Recipe, recipes: Mapping[str, Recipe]) -> list[Problem]:
    fallback = recipes.get(recipe.fallback)
    if fallback and recipe.benchmark and not fallback.benchmark:
        message = f'[{recipe.name}] has a benchmark, but its fallback "{fallback.name}" has none'
        where = toml.line_of(path, "fallback", recipe.name)
        return [Problem(message, where, f'"benchmark = true" in [{fallback.name}]')]
    return []


def _depends_on_itself(name: str, recipes: Mapping[str, Recipe]) -> bool:
    seen: set[str] = set()
    pending = list(recipes[name].depends_on)
    while pending:
        each = pending.pop()
        if each == name:
            return True
        if each not in seen and each in recipes:
            seen.add(each)
            pending += recipes[each].depends_on
    return False


def _include_faults(path: Path, table: Mapping[str, Any]) -> list[Problem]:
    """Return the faults of ``[include]``, which adds recipes of another backend."""
    if "include" not in table:
        return []
    where = toml.heading_of(path, "include")
    include = table["include"]
    kinds = {"backend": STRING, "jobs": STRINGS, "model": STRING}
    if not isinstance(include, dict):
        return [Problem('"include" must be a table', where, "write [include]")]
    remedy = "configs/recipes/cpu.toml has a complete one"
    # A missing key is a fault too.
    return toml.faults(path, {**dict.fromkeys(kinds), **include}, kinds, remedy, "include")


def _line_faults(path: Path, entry: Any) -> list[Problem]:
    where = toml.heading_of(path, "line")
    if not isinstance(entry, dict):
        return [Problem('"line" must be a list of tables', where, "write [[line]]")]
    problems = toml.unknown_keys(path, entry, ("documented", "ours", "deviations"))
    for key in ("documented", "ours"):
        if not isinstance(entry.get(key), str):
            message = f'a [[line]] needs "{key}", a string'
            problems.append(Problem(message, where, _REMEDY))
    return problems
