"""Statistics and a plot of the lengths of documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddle_stacks.jobs import corpus
from paddle_stacks.jobs.files import replacing_file

__all__ = ["draw", "histogram", "lines"]

_BAR = 40  # characters of the longest bar


def histogram(sizes: Any) -> list[tuple[int, int]]:
    """Return, for each power of two, how many documents have at least that many tokens.

    Args:
        sizes: tokens of each document, int32 [documents].

    Returns:
        Pairs of the power and the number of documents from it to the next one, without
        the powers below the shortest and above the longest document.
    """
    if not len(sizes):
        return []
    exponents = np.frexp(np.maximum(sizes, 1).astype(np.float64))[1] - 1
    counts = np.bincount(exponents)
    first = int(exponents.min())
    return [(1 << power, int(counts[power])) for power in range(first, len(counts))]


def lines(sizes: Any, split: str) -> list[str]:
    """Return what a person wants to know of a corpus, a line each.

    Args:
        sizes: tokens of each document, int32 [documents].
        split: shares of training, evaluation and test.
    """
    total = int(sizes.sum(dtype=np.int64))
    rows = [f"documents {len(sizes)}   tokens {total}"]
    if not len(sizes):
        return rows
    low, median, high = (int(v) for v in np.percentile(sizes, (5, 50, 95)))
    rows.append(
        f"tokens of a document: shortest {sizes.min()}, 5% {low}, median {median}, "
        f"95% {high}, longest {sizes.max()}, mean {total / len(sizes):.1f}"
    )
    bins = histogram(sizes)
    most = max(count for _, count in bins)
    for start, count in bins:
        bar = "█" * max(round(_BAR * count / most), 1 if count else 0)
        rows.append(f"{start:>9} to {2 * start - 1:<9} {count:>10}  {bar}".rstrip())
    bounds = corpus.bounds(split, len(sizes))
    rows.append(f"split {split}:")
    for name, start, end in zip(
        ("training", "evaluation", "test"), bounds, bounds[1:], strict=False
    ):
        tokens = int(sizes[start:end].sum(dtype=np.int64))
        rows.append(f"  {name:<10} documents {start} to {end} ({end - start}), {tokens} tokens")
    return rows


def draw(corpora: Sequence[tuple[str, Any]], path: Path) -> None:
    """Plot the distribution of document lengths.

    Args:
        corpora: each a name and the tokens of its documents, int32 [documents].
        path: a PNG file; replaced atomically.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    for name, sizes in corpora:
        bins = histogram(sizes)
        if bins:
            edges = [start for start, _ in bins] + [2 * bins[-1][0]]
            axes.stairs(
                [count for _, count in bins],
                edges,
                label=f"{name} ({len(sizes)})",
                fill=len(corpora) == 1,
                linewidth=1.8,
            )
    axes.set_xscale("log", base=2)
    axes.set(xlabel="tokens of a document", ylabel="documents")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing_file(path, "wb") as stream:
        figure.savefig(stream, format="png")
    pyplot.close(figure)
