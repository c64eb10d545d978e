"""GGUF files become checkpoints with the very weights, and damaged ones become errors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf as upstream
import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

from entrypoints.fetching import checkpoint, gguf, gguf_file
from entrypoints.models import safetensors_file
from paddle_stacks.errors import RequestError
from tests.support.gguf_files import KEY_VALUE_HEADS, TOKENS, write


def convert(source: Path, folder: Path) -> Path:
    folder.mkdir()
    gguf.convert(source, folder)
    return folder


def loaded(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    header = safetensors_file.read_header(path)
    with safetensors_file.opened(path) as read:
        return {name: read(entry).view("<f4") for name, entry in header.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_arrives_where_paddlenlp_looks_for_it(tmp_path: Path, tied: bool) -> None:
    made = write(tmp_path / "m.gguf", tied=tied)
    folder = convert(tmp_path / "m.gguf", tmp_path / "out")
    found = loaded(folder / "model.safetensors")
    wanted = {}
    for name, weight in made.items():
        linear = weight.ndim == 2 and "embed" not in name
        wanted[name.replace("model.", "llama.", 1)] = weight.T if linear else weight
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is tied
    assert config["vocab_size"] == len(TOKENS)
    assert config["num_key_value_heads"] == KEY_VALUE_HEADS
    assert (config["rms_norm_eps"], config["rope_theta"]) == (1e-05, 50000.0)
    checkpoint.check(folder)


def test_quantized_weights_become_the_values_they_stand_for(tmp_path: Path) -> None:
    kind = upstream.GGMLQuantizationType.Q8_0
    made = write(tmp_path / "m.gguf", quantization=kind)
    found = loaded(convert(tmp_path / "m.gguf", tmp_path / "out") / "model.safetensors")
    name = "layers.1.mlp.down_proj.weight"
    original = made[f"model.{name}"]
    dequantized = upstream.quants.dequantize(upstream.quants.quantize(original, kind), kind)
    np.testing.assert_array_equal(found[f"llama.{name}"], dequantized.T)
    assert not np.array_equal(dequantized, original)


def test_large_models_are_written_in_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrypoints.models.llama._SHARD_BYTES", 8000)
    write(tmp_path / "m.gguf")
    folder = convert(tmp_path / "m.gguf", tmp_path / "out")
    checkpoint.check(folder)
    index = json.loads((folder / checkpoint.INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == sorted(p.name for p in folder.glob("*.safetensors"))
    assert len(files) > 1
    for file in files:
        stored = safetensors_file.read_header(folder / file)
        assert set(stored) == {n for n, f in index["weight_map"].items() if f == file}


def test_the_tokenizer_splits_digits_and_keeps_special_tokens(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    folder = convert(tmp_path / "m.gguf", tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("<|im_start|>the a12\n").tokens == [
        "<|im_start|>", "the", "Ġa", "1", "2", "Ċ",
    ]  # fmt: skip
    assert tokenizer.decode(tokenizer.encode("the a 12").ids) == "the a 12"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ messages }}"  # its last newline is no output
    assert config["pad_token"] == config["eos_token"] == "<|im_end|>"
    assert config["model_input_names"] == ["input_ids", "attention_mask"]


def test_a_begin_token_is_added_where_the_file_says_so(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", add_bos=True)
    folder = convert(tmp_path / "m.gguf", tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("the").tokens == ["<|im_start|>", "the"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"architecture": "qwen2"}, 'architecture "qwen2"'),
        ({"extra": {"llama.expert_count": 8}}, "mixtures of experts"),
        ({"extra": {"llama.rope.dimension_count": 8}}, "llama.rope.dimension_count"),
        ({"drop": ("blk.1.attn_q.weight",)}, "model.layers.1.self_attn.q_proj.weight is missing"),
        ({"drop": ("token_embd.weight",)}, '"vocab_size" is 0'),
        ({"split": "deepseek-llm"}, '"deepseek-llm" is not supported'),
        ({"merges": ["t h", "q q"]}, 'merge 1 "q q"'),
        ({"merges": []}, "merges"),
        ({"extra": {"tokenizer.ggml.padding_token_id": 9999}}, "pad_token 9999"),
    ],
)
def test_what_is_not_supported_is_named(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    write(tmp_path / "m.gguf", **options)
    with pytest.raises(RequestError) as caught:
        convert(tmp_path / "m.gguf", tmp_path / "out")
    assert words in str(caught.value)
    assert caught.value.status == 2


def test_a_file_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    whole = tmp_path / "m.gguf"
    write(whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 3000, 37), *range(3000, len(content), 997), len(content) - 33]:
        cut.write_bytes(content[:length])
        with pytest.raises(RequestError, match=r"truncated|not a GGUF file"), gguf_file.opened(cut):
            pass


def test_flipped_bytes_never_end_in_anything_but_an_error_of_ours(tmp_path: Path) -> None:
    whole = tmp_path / "m.gguf"
    write(whole)
    content = whole.read_bytes()
    random = np.random.default_rng(0)
    damaged, refused = tmp_path / "damaged.gguf", 0
    for number in range(300):
        flipped = bytearray(content)
        flipped[int(random.integers(0, 4000))] ^= 1 << int(random.integers(0, 8))
        damaged.write_bytes(flipped)
        folder = tmp_path / f"out{number}"
        try:
            convert(damaged, folder)
        except RequestError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<IQQ", 3, 2**60, 0),  # tensors
        struct.pack("<IQQ", 3, 0, 2**60),  # metadata entries
        struct.pack("<IQQQ", 3, 0, 1, 2**40),  # a key of a terabyte
        struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 0, 2**50) + b"\0" * 64,  # an array
        struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**50) + b"\0" * 64,  # of strings
    ],
)
def test_claims_that_the_file_cannot_hold_are_not_believed(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + body + b"\0" * 64)
    with pytest.raises(RequestError, match=r"expected at most|do not fit"), gguf_file.opened(path):
        pass


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"GGUF" + struct.pack("<I", 1), "version 1"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
        (b"PK\3\4" + b"\0" * 60, "does not start with GGUF"),
        (b"", "too short"),
    ],
)
def test_other_files_are_recognized(tmp_path: Path, head: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(head + (b"\0" * 64 if head else b""))
    with pytest.raises(RequestError, match=words), gguf_file.opened(path):
        pass


def test_a_value_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path)
    # Rename the key so that the count of layers is missing.
    path.write_bytes(path.read_bytes().replace(b"llama.block_count", b"llama.block_counT"))
    with pytest.raises(RequestError, match=r"llama\.block_count is missing"):
        convert(path, tmp_path / "out")
