"""The documented inference recipes, computed on a CPU by ``./inv`` with a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import inference_recipes
from tests.support.inference_recipes import ROOT, Answers
from tests.support.runner import PYTHON

pytestmark = pytest.mark.skipif(PYTHON is not None, reason="there are no containers")

RECIPES = inference_recipes.inference_recipes("cpu")


@pytest.fixture(scope="module")
def stocked(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    inference_recipes.stock(folder, tiny_models / "tiny-plain")
    return folder


@pytest.fixture(scope="module")
def answers(stocked: Path) -> Answers:
    environ = {
        **os.environ,
        "PADDLE_STACKS_BACKEND": "cpu",
        "PADDLE_STACKS_WORKSPACE": str(stocked),
    }

    def inv(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "paddle_stacks.cli", *words]
        return subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )

    return Answers(inv, stocked)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_computes(answers: Answers, name: str) -> None:
    inference_recipes.check(answers, name)


@pytest.mark.parametrize("name", ["infer-fp16", "infer-block-fp16"])
def test_in_float32_it_has_the_answers_of_the_plain_network(answers: Answers, name: str) -> None:
    inference_recipes.check_float32(answers, name)
