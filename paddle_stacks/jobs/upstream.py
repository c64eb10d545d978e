"""What is known of upstream's programs without running them: their options, and what fails.

Everything here fails in upstream's program too, most of it after the model has been
loaded on every card.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem
from paddle_stacks.jobs import documented, json_files, workspace
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.schema.reading import read

__all__ = [
    "PREDICT",
    "Layout",
    "Options",
    "faults",
    "layout_faults",
    "options",
    "run_folder",
    "wants_bf16",
]

PREDICT = ("predictor.py", "export_model.py")
"""The endings of the names of upstream's inference programs."""


_TRUE, _FALSE = {"true", "yes", "t", "y", "1"}, {"false", "no", "f", "n", "0"}


@dataclass(frozen=True)
class Options:
    """The options of one run of a script.

    Args:
        script: as it was named.
        values: by name; what follows a configuration on the command line wins.
        config: the JSON that was named first, as it was found; None without one.
        places: where each value was written, for a message.
    """

    script: str
    values: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    places: Mapping[str, str] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """Return the place of an option, or the script."""
        return self.places.get(key, self.script)

    def on(self, key: str) -> bool:
        """Whether an option is given and true."""
        return self.values.get(key) in (True, 1) or self.text(key) in _TRUE

    def text(self, key: str) -> str:
        """Return an option's value as lower-case text; empty where it is not given."""
        value = self.values.get(key)
        return "" if value is None else str(value).lower()

    def number(self, key: str, default: int) -> int:
        """Return an option's value as a whole number; the default where it is none."""
        try:
            return int(self.values.get(key, default))
        except (TypeError, ValueError):
            return default


def options(script: str, words: Sequence[str], find: Callable[[str], Path | None]) -> Options:
    """Return the options of a script, as upstream's own parser would take them.

    Args:
        script: as it was named.
        words: what follows it.
        find: returns the file that a name of a configuration means, or None.

    Raises:
        RequestError: the configuration cannot be read.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    config = find(words[0]) if words and words[0].endswith(".json") else None
    if config is not None:
        document = read(config)
        values |= document.values
        places |= {key: document.where(key) for key in document.values}
    for name, value in _pairs(words):
        values[name] = value
        places[name] = f"--{name}"
    return Options(script, values, config, places)


def faults(
    found: Options,
    words: Sequence[str],
    *,
    world: int,
    declares: Callable[[str], bool] = lambda _: True,
) -> list[Problem]:
    """Return everything that is known to be wrong with a run.

    Args:
        found: its options.
        words: its command line, without the script.
        world: processes of all nodes.
        declares: whether the script has an option of this name.
    """
    problems = documented.flag_problems(words, found.script, declares=declares)
    if found.script.endswith(PREDICT):
        if "dtype" not in found.values and "--help" not in words:
            what = "--dtype is missing, and upstream's program fails without it"
            problems.append(Problem(what, found.script, "write --dtype float16"))
        return problems
    return [*problems, *_generation(found), *_saving(found), *layout_faults(found, world)]


def layout_faults(found: Options, world: int) -> list[Problem]:
    """Return what speaks against spreading a model over so many processes."""
    layout = Layout.of(found, world)
    parts = [
        f"{key.replace('_parallel_degree', '').replace('sep', 'sequence')} {found.number(key, 1)}"
        for key in (
            "tensor_parallel_degree",
            "pipeline_parallel_degree",
            "sep_parallel_degree",
            "context_parallel_degree",
            "sharding_parallel_degree",
        )
        if found.number(key, 1) > 1
    ]
    wanted = " x ".join(parts)
    key = "pipeline_parallel_degree" if layout.pipeline > 1 else "tensor_parallel_degree"
    if world < layout.least:
        what = f"{wanted} needs {layout.least} cards, and {_counted(world)} there"
        remedy = f"--ranks {layout.least}; on the host --devices 0-{layout.least - 1}"
        return [Problem(what, found.where(key), remedy)]
    if world % layout.least:
        what = f"{world} cards cannot be divided into groups of {layout.least} ({wanted})"
        down = world - world % layout.least
        remedy = f"use {down} cards, or degrees whose product divides {world}"
        return [Problem(what, found.where(key), remedy)]
    return []


def run_folder(arguments: argparse.Namespace) -> Path:
    """Return the folder of a run's logs, relative to the workspace.

    Args:
        arguments: of ``upstream``.

    Raises:
        RequestError: the name cannot be a folder's.
    """
    words = arguments.arguments
    of = words[0] if words and words[0].endswith(".json") else arguments.script
    return workspace.run_folder(arguments.name or Path(of).stem, Path(of))


def wants_bf16(found: Options) -> str:
    """Return the option by which a run asks for bfloat16; empty where it does not."""
    if found.on("bf16"):
        return "bf16"
    return "dtype" if found.text("dtype") in ("bfloat16", "bf16") else ""


def _generation(found: Options) -> list[Problem]:
    """Return what is wrong with evaluating by generating text."""
    if not found.on("eval_with_do_generation"):
        return []
    key, problems = "eval_with_do_generation", []
    evaluates = found.on("do_eval") or found.text("evaluation_strategy") in ("steps", "epoch")
    stages = found.number("pipeline_parallel_degree", 1)
    if stages > 1 and evaluates:
        what = (
            f'"{key}" does not go with pipeline parallelism ("pipeline_parallel_degree" {stages})'
        )
        problems.append(Problem(what, found.where(key), f'set "{key}" to false'))
    metric = found.text("metric_for_best_model").removeprefix("eval_")
    if found.on("load_best_model_at_end") and metric == "accuracy":
        what = (
            '"load_best_model_at_end" looks for "accuracy", and an evaluation that generates has '
            "rouge1, rouge2, rougel and bleu4 only: upstream ends with KeyError 'eval_accuracy' "
            "at its first checkpoint"
        )
        problems.append(Problem(what, found.where(key), f'set "{key}" to false'))
    return problems


def _saving(found: Options) -> list[Problem]:
    """Return a problem if checkpoints are saved asynchronously (PaddleNLP#9274, PaddleNLP#9275)."""
    key = "unified_checkpoint_config"
    if "async_save" not in found.text(key) and not found.on("use_async_save"):
        return []
    key = key if "async_save" in found.text(key) else "use_async_save"
    message = f'"{key}" saves asynchronously: training waits forever if the saving process dies'
    remedy = 'set "use_async_save" to false'
    if key == "unified_checkpoint_config":
        rest = " ".join(word for word in found.text(key).split() if word != "async_save")
        remedy = f'set "{key}" to "{rest}"'
    return [Problem(message, found.where(key), remedy)]


def _counted(world: int) -> str:
    return "1 is" if world == 1 else f"{world} are"


def _pairs(words: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the options on a command line; one without a value is true."""
    found: list[tuple[str, Any]] = []
    for index, word in enumerate(words):
        if not word.startswith("--") or len(word) < 3:
            continue
        name, equals, value = word[2:].partition("=")
        following = words[index + 1] if index + 1 < len(words) else ""
        if not equals:
            # A negative number is a value, though it begins like an option.
            is_value = bool(following) and (
                not following.startswith("-") or following[1:2].isdigit()
            )
            value = following if is_value else "true"
        found.append((name, _value(value)))
    return found


def _value(text: str) -> Any:
    lower = text.lower()
    if lower in _TRUE - {"1"}:
        return True
    if lower in _FALSE - {"0"}:
        return False
    try:
        return json_files.parse(text)
    except ValueError:
        return text
