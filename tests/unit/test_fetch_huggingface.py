"""Hugging Face folders become checkpoints of the same type, shard by shard."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrypoints.fetching import checkpoint, folder, huggingface, tensors
from paddle_stacks.errors import RequestError
from tests.support.gguf_files import HIDDEN
from tests.support.hugging_face_files import save, write


def convert(source: Path, target: Path) -> Path:
    target.mkdir()
    huggingface.convert(source, target)
    return target


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_keep_their_type_and_are_transposed(
    tmp_path: Path, dtype: str, shards: int
) -> None:
    made = write(tmp_path / "hf", dtype=dtype, shards=shards)
    out = convert(tmp_path / "hf", tmp_path / "out")
    header = tensors.read_header(out / "model.safetensors")
    assert {entry.dtype for entry in header.values()} == {dtype}
    with tensors.opened(out / "model.safetensors") as read:
        for name, weight in made.items():
            linear = weight.ndim == 2 and "embed" not in name
            raw = weight.view(f"<u{weight.itemsize}")
            found = read(header[name.replace("model.", "llama.", 1)])
            np.testing.assert_array_equal(found, raw.T if linear else raw, err_msg=name)
    assert len(header) == len(made)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]
    assert "torch_dtype" not in config
    assert folder.recognize(tmp_path / "hf") == "huggingface"
    assert folder.recognize(out) == "paddlenlp"
    checkpoint.check(out)


def test_a_tied_head_is_not_written_even_where_it_is_stored(tmp_path: Path) -> None:
    head = np.zeros((101, HIDDEN), np.float32)
    write(tmp_path / "hf", tied=True, add={"lm_head.weight": head})
    out = convert(tmp_path / "hf", tmp_path / "out")
    assert "lm_head.weight" not in tensors.read_header(out / "model.safetensors")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True


def test_stored_rotary_frequencies_are_left_out(tmp_path: Path) -> None:
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32)}
    write(tmp_path / "hf", add=frequencies)
    out = convert(tmp_path / "hf", tmp_path / "out")
    assert not [n for n in tensors.read_header(out / "model.safetensors") if "inv_freq" in n]


def test_the_tokenizer_is_the_fast_one(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    out = convert(tmp_path / "hf", tmp_path / "out")
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PretrainedTokenizerFast"
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == (
        "<s>", "</s>", "</s>",
    )  # fmt: skip
    assert config["chat_template"] == "{{ messages }}"
    assert "added_tokens_decoder" not in config
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def test_a_sentencepiece_model_is_taken_where_there_is_no_fast_one(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    (tmp_path / "hf" / "tokenizer.model").write_bytes(b"pieces")
    out = convert(tmp_path / "hf", tmp_path / "out")
    assert (out / "sentencepiece.bpe.model").read_bytes() == b"pieces"
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "LlamaTokenizer"


@pytest.mark.parametrize(
    ("scaling", "wanted"),
    [
        ({"rope_type": "default"}, {}),
        (
            {"type": "linear", "factor": 4.0},
            {"rope_scaling_type": "linear", "rope_scaling_factor": 4.0},
        ),
        (
            {"rope_type": "llama3", "factor": 8.0},
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ),
    ],
)
def test_scaled_positions(tmp_path: Path, scaling: dict[str, Any], wanted: dict[str, Any]) -> None:
    write(tmp_path / "hf", config={"rope_scaling": scaling})
    out = convert(tmp_path / "hf", tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert {k: v for k, v in config.items() if k.startswith("rope_scaling")} == wanted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": {"model_type": "mistral"}}, ['"mistral"']),
        ({"config": {"attention_bias": True, "mlp_bias": True}}, ["attention_bias", "mlp_bias"]),
        ({"config": {"head_dim": 8}}, ["head_dim"]),
        ({"config": {"rope_scaling": {"rope_type": "yarn"}}}, ['"yarn"']),
        ({"config": {"num_attention_heads": 3}}, ["does not divide"]),
        ({"config": {"hidden_size": "16"}}, ["hidden is '16'"]),
        (
            {"drop": ("model.norm.weight", "lm_head.weight")},
            ["model.norm.weight is missing", "lm_head.weight is missing"],
        ),
        ({"add": {"model.extra": np.zeros(2)}}, ["model.extra is none of a Llama's"]),
        ({"config": {"vocab_size": 99}}, ["shape"]),
    ],
)
def test_every_fault_is_named(tmp_path: Path, options: dict[str, Any], words: list[str]) -> None:
    write(tmp_path / "hf", **options)
    with pytest.raises(RequestError) as caught:
        convert(tmp_path / "hf", tmp_path / "out")
    for word in words:
        assert word in str(caught.value)


def test_mixed_types_are_refused(tmp_path: Path) -> None:
    made = write(tmp_path / "hf", shards=2)
    file = tmp_path / "hf" / "model-00002-of-00002.safetensors"
    save(file, {name: made[name] for name in tensors.read_header(file)}, "F16")
    with pytest.raises(RequestError, match="F16, F32"):
        convert(tmp_path / "hf", tmp_path / "out")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path / "hf", shards=3)
    (tmp_path / "hf" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(RequestError, match=r"model-00002-of-00003\.safetensors is missing"):
        folder.recognize(tmp_path / "hf")


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int) -> None:
    write(tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RequestError, match=r"truncated|not a whole"):
        convert(tmp_path / "hf", tmp_path / "out")


def test_an_index_cannot_reach_out_of_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "hf", shards=2)
    index = tmp_path / "hf" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(RequestError, match="outside of its folder"):
        folder.recognize(tmp_path / "hf")


def test_memory_is_bounded_by_a_tensor_and_not_by_a_file(tmp_path: Path) -> None:
    count, size = 32, 2**20
    many = [
        tensors.Tensor(f"t{n}", "F32", (size,), lambda: np.zeros(size, np.float32))
        for n in range(count)
    ]
    tracemalloc.start()
    tensors.write(tmp_path / "many.safetensors", many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "many.safetensors").stat().st_size > count * size * 4
    assert peak < 4 * size * 4
