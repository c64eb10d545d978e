"""Recipes as a person reads them: a table on a terminal, and the page ``docs/recipes.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paddle_stacks.recipes import BENCHMARK, Line, Recipe

__all__ = ["as_markdown", "show"]


def as_markdown(
    beginning: str, known: Mapping[str, Recipe], lines: Sequence[Line], backend: str
) -> str:
    """Return the page.

    Args:
        beginning: what stands before the tables.
        known: the recipes, by name.
        lines: of the instructions, that are no jobs.
        backend: the platform.
    """
    rows = [_row("the instructions' line", "ours", "what differs, and why"), "|---|---|---|"]
    for recipe in known.values():
        if recipe.name.endswith(BENCHMARK):
            continue
        documented = "<br>".join(map(_code, recipe.documented)) or "none"
        ours = _code(f"./inv {recipe.job} --backend {backend} --recipe {recipe.name}")
        differs = "; ".join(recipe.differs) or "nothing"
        if recipe.unsupported:
            differs = f"**refused on a DCU**: {recipe.unsupported}; use {_code(recipe.instead)}"
        rows.append(_row(documented, ours, differs))
    rows += ["", "## Everything else", ""]
    rows += [_row("the instructions' line", "ours", "what differs, and why"), "|---|---|---|"]
    for line in lines:
        ours = line.ours if line.ours.startswith("the same") else _code(line.ours)
        rows.append(_row(_code(line.documented), ours, line.differs or "nothing"))
    return beginning + "\n" + "\n".join(rows) + "\n"


def show(known: Mapping[str, Recipe], backend: str, backends: Sequence[str]) -> None:
    """Print the recipes as a table on standard output.

    Args:
        known: the recipes, by name.
        backend: the one that they are for.
        backends: all that have recipes.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("recipe", "job", "cards", "model"):
        table.add_column(title, no_wrap=True, justify="right" if title == "cards" else "left")
    table.add_column("what it does", overflow="fold")
    for recipe in known.values():
        if recipe.name.endswith(BENCHMARK):
            continue
        cards = str(recipe.cards) if recipe.nodes == 1 else f"{recipe.nodes}x{recipe.cards}"
        before = f" (after {', '.join(recipe.before)})" if recipe.before else ""
        what = recipe.summary + before
        if recipe.unsupported:
            what = f"{recipe.summary}: refused, use {recipe.instead}"
        table.add_row(recipe.name, recipe.job, cards, recipe.model, what)
    # In a pipe a line is a recipe, however long it is.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=250)
    console.print(table)
    measured = [name for name in known if name.endswith(BENCHMARK)]
    if measured:
        console.print(f"\n{len(measured)} of them have NAME{BENCHMARK} too, which measures.")
    console.print(f"Run one: ./inv run NAME --backend {backend}", soft_wrap=True)
    others = [f"./inv recipes --backend {name}" for name in backends if name != backend]
    if others:
        console.print(f"More recipes: {', '.join(others)}", soft_wrap=True)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`"
