"""The cards there are (``configs/dcu/cards.toml``), and those that a job asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paddle_stacks import toml
from paddle_stacks.dcu.smi import Card
from paddle_stacks.errors import Problem, RequestError

__all__ = ["TABLE", "CardType", "check_free", "find", "known", "parse_devices"]

TABLE = Path(__file__).resolve().parents[2] / "configs" / "dcu" / "cards.toml"

_HIGHEST = 255  # no host has more; it keeps "0-9999999999" from being counted out
_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8": "fp8"}


@dataclass(frozen=True)
class CardType:
    """A kind of card.

    Args:
        name: as ``hy-smi`` calls the series.
        architecture: as the compiler calls it, ``gfx928``.
        source: who says so.
        memory_mib: its memory in MiB; None where no record was seen.
        dtypes: number formats that PaddleNLP's DCU kernels work with.
        no_dtypes: those they do not work with.
        aliases: other names of it.
    """

    name: str
    architecture: str
    source: str
    memory_mib: int | None = None
    dtypes: tuple[str, ...] = ()
    no_dtypes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def supports(self, dtype: str) -> bool | None:
        """Return whether it works with a number format, None where nobody says.

        Args:
            dtype: ``fp16`` or ``float16``, ``bf16`` or ``bfloat16``, …
        """
        short = _DTYPES.get(dtype, dtype)
        return True if short in self.dtypes else False if short in self.no_dtypes else None


@cache
def known() -> dict[str, CardType]:
    """Return the kinds of card in the table, by name."""
    return {name: _card_type(name, entry) for name, entry in toml.read(TABLE).items()}


def find(name: str) -> CardType | None:
    """Return the kind of card that ``hy-smi`` or a person calls so; None if it is not known."""
    wanted = _plain(name)
    return next(
        (c for c in known().values() if wanted in map(_plain, (c.name, *c.aliases))),
        None,
    )


def check_free(indices: Sequence[int], cards: Sequence[Card]) -> list[Problem]:
    """Return what speaks against running on these cards.

    Args:
        indices: the cards that a job asks for.
        cards: those that the host has.
    """
    here = {card.index: card for card in cards}
    there = ", ".join(map(str, sorted(here))) or "none"
    problems: list[Problem] = []
    for index in dict.fromkeys(indices):
        if indices.count(index) > 1:
            problems.append(_twice(index))
        if index not in here:
            remedy = f"choose from the cards that are there: {there}"
            problems.append(Problem(f"there is no card {index}", "--devices", remedy))
        elif here[index].busy:
            problems.append(_in_use(here[index], cards))
    return problems


def parse_devices(text: str) -> tuple[int, ...]:
    """Return the cards that ``--devices`` names: ``0,1,2-5``, in the order given.

    Raises:
        RequestError: it is not a list of numbers and ranges, a range runs
            backwards, or a card is named twice; all of it at once.
    """
    found: list[int] = []
    problems: list[Problem] = []
    for part in text.split(","):
        ends = [end.strip() for end in part.split("-")]
        if len(ends) > 2 or not all(end.isascii() and end.isdigit() for end in ends):
            said = f'"{part.strip()}" is not a card' if part.strip() else "a card is missing"
            problems.append(Problem(said, f"--devices {text}", "write it like 0,1,2-5"))
            continue
        first, last = int(ends[0]), int(ends[-1])
        if last < first:
            remedy = f"write it as {last}-{first}"
            problems.append(Problem(f"{first}-{last} runs backwards", f"--devices {text}", remedy))
        elif last > _HIGHEST:
            said = f"no host has a card {last}"
            problems.append(Problem(said, f"--devices {text}", "see the cards with ./inv top"))
        else:
            found += range(first, last + 1)
    problems += [_twice(index) for index in dict.fromkeys(found) if found.count(index) > 1]
    if problems:
        raise RequestError(problems)
    return tuple(found)


def _card_type(name: str, entry: dict[str, Any]) -> CardType:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return CardType(name=name, **values)


def _twice(index: int) -> Problem:
    return Problem(f"card {index} is named twice", "--devices", "name each card once")


def _in_use(card: Card, cards: Sequence[Card]) -> Problem:
    memory = f"{card.vram_share:.0f} % of its memory" if card.vram_share is not None else ""
    use = f"{card.use_percent:.0f} % of its units" if card.use_percent is not None else ""
    free = ", ".join(str(other.index) for other in cards if not other.busy) or "none"
    return Problem(
        f"card {card.index} is in use: {' and '.join(filter(None, (memory, use)))}",
        "--devices",
        f"free cards: {free}; see who uses it with ./inv top",
    )


def _plain(name: str) -> str:
    return name.strip().upper().replace("-", "_").replace(" ", "_")
