"""Pipeline schedules: their passes and bubble, as text and as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Slot", "as_svg", "as_text", "bubble", "fraction", "slots"]

_BACKWARD = 2  # a backward pass has two matrix products for each of the forward pass


@dataclass(frozen=True)
class Slot:
    """One pass of one micro-batch through one chunk of layers.

    Args:
        stage: pipeline stage, from 0.
        chunk: chunk of the stage, from 0.
        batch: micro-batch, from 0.
        backward: whether it is the backward pass.
        start: start time, in units of a chunk's forward pass.
    """

    stage: int
    chunk: int
    batch: int
    backward: bool
    start: int

    @property
    def end(self) -> int:
        """End time, in the same units."""
        return self.start + (_BACKWARD if self.backward else 1)


def bubble(stages: int, batches: int, virtual: int = 1) -> float:
    """Return a stage's idle time relative to its computing time: ``(p - 1) / (v m)``.

    Source: Narayanan et al. 2021, arXiv:2104.04473, section 2.2.

    Args:
        stages: p.
        batches: m, micro-batches per step.
        virtual: v, chunks per stage.
    """
    return (stages - 1) / (virtual * batches)


def fraction(stages: int, batches: int, virtual: int = 1) -> float:
    """Return the idle fraction of a step: ``(p - 1) / (v m + p - 1)``.

    With one chunk per stage this is ``(p - 1) / (m + p - 1)`` of Huang et al. 2019
    (GPipe), arXiv:1811.06965, section 2.3.

    Args:
        stages: p.
        batches: m, micro-batches per step.
        virtual: v, chunks per stage.
    """
    return (stages - 1) / (virtual * batches + stages - 1)


def slots(stages: int, batches: int, virtual: int = 1) -> tuple[Slot, ...]:
    """Return the passes of all stages: 1F1B, or interleaved if there are several chunks.

    Args:
        stages: p.
        batches: m; with several chunks a multiple of p.
        virtual: v, chunks per stage.
    """
    orders = [list(_order(stage, stages, batches, virtual)) for stage in range(stages)]
    done: dict[tuple[int, int, bool], Slot] = {}
    free, at = [0] * stages, [0] * stages
    while any(at[stage] < len(orders[stage]) for stage in range(stages)):
        moved = False
        for stage in range(stages):
            while at[stage] < len(orders[stage]):
                chunk, batch, backward = orders[stage][at[stage]]
                depth = chunk * stages + stage
                ready = _ready(done, depth, batch, backward, stages * virtual)
                if ready is None:
                    break
                slot = Slot(stage, chunk, batch, backward, max(free[stage], ready))
                done[(depth, batch, backward)] = slot
                free[stage], at[stage], moved = slot.end, at[stage] + 1, True
        if not moved:
            raise ValueError(f"no schedule for {batches} micro-batches on {stages} stages")
    return tuple(done.values())


def _ready(
    done: dict[tuple[int, int, bool], Slot], depth: int, batch: int, backward: bool, chunks: int
) -> int | None:
    """Return the time at which a pass has its inputs; None if they are not scheduled yet."""
    if not backward:
        needed = (depth - 1, batch, False) if depth else None
    elif depth == chunks - 1:
        needed = (depth, batch, False)
    else:
        needed = (depth + 1, batch, True)
    if needed is None:
        return 0
    return done[needed].end if needed in done else None


def _order(stage: int, stages: int, batches: int, virtual: int) -> Iterator[tuple[int, int, bool]]:
    """Yield chunk, micro-batch and direction of a stage's passes, in order."""
    total = batches * virtual
    if virtual == 1:
        warmup = min(stages - stage - 1, total)
    else:
        warmup = min(2 * (stages - stage - 1) + (virtual - 1) * stages, total)
    for number in range(warmup):
        yield (*_nth(number, stages, virtual, False), False)
    for number in range(total - warmup):
        yield (*_nth(warmup + number, stages, virtual, False), False)
        yield (*_nth(number, stages, virtual, True), True)
    for number in range(total - warmup, total):
        yield (*_nth(number, stages, virtual, True), True)


def _nth(number: int, stages: int, virtual: int, backward: bool) -> tuple[int, int]:
    """Return the chunk and micro-batch of a stage's n-th pass in one direction."""
    if virtual == 1:
        return 0, number
    round_, place = divmod(number, stages * virtual)
    chunk, batch = divmod(place, stages)
    return virtual - 1 - chunk if backward else chunk, round_ * stages + batch


def as_text(stages: int, batches: int, virtual: int = 1) -> str:
    """Return the schedule as one line per stage; a column is half a backward pass.

    Forward passes are shown as digits (letters from the tenth micro-batch on), backward
    passes in brackets, the bubble as dots.

    Args:
        stages: p.
        batches: m.
        virtual: v, chunks per stage.
    """
    passes = slots(stages, batches, virtual)
    end = max(slot.end for slot in passes)
    lines = []
    for stage in range(stages):
        cells = ["  ."] * end
        for slot in (s for s in passes if s.stage == stage):
            mark = "0123456789abcdefghijklmnopqrstuvwxyz"[slot.batch % 36]
            mark += chr(ord("A") + slot.chunk) if virtual > 1 else ""
            if slot.backward:
                cells[slot.start], cells[slot.start + 1] = f"{'[' + mark:>3}", f"{'<<]':>3}"
            else:
                cells[slot.start] = f"{mark:>3}"
        lines.append(f"stage {stage:>2} " + "".join(cells))
    return "\n".join(lines)


def as_svg(stages: int, batches: int, virtual: int = 1) -> str:
    """Return the schedule as an SVG image.

    Args:
        stages: p.
        batches: m.
        virtual: v, chunks per stage.
    """
    passes = slots(stages, batches, virtual)
    end, wide, high, left = max(slot.end for slot in passes), 22, 26, 70
    width, height = left + end * wide + 10, (stages + 1) * high + 14
    part = fraction(stages, batches, virtual)
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="16">{stages} stages, {batches} micro-batches, {virtual} chunks per stage: '
        f"bubble {part:.1%}</text>",
    ]
    for stage in range(stages):
        top = (stage + 1) * high
        rows.append(f'<text x="8" y="{top + 16}">stage {stage}</text>')
        rows.append(
            f'<rect x="{left}" y="{top}" width="{end * wide}" height="{high - 4}" fill="#e8e8e8"/>'
        )
    for slot in passes:
        x, top = left + slot.start * wide, (slot.stage + 1) * high
        shade = "#7fb8a4" if slot.backward else "#8fb0dd"
        size = (slot.end - slot.start) * wide - 1
        name = f"{slot.batch}{chr(ord('A') + slot.chunk) if virtual > 1 else ''}"
        rows.append(
            f'<rect x="{x}" y="{top}" width="{size}" height="{high - 4}" fill="{shade}"/>'
            f'<text x="{x + 3}" y="{top + 15}">{name}</text>'
        )
    return "\n".join([*rows, "</svg>"]) + "\n"
