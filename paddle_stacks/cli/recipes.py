"""The task that lists the recipes of a backend."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from typing import Any

from paddle_stacks.cli import ROOT, task

__all__ = ["recipes"]


@task(
    help={
        "backend": "The backend (default: the setting, else cpu).",
        "json": "Print one JSON document.",
        "markdown": "Print the page docs/recipes.md.",
    }
)
def recipes(
    context: Any, backend: str | None = None, json: bool = False, markdown: bool = False
) -> None:
    """List the recipes of the backend: jobs that are ready to run."""
    from paddle_stacks import recipe_needs, recipe_page, settings
    from paddle_stacks import recipes as tables
    from paddle_stacks.plan import backend as backends

    name = settings.load(ROOT, {"backend": backend}).backend
    entries = tables.load(ROOT, name)
    # What a job needs of a CPU's memory and disk is small and checked before it starts.
    needs = recipe_needs.all_of(entries, ROOT) if backends.load(name, ROOT).devices else {}
    if json:
        values = [
            recipe.to_json() | ({"needs": asdict(needs[key])} if key in needs else {})
            for key, recipe in entries.items()
        ]
        print(json_module.dumps(values, indent=2, ensure_ascii=False))
    elif markdown:
        introduction = (ROOT / tables.FOLDER / f"{name}.md").read_text(encoding="utf-8")
        lines = tables.lines(ROOT, name)
        print(recipe_page.as_markdown(introduction, entries, lines, name, needs), end="")
    else:
        recipe_page.show(entries, name, tables.backends(ROOT), needs)
