"""Listings of recipes: a table for the terminal, and the page ``docs/recipes.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from paddle_stacks.recipe_needs import Needs
from paddle_stacks.recipes import BENCHMARK, Line, Recipe

__all__ = ["as_markdown", "show"]


def as_markdown(
    introduction: str,
    recipes: Mapping[str, Recipe],
    lines: Sequence[Line],
    backend: str,
    needs: Mapping[str, Needs] = MappingProxyType({}),
) -> str:
    """Return the page.

    Args:
        introduction: Markdown above the recipes.
        recipes: the recipes, by name.
        lines: commands of the instructions that are not jobs.
        backend: the backend's name.
        needs: the recipes' needs, by name.
    """
    text = [
        introduction,
        "## Recipes by name",
        "",
        "This section is generated from `configs/recipes/dcu.toml`: "
        "`./inv recipes --backend dcu --markdown`.",
        "",
    ]
    for recipe in recipes.values():
        if not recipe.name.endswith(BENCHMARK):
            text += [*_section(recipe, backend, needs.get(recipe.name)), ""]
    text += ["## Other commands", ""]
    for line in lines:
        ours = line.ours if line.ours.startswith("the same") else _code(line.ours)
        text += [f"* {_code(line.documented)}", f"    * here: {ours}"]
        text += [f"    * {line.deviations}"] if line.deviations else []
    return "\n".join(text) + "\n"


def _section(recipe: Recipe, backend: str, needs: Needs | None) -> list[str]:
    command = f"./inv {recipe.job} --backend {backend} --recipe {recipe.name}"
    advice = f" {_sentence(recipe.advice)}" if recipe.advice else ""
    text = [f"### {recipe.name}", "", f"{_sentence(recipe.summary)}{advice}", ""]
    if needs:
        memory = f"{needs.memory_text} GiB on each card"
        text += [f"* needs: {needs.disk_text} GB of disk, {memory}; time: {needs.time}"]
    text += [f"* documented: {_code(each)}" for each in recipe.documented]
    text += [f"* here: {_code(command)}"]
    if recipe.deviations:
        text += ["", "Differences:", "", *(f"* {each}" for each in recipe.deviations)]
    return text


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def show(
    recipes: Mapping[str, Recipe],
    backend: str,
    backends: Sequence[str],
    needs: Mapping[str, Needs] = MappingProxyType({}),
) -> None:
    """Print the recipes as a table on standard output.

    Args:
        recipes: the recipes, by name.
        backend: the one that they are for.
        backends: all that have recipes.
        needs: the recipes' needs, by name.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("recipe", "job", "cards", "model"):
        table.add_column(title, no_wrap=True, justify="right" if title == "cards" else "left")
    if needs:
        for title in ("disk, GB", "GiB per card"):
            table.add_column(title, no_wrap=True, justify="right")
        table.add_column("time", no_wrap=True)
    table.add_column("what it does, and when to take it", overflow="fold")
    for recipe in recipes.values():
        if recipe.name.endswith(BENCHMARK):
            continue
        cards = str(recipe.cards) if recipe.nodes == 1 else f"{recipe.nodes}x{recipe.cards}"
        before = f" (after {', '.join(recipe.depends_on)})" if recipe.depends_on else ""
        about = recipe.summary + before + (f"; {recipe.advice}" if recipe.advice else "")
        amounts: tuple[str, ...] = ()
        if needs:
            need = needs.get(recipe.name)
            amounts = (need.disk_text, need.memory_text, need.time) if need else ("", "", "")
        table.add_row(recipe.name, recipe.job, cards, recipe.model, *amounts, about)
    # In a pipe, each recipe stays on one line.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=400)
    console.print(table)
    if needs:
        console.print(
            "\nDisk is the model, what recipes before it produce, and checkpoints. Memory is an "
            "upper bound: every record has its maximum length. Times are of others' cards "
            "(BW1000); fetching a model takes as long as your network.",
            soft_wrap=True,
        )
    measured = [name for name in recipes if name.endswith(BENCHMARK)]
    if measured:
        console.print(f"\n{len(measured)} recipes have a variant NAME{BENCHMARK}.")
    console.print(f"Run one: ./inv run NAME --backend {backend}", soft_wrap=True)
    others = [f"./inv recipes --backend {name}" for name in backends if name != backend]
    if others:
        console.print(f"More recipes: {', '.join(others)}", soft_wrap=True)


def _code(text: str) -> str:
    return f"`{text}`"
