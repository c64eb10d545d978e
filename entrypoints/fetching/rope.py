"""Conversion of rotary position embeddings from the keys of transformers to PaddleNLP's.

transformers 4 has ``rope_theta`` and ``rope_scaling``; transformers 5 has both in
``rope_parameters``. PaddleNLP reads ``rope_theta``, ``rope_scaling`` for Llama 3's scaling,
and ``rope_scaling_type`` with ``rope_scaling_factor`` for a linear one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from paddle_stacks.errors import Problem, RequestError

__all__ = ["paddle_rope"]

_THETA = 10000.0  # the default of transformers and of PaddleNLP
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# Dynamic scaling has no effect on texts up to max_position_embeddings, and no job supports
# longer ones.
_NUMBERS = {"default": (), "dynamic": ("factor",), "linear": ("factor",), "llama3": _LLAMA3}
_REMEDY = "choose another model: this one would compute something else here"


def paddle_rope(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return PaddleNLP's keys for the rotary embeddings of a configuration.

    Args:
        config: of transformers.
        where: its file.

    Raises:
        RequestError: PaddleNLP does not support them, or the keys contradict each other.
    """
    scaling = _merged(config, where)
    theta = scaling.get("rope_theta", config.get("rope_theta"))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in _NUMBERS:
        raise RequestError(
            f'rope_scaling of the type "{kind}" is not supported',
            where=where,
            remedy=f"supported types: {', '.join(_NUMBERS)}; choose a model with one of them",
        )
    if kind == "llama3":
        original = config.get("original_max_position_embeddings")
        length = original or config.get("max_position_embeddings") or 2048
        scaling.setdefault("original_max_position_embeddings", length)
    numbers = {key: scaling.get(key) for key in _NUMBERS[kind]}
    numbers["rope_theta"] = _THETA if theta is None else theta
    problems = [
        Problem(
            f"{key} is {value!r:.40}, expected a positive number",
            where,
            "get the model's config.json again from its source",
        )
        for key, value in numbers.items()
        if not _is_positive(value)
    ]
    if scaling.get("partial_rotary_factor") not in (None, 1, 1.0):
        factor = scaling["partial_rotary_factor"]
        fault = f"partial_rotary_factor is {factor!r}: PaddleNLP's Llama rotates whole heads"
        problems.append(Problem(fault, where, _REMEDY))
    # transformers scales the cosines by it for other types only.
    if not problems and kind == "llama3" and not _is_sound(numbers):
        fault = "low_freq_factor is not below high_freq_factor"
        problems.append(Problem(fault, where, "get the model's config.json again from its source"))
    if problems:
        raise RequestError(problems)
    rope: dict[str, Any] = {"rope_theta": numbers.pop("rope_theta")}
    if kind == "llama3":
        rope["rope_scaling"] = {"rope_type": "llama3", **numbers}
    elif kind == "linear":
        rope |= {"rope_scaling_type": "linear", "rope_scaling_factor": numbers["factor"]}
    return rope


def _merged(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return ``rope_parameters`` or ``rope_scaling``.

    Raises:
        RequestError: they differ, or are not flat objects.
    """
    parts = {}
    for key in ("rope_parameters", "rope_scaling"):
        value = config.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise RequestError(
                f"{key} is {value!r:.60}, not an object", where=where, remedy=_REMEDY
            )
        if value and any(isinstance(part, Mapping) for part in value.values()):
            raise RequestError(
                f"{key} differs between layers, which PaddleNLP's Llama does not support",
                where=where,
                remedy=_REMEDY,
            )
        if value:
            parts[key] = dict(value)
    for rope in parts.values():
        rope["rope_type"] = rope.pop("type", None) or rope.get("rope_type") or "default"
        theta = config.get("rope_theta")
        if theta is not None and rope.setdefault("rope_theta", theta) != theta:
            raise RequestError(
                f"rope_theta is {theta!r}, but {rope['rope_theta']!r} in rope_parameters",
                where=where,
                remedy="delete the wrong one, according to the model's source",
            )
    first, *others = parts.values() or ({},)
    if others and others[0] != first:
        raise RequestError(
            "rope_parameters and rope_scaling differ",
            where=where,
            remedy="delete the wrong one, according to the model's source",
        )
    return first


def _is_positive(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > 0
    )


def _is_sound(numbers: Mapping[str, Any]) -> bool:
    return bool(numbers["low_freq_factor"] < numbers["high_freq_factor"])
