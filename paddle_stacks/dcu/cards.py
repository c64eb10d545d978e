"""The card types in ``configs/dcu/cards.toml``, and parsing and checking of ``--devices``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paddle_stacks import toml
from paddle_stacks.dcu.smi import Card
from paddle_stacks.errors import Problem, RequestError

__all__ = ["TABLE", "CardType", "card_types", "check_free", "find", "parse_devices"]

TABLE = Path(__file__).resolve().parents[2] / "configs" / "dcu" / "cards.toml"

_MAX_INDEX = 255  # above any real host; keeps "0-9999999999" from being expanded


@dataclass(frozen=True)
class CardType:
    """A card model.

    Args:
        name: the card series reported by ``hy-smi``.
        architecture: the compiler's target name, ``gfx928``.
        source: where this entry comes from.
        memory_mib: memory in MiB; None if unknown.
        dtypes: number formats that were run on it.
        aliases: other names of the card.
    """

    name: str
    architecture: str
    source: str
    memory_mib: int | None = None
    dtypes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@cache
def card_types() -> dict[str, CardType]:
    """Return the card types in the table, by name."""
    return {name: _card_type(name, entry) for name, entry in toml.read(TABLE).items()}


def find(name: str) -> CardType | None:
    """Return the card type with this name or alias, in any spelling, or None."""
    plain = _plain(name)
    return next(
        (c for c in card_types().values() if plain in map(_plain, (c.name, *c.aliases))),
        None,
    )


def check_free(indices: Sequence[int], cards: Sequence[Card]) -> list[Problem]:
    """Return a problem for each requested device that is missing, in use or repeated.

    Args:
        indices: the devices that a job requests.
        cards: the host's cards.
    """
    by_index = {card.index: card for card in cards}
    available = ", ".join(map(str, sorted(by_index))) or "none"
    problems: list[Problem] = []
    for index in dict.fromkeys(indices):
        if indices.count(index) > 1:
            problems.append(_repeated(index))
        if index not in by_index:
            remedy = f"choose from the available devices: {available}"
            problems.append(Problem(f"device {index} does not exist", "--devices", remedy))
        elif by_index[index].busy:
            problems.append(_in_use(by_index[index], cards))
    return problems


def parse_devices(text: str) -> tuple[int, ...]:
    """Return the indices listed by ``--devices`` (``0,1,2-5``), in the order listed.

    Raises:
        RequestError: not a list of indices and ranges, a range is reversed, or an index
            is repeated. Reports all problems at once.
    """
    indices: list[int] = []
    problems: list[Problem] = []
    for part in text.split(","):
        ends = [end.strip() for end in part.split("-")]
        if len(ends) > 2 or not all(end.isascii() and end.isdigit() for end in ends):
            index = part.strip()
            message = f'"{index}" is not a device index' if index else "a device index is missing"
            problems.append(Problem(message, f"--devices {text}", "use a list like 0,1,2-5"))
            continue
        first, last = int(ends[0]), int(ends[-1])
        if last < first:
            message = f"the range {first}-{last} is reversed"
            problems.append(Problem(message, f"--devices {text}", f"use {last}-{first}"))
        elif last > _MAX_INDEX:
            message = f"device index {last} is above the maximum, {_MAX_INDEX}"
            problems.append(Problem(message, f"--devices {text}", "list the devices: ./inv top"))
        else:
            indices += range(first, last + 1)
    problems += [_repeated(index) for index in dict.fromkeys(indices) if indices.count(index) > 1]
    if problems:
        raise RequestError(problems)
    return tuple(indices)


def _card_type(name: str, entry: dict[str, Any]) -> CardType:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return CardType(name=name, **values)


def _repeated(index: int) -> Problem:
    return Problem(f"device {index} is listed twice", "--devices", "list each device once")


def _in_use(card: Card, cards: Sequence[Card]) -> Problem:
    memory = f"{card.vram_share:.0f} % of its memory" if card.vram_share is not None else ""
    use = f"{card.use_percent:.0f} % of its compute units" if card.use_percent is not None else ""
    free = ", ".join(str(other.index) for other in cards if not other.busy) or "none"
    return Problem(
        f"device {card.index} is in use: {' and '.join(filter(None, (memory, use)))}",
        "--devices",
        f"free devices: {free}; show the processes that use it with ./inv top",
    )


def _plain(name: str) -> str:
    return name.strip().upper().replace("-", "_").replace(" ", "_")
