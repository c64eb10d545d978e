"""Options of upstream's inference programs for a Llama on one device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs import upstream

__all__ = ["Options", "parse"]

_DTYPES = ("float32", "float16", "bfloat16")
_STRATEGIES = ("sampling", "greedy_search")
# Unsupported options of upstream's, and their replacements.
_ABSENT = {
    "lora_path": "merge the adapter first: ./inv export --merge",
    "prefix_path": "prefix tuning requires upstream's program",
    "export_precache": "prefix tuning requires upstream's program",
    "avx_model": "omit it: the CPU operators need no such model",
    "use_fake_parameter": "quantize the model: ./inv quantize",
    "model_type": "only Llama is supported",
    "top_k": "fused models only support --top_p",
}
_IGNORED = {"use_flash_attention", "avx_type", "avx_cachekv_type"}
"""Options without effect on the result."""


@dataclass(frozen=True)
class Options:
    """The options with upstream's names and defaults.

    Args:
        model_name_or_path: the model's folder, or the static graph's.
        model_prefix: the name of the static graph's files.
        src_length: the maximum number of tokens of a prompt.
        min_length: the minimum number of tokens of an answer.
        max_length: the maximum number of tokens of an answer.
        top_p: the probability mass to sample from.
        temperature: of sampling; 0 for greedy decoding.
        repetition_penalty: of tokens in the answer.
        device: the device.
        dtype: the computation type.
        decode_strategy: ``sampling`` or ``greedy_search``.
        mode: ``dynamic`` or ``static``.
        inference_model: whether the model is the fused one.
        quant_type: ``a8w8``, or empty.
        batch_size: prompts per batch.
        benchmark: whether to measure after the answers.
        block_attn: whether to use a block cache.
        block_size: tokens per block.
        cachekv_int8_type: ``static`` or ``dynamic`` for a cache in int8, or empty.
        chat_template: ``none`` for unchanged prompts; else the model's own is used.
        data_file: prompts as JSON objects with ``src`` and ``tgt``, one per line; or empty.
        output_file: the file for the answers.
        output_path: the folder of an exported graph.
    """

    model_name_or_path: str = ""
    model_prefix: str = "model"
    src_length: int = 1024
    min_length: int = 1
    max_length: int = 1024
    top_p: float = 0.7
    temperature: float = 0.95
    repetition_penalty: float = 1.0
    device: str = "cpu"
    dtype: str = ""
    decode_strategy: str = "sampling"
    mode: str = "dynamic"
    inference_model: bool = False
    quant_type: str = ""
    batch_size: int = 1
    benchmark: bool = False
    block_attn: bool = False
    block_size: int = 64
    cachekv_int8_type: str = ""
    chat_template: str = ""
    data_file: str = ""
    output_file: str = "output.json"
    output_path: str = ""

    @property
    def model(self) -> Path:
        """The model's folder."""
        return Path(self.model_name_or_path)

    @property
    def greedy(self) -> bool:
        """Return whether decoding is greedy."""
        return self.decode_strategy == "greedy_search" or self.temperature == 0


def parse(script: str, words: Sequence[str]) -> Options:
    """Return the options on a command line.

    Args:
        script: upstream's, for messages.
        words: the arguments after it.

    Raises:
        RequestError: options are unknown or have invalid values; all faults at once.
    """
    parsed = upstream.options(script, words, lambda _: None)
    kinds = {field.name: type(field.default) for field in dataclasses.fields(Options)}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in parsed.values.items():
        where = parsed.where(name)
        if name in _IGNORED or (name in _ABSENT and value in (False, 0, "", "none", None)):
            continue
        if name in _ABSENT:
            problems.append(Problem(f"--{name} is not supported", where, _ABSENT[name]))
        elif name not in kinds:
            hint = did_you_mean(name, kinds) or "see docs/recipes.md"
            problems.append(Problem(f"{script} has no option --{name}", where, hint))
        elif (converted := _converted(value, kinds[name])) is None:
            fault = f"--{name} {value} is not {_NAMES[kinds[name]]}"
            problems.append(Problem(fault, where, f"use --{name} {_EXAMPLES[kinds[name]]}"))
        else:
            values[name] = converted
    options = Options(**values)
    problems += _faults(options)
    if problems:
        raise RequestError(problems)
    return options


_NAMES: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}
_EXAMPLES: dict[type, str] = {int: "1", float: "1.0", bool: "true"}


def _converted(value: Any, kind: type) -> Any:
    """Return a value converted to a type; None if it is invalid."""
    if kind is str:
        return "" if value in (None, False) else str(value)
    if kind is bool:
        return bool(value) if value in (True, False, 0, 1) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return kind(value) if kind is float or isinstance(value, int) else None


def _faults(options: Options) -> list[Problem]:
    choices = {
        "dtype": _DTYPES,
        "decode_strategy": _STRATEGIES,
        "mode": ("dynamic", "static"),
        "quant_type": ("", "a8w8", "a8w8c8"),
        "cachekv_int8_type": ("", "static", "dynamic"),
        "chat_template": ("", "none", options.model_name_or_path),
    }
    faults = [
        Problem(
            f"--{name} {getattr(options, name)} is not supported", f"--{name}", _one_of(allowed)
        )
        for name, allowed in choices.items()
        if getattr(options, name) not in allowed
    ]
    least = {"src_length": 1, "max_length": 1, "batch_size": 1, "block_size": 1, "min_length": 0}
    faults += [
        Problem(f"--{name} must be at least {number}", f"--{name}", f"use --{name} {number}")
        for name, number in least.items()
        if getattr(options, name) < number
    ]
    if options.temperature < 0:
        faults.append(Problem("--temperature is below 0", "--temperature", "--temperature 0.95"))
    if not 0 <= options.top_p <= 1:
        faults.append(Problem("--top_p is not between 0 and 1", "--top_p", "write --top_p 0.7"))
    return faults


def _one_of(choices: Sequence[str]) -> str:
    return f"one of: {', '.join(word for word in choices if word)}"
