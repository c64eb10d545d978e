"""Recipes as a person reads them: a table on a terminal, and the page ``docs/recipes.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paddle_stacks.recipes import BENCHMARK, Line, Recipe

__all__ = ["as_markdown", "show"]

_BEGINNING = """\
# Recipes

The commands of PaddleNLP's instructions for Llama-2-13b on Hygon DCUs (`llm/dcu/llama/README.md`), each as one command of ours. Made from `configs/recipes/{backend}.toml` by `./inv recipes --markdown`; do not edit it here.

```
./inv recipes                                             # all of them
./inv plan infer --backend dcu --recipe infer-block-fp16  # what would run, and what before it
./inv infer --backend dcu --recipe infer-block-fp16       # run it
./inv finetune --backend dcu --recipe lora-13b --set learning_rate=1e-4 --devices 3
./inv pretrain --backend dcu --recipe pretrain-pp8-nodes --master 10.0.0.1:8090 --rank 0
docker run … paddle-stacks/train:dcu upstream run_finetune.py config/llama/lora_argument.json --bf16 false --fp16 true
```

What a recipe needs from another, a static graph or a quantized checkpoint, is made first unless it is there; a model that is missing is fetched. `--set KEY=VALUE` changes an option or a key of the configuration. Every recipe of `infer` has a `-benchmark` beside it.

LoRA on one card is our own `finetune`. What is spread over several cards, and what only the DCU's operators do, is upstream's program from the source in the image. `upstream` runs any script of its `llm/` as it is: a JSON is looked for in the workspace, then in `llm/`, and relative paths start in the workspace, because the source cannot be written to. `--ranks N` goes through Paddle's launcher. On the host the script's own arguments stand behind `--`: `./inv upstream --backend dcu --ranks 2 run_finetune.py -- my.json`.

Two of upstream's configurations are named in its instructions and not known to us: `lora_argument.json` and `pretrain_pp8.json`. Ours have the values of the shell scripts that they replaced.

## Refused before anything starts

- full fine-tuning or LoRA whose weights, gradients and optimizer do not fit the cards
- bfloat16 on a K100_AI, also where a JSON asks for it, as most of upstream's own do
- `eval_with_do_generation` with `pipeline_parallel_degree`; or with `load_best_model_at_end` by accuracy
- fewer cards than the layout needs, or a number that it does not divide
- cards of an architecture that the image's operators have no code for
- options that do not exist: each is told with the right one

## Jobs
"""


def as_markdown(known: Mapping[str, Recipe], lines: Sequence[Line], backend: str) -> str:
    """Return the page.

    Args:
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
        rows.append(_row(documented, ours, "; ".join(recipe.differs) or "nothing"))
    rows += ["", "## Everything else", ""]
    rows += [_row("the instructions' line", "ours", "what differs, and why"), "|---|---|---|"]
    for line in lines:
        ours = line.ours if line.ours.startswith("the same") else _code(line.ours)
        rows.append(_row(_code(line.documented), ours, line.differs or "nothing"))
    return _BEGINNING.format(backend=backend) + "\n" + "\n".join(rows) + "\n"


def show(known: Mapping[str, Recipe], backend: str) -> None:
    """Print the recipes as a table on standard output."""
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
        table.add_row(recipe.name, recipe.job, cards, recipe.model, recipe.summary + before)
    # In a pipe a line is a recipe, however long it is.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=250)
    console.print(table)
    measured = [name for name in known if name.endswith(BENCHMARK)]
    if measured:
        console.print(f"\n{len(measured)} of them have NAME{BENCHMARK} too, which measures.")
    console.print(f"Run one: ./inv JOB --backend {backend} --recipe NAME", soft_wrap=True)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`"
