"""Options of upstream's inference programs that are known to fail are refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks import launch
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import fused, fused_models
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
    patched: bool = True,
) -> str:
    places = {key: f"--{key}" for key in values}
    found = Options(script, values, None, places)
    problems = fused.problems(
        found, workspace, on_dcu=on_dcu, gpu=gpu, instead=instead, patched=patched
    )
    return "\n".join(f"{p.what} | {p.where} | {p.remedy}" for p in problems)


def model(workspace: Path, **config: Any) -> dict[str, Any]:
    folder = workspace / "models" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return {**BLOCK, "model_name_or_path": "models/mine"}


@pytest.mark.parametrize("script", [PREDICTOR, "predict/export_model.py", "./llm/predictor.py"])
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_fused_model_needs_block_attention_on_a_dcu_without_patches(
    script: str, mode: str
) -> None:
    values = {"inference_model": "true", "dtype": "float16", "mode": mode}
    message = told(values, script=script, patched=False)
    assert "--inference_model without --block_attn cannot run on a DCU" in message
    assert "variable_length_memory_efficient_attention" in message
    assert "--recipe infer-block-fp16" in message and "remove --unpatched" in message
    remedy = told(values, script=script, instead="./inv x", patched=False)
    assert remedy.endswith("| --inference_model | ./inv x")
    assert told({**values, "block_attn": False}, script=script, patched=False)
    assert told({**values, "block_attn": True}, script=script, patched=False) == ""
    assert told(values, script=script, on_dcu=False, patched=False) == ""
    assert told(values, script="run_finetune.py", patched=False) == ""
    assert told(values, script=script) == "", "the patches compose what is missing"


def test_a_model_that_is_not_fused_needs_none() -> None:
    assert told({"dtype": "float16", "mode": "dynamic", "block_attn": False}) == ""


@pytest.mark.parametrize("kind", ["weight_only_int8", "weight_only_int4"])
def test_weight_only_quantization_cannot_run_on_a_dcu(tmp_path: Path, kind: str) -> None:
    message = told({**BLOCK, "quant_type": kind})
    assert f"quant_type {kind} cannot run on a DCU" in message
    assert "--recipe infer-block-a8w8" in message
    values = model(tmp_path, quantization_config={"quant_type": kind})
    assert f"quant_type {kind}" in told(values, tmp_path), "upstream takes it from config.json"
    dense = {key: value for key, value in BLOCK.items() if key != "block_attn"}
    assert f"quant_type {kind}" in told({**dense, "quant_type": kind}), "without blocks too"
    assert told({**BLOCK, "quant_type": "a8w8"}) == ""
    assert told({**BLOCK, "quant_type": kind}, on_dcu=False) == ""


def test_block_attention_in_float32() -> None:
    values = {**BLOCK, "dtype": "float32"}
    assert "--dtype float16" in told(values)
    assert told(values, gpu=False) == "", "a simulated DCU computes on the CPU"


@pytest.mark.parametrize("value", [0, 0.0])
@pytest.mark.parametrize("on_dcu", [True, False])
def test_temperature_0_with_block_attention(value: float, on_dcu: bool) -> None:
    values = {**BLOCK, "temperature": value}
    message = told(values, on_dcu=on_dcu, patched=False)
    assert "divides by zero" in message and "--temperature 1.0 --top_p 0.01" in message
    plain = {"dtype": "float16", "temperature": value}
    assert told(plain, on_dcu=on_dcu, patched=False) == ""
    assert told(values, on_dcu=on_dcu) == ""


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
    message = told(values, tmp_path, patched=False)
    if not total:
        assert message == ""
        return
    assert f"is {total} tokens; the model has {positions} positions" in message
    words = message.rpartition("| ")[2].split()
    fitting = {"src_length": int(words[1]), "max_length": int(words[3])}
    assert sum(fitting.values()) == positions
    assert told({**values, **fitting}, tmp_path) == ""


@pytest.mark.parametrize(
    ("lengths", "positions", "words"),
    [
        ({}, 512, "--src_length 256 --max_length 256"),
        ({}, 2048, ""),
        ({}, 2047, "--src_length 1023 --max_length 1023"),
        ({"src_length": 500}, 512, "--max_length 12"),
        ({"max_length": 16}, 512, "--src_length 496"),
        ({"max_length": 1024}, 4096, ""),
        ({"src_length": 512}, 512, ""),
        ({"src_length": 400, "max_length": 400}, 512, ""),
    ],
)
def test_lengths_that_are_not_given_fit_into_the_model(
    tmp_path: Path, lengths: dict[str, Any], positions: int, words: str
) -> None:
    values = {**model(tmp_path, max_position_embeddings=positions), **lengths}
    found = fused.fitting_lengths(Options(PREDICTOR, values), tmp_path)
    assert " ".join(found) == words
    asked = sum(values.get(key, 1024) for key in ("src_length", "max_length"))
    assert bool(told(values, tmp_path)) == (not words and asked > positions)


def test_where_the_positions_of_a_model_are_found(tmp_path: Path) -> None:
    assert "512 positions" in told(model(tmp_path, seq_length=512), tmp_path, patched=False)
    for config in ({}, {"max_position_embeddings": "512"}, {"max_position_embeddings": True}):
        assert told(model(tmp_path, **config), tmp_path) == "", config
    (tmp_path / "models" / "mine" / "config.json").write_text("[" * 100_000)
    assert told({**BLOCK, "model_name_or_path": "models/mine"}, tmp_path) == ""
    known = {**BLOCK, "model_name_or_path": "models/llama-2-13b-chat", "max_length": 3073}
    known["src_length"] = 1024
    assert "4096 positions" in told(known, tmp_path), "a known model that is not fetched yet"


@pytest.mark.parametrize("backend", ["dcu", "dcu-sim"])
def test_a_line_of_the_instructions_runs_as_it_stands(tmp_path: Path, backend: str) -> None:
    line = [PREDICTOR, "--model_name_or_path", "x", "--inference_model", "--dtype", "float16"]
    here = Settings(root=ROOT, workspace=tmp_path, backend=backend, host_root=tmp_path)
    assert launch.make_plan("upstream", line, here).argv[1:] == tuple(line)
    with pytest.raises(RequestError, match="without --block_attn cannot run on a DCU"):
        launch.make_plan("upstream", ["--unpatched", *line], here)


def folder(workspace: Path, config: Mapping[str, Any], **files: Any) -> dict[str, Any]:
    """Make a model's folder and return the options of a fused run of it."""
    values = model(workspace, **config)
    for name, content in files.items():
        path = workspace / "models" / "mine" / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return values


