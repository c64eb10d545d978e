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
    """Write the inputs of the recipes: a model, prompts and configurations.

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


class Answers:
    """The recipes' answers to the prompts, computed at most once.

    Args:
        inv: runs ``./inv``.
        workspace: as :func:`stock` wrote it.
    """

    def __init__(self, inv: Inv, workspace: Path) -> None:
        self._inv = inv
        self._workspace = workspace
        self._known: dict[tuple[str, str], list[str]] = {}

    def of(self, name: str, dtype: str = "float16") -> list[str]:
        """Return a recipe's answers, in the order of the prompts."""
        if (name, dtype) not in self._known:
            self._known[name, dtype] = self._compute(name, _OPTIONS | {"dtype": dtype})
        return self._known[name, dtype]

    def _compute(self, name: str, options: Mapping[str, object]) -> list[str]:
        changes = [f"--set={key}={value}" for key, value in options.items()]
        done = self._inv("infer", "--recipe", name, "--model", MODEL, *changes)
        assert done.returncode == 0, done.stderr
        lines = (self._workspace / "runs" / name / "output.json").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["src"] for row in rows] == list(PROMPTS)
        return [row["output"] for row in rows]


def check(answers: Answers, name: str) -> None:
    """Check a recipe's answers, as documented in float16.

    Those of a static graph are those of the same operators in a dynamic one. In float16 and
    int8 the others are not comparable token by token: a random model has near ties, which
    rounding decides. tests/jobs/test_fused.py compares the computations within tolerances.
    """
    answer = answers.of(name)
    assert all(answer) and len(set(answer)) == len(PROMPTS)
    assert answer == answers.of(name.replace("static-", ""))


def check_float32(answers: Answers, name: str) -> None:
    """Check that fused operators have the answers of PaddleNLP's plain network, in float32."""
    assert answers.of(name, "float32") == answers.of("infer-7b", "float32")
