"""The documented inference recipes, computed on a CPU by ``./inv`` with a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import inference_recipes
from tests.support.inference_recipes import ROOT, Inv
from tests.support.runner import PYTHON

pytestmark = pytest.mark.skipif(PYTHON is not None, reason="there are no containers")

RECIPES = inference_recipes.inference_recipes("cpu")


@pytest.fixture(scope="module")
def stocked(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    inference_recipes.stock(folder, tiny_models / "tiny-plain")
    return folder


@pytest.fixture(scope="module")
def inv(stocked: Path) -> Inv:
    environ = {
        **os.environ,
        "PADDLE_STACKS_BACKEND": "cpu",
        "PADDLE_STACKS_WORKSPACE": str(stocked),
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "paddle_stacks.cli", *words]
        return subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def reference(inv: Inv, stocked: Path) -> list[str]:
    """PaddleNLP's plain network in float32."""
    return inference_recipes.run(inv, stocked, "infer-7b", dtype="float32")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_computes(inv: Inv, stocked: Path, reference: list[str], name: str) -> None:
    answers = inference_recipes.run(inv, stocked, name)
    print(name, answers, reference)
