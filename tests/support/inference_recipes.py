"""Run the documented inference recipes with a tiny model, and read what they computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess

from paddle_stacks import recipes
from paddle_stacks.recipes import BENCHMARK, Recipe

ROOT = Path(__file__).parents[2]
MODEL = "tiny"
PROMPTS = ("ka lo mi", "tu", "ne sa ro vi be do fa gu hi jo ka lo")
"""Of unequal lengths, one batch."""
ANSWER_TOKENS = 12
_OPTIONS: Mapping[str, object] = {
    "data_file": "prompts.jsonl",
    "batch_size": len(PROMPTS),
    "max_length": ANSWER_TOKENS,
    "src_length": 64,
    "decode_strategy": "greedy_search",
}

Inv = Callable[..., CompletedProcess[str]]


def inference_recipes(backend: str) -> dict[str, Recipe]:
    """Return the recipes of ``infer``, without benchmarks."""
    return {
        name: recipe
        for name, recipe in recipes.load(ROOT, backend).items()
        if recipe.job == "infer" and not name.endswith(BENCHMARK)
    }


def stock(workspace: Path, model: Path) -> None:
    """Write what the recipes read: a model, prompts and configurations.

    Args:
        workspace: an empty folder.
        model: a folder with weights, whose maximum position the documented lengths exceed.
    """
    shutil.copytree(model, workspace / "models" / MODEL)
    path = workspace / "models" / MODEL / "config.json"
    config = json.loads(path.read_text()) | {"max_position_embeddings": 2048}
    path.write_text(json.dumps(config))
    shutil.copytree(ROOT / "configs" / "jobs", workspace / "configs" / "jobs")
    lines = [json.dumps({"src": prompt, "tgt": ""}) + "\n" for prompt in PROMPTS]
    (workspace / "prompts.jsonl").write_text("".join(lines))
    records = [{"src": f"ka lo {n % 7}", "tgt": f"mi tu {n % 7}"} for n in range(24)]
    for name in ("train", "dev"):
        data = workspace / "data" / "alpaca" / f"{name}.json"
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_text("".join(json.dumps(record) + "\n" for record in records))


def run(inv: Inv, workspace: Path, name: str, **options: object) -> list[str]:
    """Run a recipe, and return its answers in the order of the prompts.

    Args:
        inv: runs ``./inv``.
        workspace: as :func:`stock` wrote it.
        name: of the recipe.
        options: of upstream's program, beyond the batch, lengths and greedy decoding.
    """
    changes = [f"--set={key}={value}" for key, value in (_OPTIONS | options).items()]
    done = inv("infer", "--recipe", name, "--model", MODEL, *changes)
    assert done.returncode == 0, done.stderr
    lines = (workspace / "runs" / name / "output.json").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["src"] for row in rows] == list(PROMPTS)
    return [row["output"] for row in rows]
