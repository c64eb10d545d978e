"""Listings of recipes: a table for the terminal, and the page ``docs/recipes.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paddle_stacks.recipes import BENCHMARK, Line, Recipe

__all__ = ["as_markdown", "show"]


def as_markdown(
    introduction: str, known: Mapping[str, Recipe], lines: Sequence[Line], backend: str
) -> str:
    """Return the page.

    Args:
        introduction: Markdown above the recipes.
        known: the recipes, by name.
        lines: commands of the instructions that are not jobs.
        backend: the backend's name.
    """
    text = [
        introduction,
        "## Recipes by name",
        "",
        "This section is generated from `configs/recipes/dcu.toml`: "
        "`./inv recipes --backend dcu --markdown`.",
        "",
    ]
    for recipe in known.values():
        if not recipe.name.endswith(BENCHMARK):
            text += [*_section(recipe, backend), ""]
    text += ["## Other commands", ""]
    for line in lines:
        ours = line.ours if line.ours.startswith("the same") else _code(line.ours)
        text += [f"* {_code(line.documented)}", f"    * here: {ours}"]
        text += [f"    * {line.differs}"] if line.differs else []
    return "\n".join(text) + "\n"


def _section(recipe: Recipe, backend: str) -> list[str]:
    command = f"./inv {recipe.job} --backend {backend} --recipe {recipe.name}"
    text = [f"### {recipe.name}", "", f"{_sentence(recipe.summary)}", ""]
    text += [f"* documented: {_code(each)}" for each in recipe.documented]
    text += [f"* here: {_code(command)}"]
    if recipe.differs:
        text += ["", "Differences:", "", *(f"* {each}" for each in recipe.differs)]
    return text


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


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
        table.add_row(recipe.name, recipe.job, cards, recipe.model, what)
    # In a pipe, each recipe stays on one line.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=250)
    console.print(table)
    measured = [name for name in known if name.endswith(BENCHMARK)]
    if measured:
        console.print(f"\n{len(measured)} recipes have a variant NAME{BENCHMARK}.")
    console.print(f"Run one: ./inv run NAME --backend {backend}", soft_wrap=True)
    others = [f"./inv recipes --backend {name}" for name in backends if name != backend]
    if others:
        console.print(f"More recipes: {', '.join(others)}", soft_wrap=True)


def _code(text: str) -> str:
    return f"`{text}`"