A8W8 = {"quantization_config": {"quant_type": "a8w8"}}
A8W8C8 = {"quantization_config": {"quant_type": "a8w8c8"}}
SCALES = {"act_scales__json": {"a": 1}, "weight_scales__json": {"a": 1}}


@pytest.mark.parametrize(
    ("config", "files", "options", "message"),
    [
        ({}, {}, {}, ""),
        ({}, {}, {"quant_type": "a8w8"}, "not quantized, but --quant_type is a8w8"),
        (A8W8, SCALES, {"quant_type": "a8w8"}, ""),
        (A8W8, SCALES, {}, ""),
        (A8W8, {}, {"quant_type": "a8w8"}, "scales are missing"),
        (A8W8, {**SCALES, "act_scales__json": {}}, {}, "scales are missing"),
        (A8W8C8, SCALES, {"quant_type": "a8w8"}, "cachekv_scales.json"),
        (A8W8C8, {**SCALES, "cachekv_scales__json": {"a": [1]}}, {"quant_type": "a8w8"}, ""),
        (A8W8, SCALES, {"cachekv_int8_type": "static"}, "no scales for an int8 KV cache"),
        (
            A8W8C8,
            {**SCALES, "cachekv_scales__json": {"a": [1]}},
            {"cachekv_int8_type": "dynamic"},
            "has scales for its KV cache",
        ),
        ({}, {}, {"cachekv_int8_type": "dynamic"}, ""),
        ({}, {}, {"cachekv_int8_type": "dynamic", "block_attn": False}, "requires --block_attn"),
        (
            {"quantization_config": {"quant_type": "weight_only_int8"}},
            {},
            {},
            "which fused models do not support",
        ),
        ({}, {"model__json": "{}"}, {}, "is a static graph, but --mode is dynamic"),
        ({}, {}, {"mode": "static"}, "has no static graph"),
    ],
)
def test_a_checkpoint_is_what_the_options_take_it_for(
    tmp_path: Path,
    config: dict[str, Any],
    files: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    values = {**folder(tmp_path, config, **files), **options}
    found = Options(PREDICTOR, values)
    text = " ".join(
        f"{p.what} {p.where}" for p in fused_models.problems(found, tmp_path, ours=False)
    )
    assert message in text and bool(message) == bool(text), text


EXPORTED = {"infer_model_dtype": "float16", "infer_model_max_seq_len": 512}


@pytest.mark.parametrize(
    ("config", "graph", "options", "message"),
    [
        (EXPORTED, "block_tables", {}, ""),
        (EXPORTED, "cache_kvs_0", {"block_attn": False}, ""),
        (EXPORTED, "cache_kvs_0", {}, "was exported without --block_attn"),
        (EXPORTED, "block_tables", {"block_attn": False}, "was exported with --block_attn"),
        (EXPORTED, "block_tables", {"dtype": "float32"}, "with dtype float16, not float32"),
        (
            {**EXPORTED, "infer_model_cachekv_int8_type": "static"},
            "block_tables",
            {"cachekv_int8_type": "dynamic"},
            "with cachekv_int8_type static, not dynamic",
        ),
        (EXPORTED, "block_tables", {"cachekv_int8_type": "dynamic"}, "cachekv_int8_type none"),
        (EXPORTED, "block_tables", {"quant_type": "a8w8"}, "with quant_type none, not a8w8"),
        ({**EXPORTED, **A8W8C8}, "block_tables", {"quant_type": "a8w8"}, ""),
        (
            EXPORTED,
            "block_tables",
            {"max_length": 500},
            "has room for 512 tokens; the lengths add up to",
        ),
    ],
)
def test_a_static_graph_is_what_the_options_take_it_for(
    tmp_path: Path, config: dict[str, Any], graph: str, options: dict[str, Any], message: str
) -> None:
    files = {"model__json": graph, "model__pdiparams": "x"}
    lengths = {"src_length": 100, "max_length": 100, "mode": "static"}
    values = {**folder(tmp_path, config, **files), **lengths, **options}
    found = Options(PREDICTOR, values)
    text = " ".join(
        f"{p.what} {p.where}" for p in fused_models.problems(found, tmp_path, ours=False)
    )
    assert message in text and bool(message) == bool(text), text


@pytest.mark.parametrize(
    ("config", "mode", "ours", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "dynamic", True, ""),
        ({"architectures": ["Qwen2ForCausalLM"]}, "dynamic", True, "expected LlamaForCausalLM"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "dynamic", False, ""),
        (
            {"architectures": ["LlamaForCausalLM"], "rope_scaling": {"factor": 8}},
            "dynamic",
            True,
            'ignore "rope_scaling"',
        ),
        ({"architectures": ["LlamaForCausalLM"]}, "static", True, "exported by another program"),
        ({}, "static", False, ""),
        ({fused_models.PROGRAM: fused_models.OURS}, "static", False, "by another program"),
    ],
)
def test_a_model_that_only_one_program_runs(
    tmp_path: Path, config: dict[str, Any], mode: str, ours: bool, message: str
) -> None:
    found = Options(PREDICTOR, {**model(tmp_path, **config), "mode": mode})
    problems = fused_models._program_problems(
        found, tmp_path / "models" / "mine", config, ours=ours
    )
    text = " ".join(problem.what for problem in problems)
    assert message in text and bool(message) == bool(text), text


def test_a_recipe_with_a_change_that_cannot_work(tmp_path: Path) -> None:
    here = Settings(root=ROOT, workspace=tmp_path, backend="dcu", host_root=tmp_path)
    changes = ("quant_type=weight_only_int8", "src_length=4000", "max_length=1000")
    choices = launch.Choices(recipe="infer-block-fp16", changes=changes)
    with pytest.raises(RequestError) as caught:
        launch.make_steps("infer", (), here, choices)
    assert [problem.where for problem in caught.value.problems] == ["--quant_type", "--src_length"]
