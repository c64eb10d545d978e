"""Options of upstream's inference programs that are known to fail are refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks import launch
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import fused
from paddle_stacks.jobs.upstream import Options
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
PREDICTOR = "predict/predictor.py"
BLOCK = {"inference_model": True, "block_attn": True, "dtype": "float16"}


def told(
    values: Mapping[str, Any],
    workspace: Path = Path("/nowhere"),
    *,
    script: str = PREDICTOR,
    on_dcu: bool = True,
    gpu: bool = True,
    instead: str = "",
) -> str:
    places = {key: f"--{key}" for key in values}
    found = Options(script, values, None, places)
    problems = fused.problems(found, workspace, on_dcu=on_dcu, gpu=gpu, instead=instead)
    return "\n".join(f"{p.what} | {p.where} | {p.remedy}" for p in problems)


def model(workspace: Path, **config: Any) -> dict[str, Any]:
    folder = workspace / "models" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return {**BLOCK, "model_name_or_path": "models/mine"}


@pytest.mark.parametrize("script", [PREDICTOR, "predict/export_model.py", "./llm/predictor.py"])
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_fused_model_needs_block_attention_on_a_dcu(script: str, mode: str) -> None:
    values = {"inference_model": "true", "dtype": "float16", "mode": mode}
    message = told(values, script=script)
    assert "--inference_model without --block_attn cannot run on a DCU" in message
    assert "variable_length_memory_efficient_attention" in message
    assert "--recipe infer-block-fp16" in message and "add --block_attn" in message
    assert told(values, script=script, instead="./inv x").endswith("| --inference_model | ./inv x")
    assert told({**values, "block_attn": False}, script=script)
    assert told({**values, "block_attn": True}, script=script) == ""
    assert told(values, script=script, on_dcu=False) == ""
    assert told(values, script="run_finetune.py") == ""


def test_a_model_that_is_not_fused_needs_none() -> None:
    assert told({"dtype": "float16", "mode": "dynamic", "block_attn": False}) == ""


@pytest.mark.parametrize("kind", ["weight_only_int8", "weight_only_int4"])
def test_weight_only_quantization_cannot_run_on_a_dcu(tmp_path: Path, kind: str) -> None:
    message = told({**BLOCK, "quant_type": kind})
    assert f"quant_type {kind} cannot run on a DCU" in message
    assert "--recipe infer-block-a8w8" in message
    values = model(tmp_path, quantization_config={"quant_type": kind})
    assert f"quant_type {kind}" in told(values, tmp_path), "upstream takes it from config.json"
    assert told({**BLOCK, "quant_type": "a8w8"}) == ""
    assert told({**BLOCK, "quant_type": kind}, on_dcu=False) == ""


def test_block_attention_in_float32() -> None:
    values = {**BLOCK, "dtype": "float32"}
    assert "--dtype float16" in told(values)
    assert told(values, gpu=False) == "", "a simulated DCU computes on the CPU"


@pytest.mark.parametrize("value", [0, 0.0])
@pytest.mark.parametrize("on_dcu", [True, False])
def test_temperature_0_with_block_attention(value: float, on_dcu: bool) -> None:
    message = told({**BLOCK, "temperature": value}, on_dcu=on_dcu)
    assert "divides by zero" in message and "--temperature 1.0 --top_p 0.01" in message
    assert told({"dtype": "float16", "temperature": value}, on_dcu=on_dcu) == ""


@pytest.mark.parametrize("value", [1.0, 0.01, False, "x", None])
def test_other_temperatures(value: object) -> None:
    assert told({**BLOCK, "temperature": value}) == ""


@pytest.mark.parametrize(
    ("lengths", "positions", "total"),
    [
        ({}, 2047, 2048),
        ({}, 2048, 0),
        ({"src_length": 3072, "max_length": 1024}, 4096, 0),
        ({"src_length": 3073, "max_length": 1024}, 4096, 4097),
        ({"max_length": 8000}, 4096, 9024),
        ({"src_length": "many"}, 512, 2048),
    ],
)
def test_lengths_beyond_the_models_positions(
    tmp_path: Path, lengths: dict[str, Any], positions: int, total: int
) -> None:
    values = {**model(tmp_path, max_position_embeddings=positions), **lengths}
    message = told(values, tmp_path)
    if not total:
        assert message == ""
        return
    assert f"is {total} tokens, and the model has {positions} positions" in message
    words = message.rpartition("| ")[2].split()
    fitting = {"src_length": int(words[3]), "max_length": int(words[5])}
    assert sum(fitting.values()) == positions
    assert told({**values, **fitting}, tmp_path) == ""


def test_where_the_positions_of_a_model_are_found(tmp_path: Path) -> None:
    assert "512 positions" in told(model(tmp_path, seq_length=512), tmp_path)
    for config in ({}, {"max_position_embeddings": "512"}, {"max_position_embeddings": True}):
        assert told(model(tmp_path, **config), tmp_path) == "", config
    (tmp_path / "models" / "mine" / "config.json").write_text("[" * 100_000)
    assert told({**BLOCK, "model_name_or_path": "models/mine"}, tmp_path) == ""
    known = {**BLOCK, "model_name_or_path": "models/llama-2-13b-chat", "max_length": 3073}
    assert "4096 positions" in told(known, tmp_path), "a known model that is not fetched yet"


@pytest.mark.parametrize("backend", ["dcu", "dcu-sim"])
def test_a_line_of_the_instructions_is_refused_as_it_stands(tmp_path: Path, backend: str) -> None:
    line = [PREDICTOR, "--model_name_or_path", "x", "--inference_model", "--dtype", "float16"]
    here = Settings(root=ROOT, workspace=tmp_path, backend=backend, host_root=tmp_path)
    with pytest.raises(RequestError, match="without --block_attn cannot run on a DCU"):
        launch.make_plan("upstream", line, here)
    assert launch.make_plan("upstream", [*line, "--block_attn"], here).argv[1:] == (
        *line,
        "--block_attn",
    )


def test_a_recipe_with_a_change_that_cannot_work(tmp_path: Path) -> None:
    here = Settings(root=ROOT, workspace=tmp_path, backend="dcu", host_root=tmp_path)
    changes = ("temperature=0", "src_length=4000")
    choices = launch.Choices(recipe="infer-block-fp16", changes=changes)
    with pytest.raises(RequestError) as caught:
        launch.make_steps("infer", (), here, choices)
    assert [problem.where for problem in caught.value.problems] == ["--temperature", "--src_length"]
