"""Options of upstream's programs, and combinations that are known to fail.

They fail in upstream's program too, most of them after the model has been loaded on every
device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_stacks.errors import Problem
from paddle_stacks.jobs import deprecated_flags, json_files, workspace
from paddle_stacks.jobs.layout import Layout
from paddle_stacks.jobs.schema.reading import read

if TYPE_CHECKING:
    from paddle_stacks.jobs.options import UpstreamOptions

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
        script: the script, as on the command line.
        values: the options by name; the command line overrides the configuration.
        config: the JSON configuration, the first argument; None for none.
        places: the place of each value, for messages.
    """

    script: str
    values: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    places: Mapping[str, str] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """Return the place of an option, or the script."""
        return self.places.get(key, self.script)

    def on(self, key: str) -> bool:
        """Return whether an option is true."""
        return self.values.get(key) in (True, 1) or self.text(key) in _TRUE

    def text(self, key: str) -> str:
        """Return an option's value as lower-case text; empty if it is not set."""
        value = self.values.get(key)
        return "" if value is None else str(value).lower()

    def number(self, key: str, default: int) -> int:
        """Return an option's value as an integer; the default if it is none."""
        try:
            return int(self.values.get(key, default))
        except (TypeError, ValueError):
            return default


def options(script: str, words: Sequence[str], find: Callable[[str], Path | None]) -> Options:
    """Return the options of a script, as upstream's own parser reads them.

    Args:
        script: the script, as on the command line.
        words: the words after it.
        find: returns the file of a configuration by its name, or None.

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
    options: Options,
    words: Sequence[str],
    *,
    world: int,
    declares: Callable[[str], bool] = lambda _: True,
) -> list[Problem]:
    """Return the problems of a run.

    Args:
        options: its options.
        words: its command line, without the script.
        world: number of processes on all nodes.
        declares: returns whether the script has an option of this name.
    """
    problems = deprecated_flags.flag_problems(words, options.script, declares=declares)
    if options.script.endswith(PREDICT):
        if "dtype" not in options.values and "--help" not in words:
            message = "--dtype is required by upstream's program"
            problems.append(Problem(message, options.script, "add --dtype float16"))
        return problems
    return [*problems, *_generation(options), *_saving(options), *layout_faults(options, world)]


def layout_faults(options: Options, world: int) -> list[Problem]:
    """Return why a layout is not possible with a number of processes."""
    layout = Layout.of(options, world)
    parts = [
        f"{key.replace('_parallel_degree', '').replace('sep', 'sequence')} {options.number(key, 1)}"
        for key in (
            "tensor_parallel_degree",
            "pipeline_parallel_degree",
            "sep_parallel_degree",
            "context_parallel_degree",
            "sharding_parallel_degree",
        )
        if options.number(key, 1) > 1
    ]
    degrees = " x ".join(parts)
    key = "pipeline_parallel_degree" if layout.pipeline > 1 else "tensor_parallel_degree"
    if world < layout.least:
        message = f"{degrees} requires {layout.least} devices, got {world}"
        remedy = f"--ranks {layout.least}; on the host --devices 0-{layout.least - 1}"
        return [Problem(message, options.where(key), remedy)]
    if world % layout.least:
        message = f"{world} devices cannot be divided into groups of {layout.least} ({degrees})"
        down = world - world % layout.least
        remedy = f"use {down} devices, or degrees whose product divides {world}"
        return [Problem(message, options.where(key), remedy)]
    return []


def run_folder(options: UpstreamOptions) -> Path:
    """Return the folder of a run's logs, relative to the workspace.

    Args:
        options: of ``upstream``.

    Raises:
        RequestError: the name cannot be a folder's.
    """
    words = options.arguments
    source = words[0] if words and words[0].endswith(".json") else options.script
    return workspace.run_folder(options.name or Path(source).stem, Path(source))


def wants_bf16(options: Options) -> str:
    """Return the option that sets bfloat16; empty for none."""
    if options.on("bf16"):
        return "bf16"
    return "dtype" if options.text("dtype") in ("bfloat16", "bf16") else ""


def _generation(options: Options) -> list[Problem]:
    """Return the problems of evaluation by generation."""
    if not options.on("eval_with_do_generation"):
        return []
    key, problems = "eval_with_do_generation", []
    evaluates = options.on("do_eval") or options.text("evaluation_strategy") in ("steps", "epoch")
    stages = options.number("pipeline_parallel_degree", 1)
    if stages > 1 and evaluates:
        message = f'"{key}" cannot be combined with "pipeline_parallel_degree" {stages}'
        problems.append(Problem(message, options.where(key), f'set "{key}" to false'))
    metric = options.text("metric_for_best_model").removeprefix("eval_")
    if options.on("load_best_model_at_end") and metric == "accuracy":
        message = (
            '"load_best_model_at_end" requires "accuracy", which an evaluation by generation does '
            "not measure: upstream fails with KeyError 'eval_accuracy' at the first checkpoint"
        )
        problems.append(Problem(message, options.where(key), f'set "{key}" to false'))
    return problems


def _saving(options: Options) -> list[Problem]:
    """Return a problem if checkpoints are saved asynchronously (PaddleNLP#9274, PaddleNLP#9275)."""
    key = "unified_checkpoint_config"
    if "async_save" not in options.text(key) and not options.on("use_async_save"):
        return []
    key = key if "async_save" in options.text(key) else "use_async_save"
    message = f'"{key}" saves asynchronously: training waits forever if the saving process dies'
    remedy = 'set "use_async_save" to false'
    if key == "unified_checkpoint_config":
        rest = " ".join(word for word in options.text(key).split() if word != "async_save")
        remedy = f'set "{key}" to "{rest}"'
    return [Problem(message, options.where(key), remedy)]


def _pairs(words: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the options of a command line; those without a value are true."""
    pairs: list[tuple[str, Any]] = []
    for index, word in enumerate(words):
        if not word.startswith("--") or len(word) < 3:
            continue
        name, equals, value = word[2:].partition("=")
        following = words[index + 1] if index + 1 < len(words) else ""
        if not equals:
            # A negative number is a value, although it looks like an option.
            is_value = bool(following) and (
                not following.startswith("-") or following[1:2].isdigit()
            )
            value = following if is_value else "true"
        pairs.append((name, _value(value)))
    return pairs


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
