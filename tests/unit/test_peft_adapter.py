"""Adapters of Hugging Face's PEFT are read exactly, or refused by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrypoints.fetching import folder as folders
from entrypoints.inference.adapter import Adapter
from entrypoints.models import llama as layout
from entrypoints.models import peft_adapter
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.workspace import find_adapter, find_model
from tests.support.gguf_files import weights
from tests.support.hugging_face_files import write_adapter

SHAPES = {}
for _name, _array in weights(tied=False).items():
    _renamed, _transposed = layout.paddle_names(_name, _array.shape)
    SHAPES[_renamed] = _array.shape[::-1] if _transposed else _array.shape


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"lora_alpha": 3}, 0.75),
        ({"lora_alpha": 0.5, "lora_dropout": 0.1, "inference_mode": True}, 0.125),
    ],
)
def test_the_change_is_that_of_peft(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    made = write_adapter(tmp_path / "adapter", config=config)
    changes = list(Adapter(tmp_path / "adapter", SHAPES).changes())
    assert len(changes) == 4
    for name, change, added in changes:
        assert added
        layer = name.removesuffix(".weight").replace("llama.", "base_model.model.model.", 1)
        a, b = made[f"{layer}.lora_A.weight"], made[f"{layer}.lora_B.weight"]
        np.testing.assert_allclose(change, (b @ a).T * scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_factors_of_half_the_size_are_read(tmp_path: Path, dtype: str) -> None:
    made = write_adapter(tmp_path / "adapter", dtype=dtype)
    state = peft_adapter.read_state(tmp_path / "adapter", 4)
    found = state["llama.layers.1.mlp.down_proj.lora_B"]
    wanted = made["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"].T
    np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-2)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "LOHA"}, ["peft_type is 'LOHA'"]),
        ({"peft_type": None}, ['"peft_type"']),
        ({"use_dora": True}, ["use_dora is True"]),
        ({"bias": "all", "modules_to_save": ["lm_head"]}, ["bias is 'all'", "modules_to_save"]),
        ({"rank_pattern": {"q_proj": 8}}, ["rank_pattern"]),
        ({"alpha_pattern": {"q_proj": 8}}, ["alpha_pattern"]),
        ({"fan_in_fan_out": True}, ["fan_in_fan_out"]),
        ({"init_lora_weights": "pissa"}, ["init_lora_weights is 'pissa'"]),
        ({"trainable_token_indices": [1]}, ["trainable_token_indices"]),
        ({"task_type": "SEQ_CLS"}, ["task_type"]),
        ({"r": 0}, ["r is 0"]),
        ({"r": 8}, ["contradicts r = 8"]),
        ({"lora_alpha": float("nan")}, ["lora_alpha is nan"]),
        ({"lora_alpha": "16"}, ["lora_alpha is '16'"]),
    ],
)
def test_what_is_not_plain_lora_is_named(
    tmp_path: Path, config: dict[str, Any], words: list[str]
) -> None:
    write_adapter(tmp_path / "adapter", config=config)
    with pytest.raises(RequestError) as caught:
        Adapter(tmp_path / "adapter", SHAPES)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
    ],
)
def test_weights_that_are_no_factors_are_named(tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path / "adapter", add={name: np.zeros((4, 4), np.float32)})
    with pytest.raises(RequestError, match="is not a LoRA factor"):
        Adapter(tmp_path / "adapter", SHAPES)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter")
    shapes = {name: shape for name, shape in SHAPES.items() if "layers.1" not in name}
    with pytest.raises(RequestError, match="does not fit the base model"):
        Adapter(tmp_path / "adapter", shapes)


def test_pickled_factors_are_not_read(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(
        tmp_path / "adapter" / "adapter_model.bin"
    )
    with pytest.raises(RequestError, match=r"adapter_model\.safetensors is missing"):
        Adapter(tmp_path / "adapter", SHAPES)


def test_unknown_keys_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_adapter(tmp_path / "adapter", config={"new_trick": 1, "base_model_name_or_path": "x"})
    peft_adapter.read_settings(tmp_path / "adapter")
    assert "unknown keys, which are ignored: new_trick\n" in capsys.readouterr().err


def test_the_keys_of_the_current_release_are_known() -> None:
    """Those that PEFT 0.21 writes by default."""
    defaults = {
        "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None,
        "auto_mapping": None, "base_model_name_or_path": "x", "bias": "none",
        "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
        "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
        "layers_pattern": None, "layers_to_transform": None, "loftq_config": {},
        "lora_alpha": 32, "lora_bias": False, "lora_dropout": 0.0, "lora_ga_config": None,
        "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
        "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2",
        "qalora_group_size": 16, "r": 4, "rank_pattern": {}, "revision": None,
        "target_modules": ["q_proj"], "target_parameters": None, "task_type": None,
        "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
        "use_qalora": False, "use_rslora": False, "velora_config": None,
    }  # fmt: skip
    assert set(defaults) <= set(peft_adapter.KEYS)
    rules = peft_adapter.KEYS
    assert not peft_adapter.unsupported_values(defaults, rules, "adapter_config.json")


def test_it_is_found_as_any_adapter_and_is_no_model(tmp_path: Path) -> None:
    write_adapter(tmp_path / "runs" / "mine")
    write_adapter(tmp_path / "models" / "other")
    assert find_adapter("mine", tmp_path) == tmp_path / "runs" / "mine"
    assert find_adapter("models/other", tmp_path) == tmp_path / "models" / "other"
    with pytest.raises(RequestError, match="is an adapter, not a model"):
        find_model("other", tmp_path)
    with pytest.raises(RequestError, match=r"has an adapter \(adapter_config\.json\), not a model"):
        folders.recognize(tmp_path / "models" / "other")


def test_it_is_written_as_paddlenlp_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(tmp_path / "adapter", config={"use_rslora": True})
    saved = {}

    class Paddle:
        @staticmethod
        def save(state: dict[str, Any], path: str) -> None:
            saved[Path(path).name] = state

    monkeypatch.setitem(sys.modules, "paddle", Paddle)
    (tmp_path / "out").mkdir()
    peft_adapter.write_paddle(tmp_path / "adapter", tmp_path / "out", "base")
    config = json.loads((tmp_path / "out" / "lora_config.json").read_text())
    assert config == {
        "r": 4,
        "lora_alpha": 8,
        "rslora": True,
        "target_modules": [".*down_proj", ".*q_proj"],
        "base_model_name_or_path": "base",
    }
    assert len(saved["lora_model_state.pdparams"]) == 8
