"""The task that lists the recipes of a platform."""

from __future__ import annotations

import json as json_module
from typing import Any

from paddle_stacks.cli import ROOT, task


@task(
    help={
        "backend": "The platform: a file in configs/recipes/ (default: the setting, else dcu).",
        "json": "Print one JSON document.",
        "markdown": "Print the page docs/recipes.md.",
    }
)
def recipes(
    context: Any, backend: str | None = None, json: bool = False, markdown: bool = False
) -> None:
    """List the commands of a platform's instructions that are ready to run."""
    from paddle_stacks import recipe_page, settings
    from paddle_stacks import recipes as found

    chosen = settings.load(ROOT, {"backend": backend}).backend
    # Without a platform it is the DCU's, which is the one with instructions.
    name = chosen if backend or chosen != "cpu" else "dcu"
    known = found.load(ROOT, name)
    if json:
        values = [recipe.to_json() for recipe in known.values()]
        print(json_module.dumps(values, indent=2, ensure_ascii=False))
    elif markdown:
        beginning = (ROOT / found.FOLDER / f"{name}.md").read_text(encoding="utf-8")
        lines = found.lines(ROOT, name)
        print(recipe_page.as_markdown(beginning, known, lines, name), end="")
    else:
        recipe_page.show(known, name)
