"""The list of tasks that ``./inv`` and ``./inv --list`` print, by what a person wants to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

__all__ = ["GROUPS", "lines"]

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Start": ("setup", "doctor", "build", "demo", "recipes", "run", "plan", "explain"),
    "Data": ("fetch", "fetch-data", "data", "prepare", "inspect"),
    "Train": ("finetune", "pretrain", "quantize", "export", "upstream", "keys", "memory"),
    "Answer": ("infer", "serve"),
    "DCU": ("top", "bench", "sim-host", "sim-hosts"),
    "Several machines": (
        "cluster.submit",
        "cluster.status",
        "cluster.logs",
        "cluster.cancel",
        "cluster.render",
    ),
    "Images": (
        "shell",
        "verify",
        "lock",
        "images.show",
        "images.diff",
        "images.sbom",
        "images.scan",
        "images.licences",
        "bundle.create",
        "bundle.verify",
        "bundle.load",
    ),
    "Project": (
        "test",
        "lint",
        "docs.build",
        "docs.serve",
        "advisories.check",
        "advisories.update",
        "release",
    ),
}
"""The tasks by purpose, in the order in which a newcomer needs them."""


def lines(summaries: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the list.

    Args:
        summaries: one line per task, by its name.
    """
    width = max(map(len, summaries))
    for title, names in GROUPS.items():
        yield title
        for name in names:
            yield f"  {name:<{width}}  {summaries[name].removesuffix('.')}"
        yield ""
    yield "Options of a task: ./inv TASK --help"
