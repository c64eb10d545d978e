"""``loss.png``: the logged loss of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddle_stacks.jobs.files import replacing_file

__all__ = ["draw"]

_BLUE, _ORANGE, _GREY = "#1f5f99", "#d9760a", "#666666"


def draw(entries: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw training and evaluation loss over the steps.

    Args:
        entries: the lines of ``metrics.jsonl``.
        title: the run's name.
        path: a PNG file; replaced atomically.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    trained = [(e["step"], e["loss"]) for e in entries if "loss" in e]
    evaluated = [(e["step"], e["eval_loss"]) for e in entries if "eval_loss" in e]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    for points, name, style in (
        (trained, "training", {"color": _BLUE, "linewidth": 1.8}),
        (evaluated, "evaluation", {"color": _ORANGE, "linewidth": 1.4, "marker": "o"}),
    ):
        if points:
            label = f"{name} (last {points[-1][1]:.3g})"
            axes.plot(*zip(*points, strict=True), label=label, markersize=5, clip_on=False, **style)
    axes.set(title=title, xlabel="step", ylabel="loss (mean cross entropy per token)")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_GREY)
    if trained or evaluated:
        axes.legend(frameon=False)
    with replacing_file(path, "wb") as stream:
        figure.savefig(stream, format="png")
    pyplot.close(figure)
