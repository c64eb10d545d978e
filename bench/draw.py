"""Draw a benchmark's JSON document as a picture for docs/performance.md.

``python draw.py infer|serve|soak < document.json > picture.svg``

It runs in the training image (``report.publish``). The same document gives the same bytes.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display
from matplotlib import pyplot

_BLUE, _LIGHT, _ORANGE, _GREY = "#1f5f99", "#8db8dd", "#d9760a", "#666666"
_SIDES = {"dynamic": _BLUE, "static": _LIGHT, "transformers": _ORANGE}
_BAR = 0.27  # of the distance between two groups


def infer(document: dict[str, Any]) -> pyplot.Figure:
    """Draw the decoding speed in tokens/s, a panel per batch size, with the memory's limit."""
    speeds = document["speed"]
    limit = speeds["bandwidth_gb_per_second"] * 1e9 / speeds["weights_bytes"]
    batches = sorted({row["batch"] for row in speeds["rows"]})
    figure, panels = pyplot.subplots(1, len(batches), figsize=(9, 3.8), layout="constrained")
    for axes, batch in zip(panels, batches, strict=True):
        rows = [row for row in speeds["rows"] if row["batch"] == batch]
        for place, (side, colour) in enumerate(_SIDES.items()):
            rates = [batch / row["sides"][side]["step_seconds"] for row in rows]
            at = [group + (place - 1) * _BAR for group in range(len(rows))]
            bars = axes.bar(at, rates, _BAR, color=colour, label=side)
            axes.bar_label(bars, fmt="%.0f", fontsize=8, color=_GREY)
        axes.axhline(batch * limit, color=_GREY, linestyle=":", linewidth=1.2)
        axes.annotate(
            "what the memory allows, weights alone",
            (0.99, batch * limit),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=_GREY,
        )
        axes.set_xticks(range(len(rows)), [str(row["source"]) for row in rows])
        axes.set(title=f"batch {batch}", xlabel="tokens of the prompt", ylabel="tokens/s")
        axes.set_ylim(top=batch * limit * 1.12)
        _plain(axes)
    _legend(figure, panels[0])
    return figure


def serve(document: dict[str, Any]) -> pyplot.Figure:
    """Draw the distribution of waiting times, for one client and for many."""
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    many = f"{document['clients']} clients"
    for axes, key, title in (
        (panels[0], "every_first", "to the first token"),
        (panels[1], "every_whole", "to the end of the answer"),
    ):
        for who, name, colour in (("one", "1 client", _ORANGE), ("many", many, _BLUE)):
            values = document[who][key]
            parts = [(place + 1) / len(values) for place in range(len(values))]
            axes.step(values, parts, where="post", color=colour, linewidth=1.8, label=name)
        for part in (0.5, 0.95, 0.99):
            axes.axhline(part, color="#bbbbbb", linestyle=":", linewidth=0.8)
        axes.set(title=title, xlabel="seconds", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.95, 0.99], ["0", "25%", "50%", "75%", "95%", "99%"])
        axes.tick_params(axis="y", labelsize=7)
        _plain(axes)
    panels[0].set_ylabel("requests")
    _legend(figure, panels[0])
    return figure


def soak(document: dict[str, Any]) -> pyplot.Figure:
    """Draw the server's memory and the number of answered requests over time."""
    samples = document["samples"]
    minutes = [sample["seconds"] / 60 for sample in samples]
    figure, axes = pyplot.subplots(figsize=(9, 3.4), layout="constrained")
    memory = [sample["memory_mib"] for sample in samples]
    axes.plot(minutes, memory, color=_BLUE, linewidth=1.8, label="resident memory")
    axes.set(xlabel="minutes", ylabel="resident memory, MiB")
    axes.set_ylim(0, max(memory) * 1.25)
    axes.margins(x=0)
    _plain(axes)
    other = axes.twinx()
    requests = [sample["requests"] for sample in samples]
    other.plot(minutes, requests, color=_ORANGE, linewidth=1.2, label="requests so far")
    other.set(ylabel="requests so far")
    other.set_ylim(0, max(requests) * 1.25)
    other.spines[["top"]].set_visible(False)
    other.tick_params(colors=_GREY)
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, loc="upper left")
    return figure


def _legend(figure: pyplot.Figure, axes: pyplot.Axes) -> None:
    lines, labels = axes.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=len(lines), frameon=False)


def _plain(axes: pyplot.Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_GREY)


PICTURES: dict[str, Callable[[dict[str, Any]], pyplot.Figure]] = {
    "infer": infer,
    "serve": serve,
    "soak": soak,
}


def main(argv: Sequence[str]) -> None:
    """Draw the document of standard input to standard output."""
    # One font, whatever the reader has; no date, no random names, and no addresses: a page
    # that shows it loads nothing from elsewhere.
    matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "bench", "font.size": 10})
    figure = PICTURES[argv[0]](json.load(sys.stdin))
    image = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(image, format="svg", metadata=nothing)
    sys.stdout.write(image.getvalue().decode().partition("<!DOCTYPE")[2].partition(">\n")[2])


if __name__ == "__main__":
    main(sys.argv[1:])
