"""Hugging Face folders become checkpoints of the same type, shard by shard."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from entrypoints.fetching import checkpoint, folder, huggingface, sentencepiece_file
from entrypoints.fetching.sentencepiece_file import Vocabulary
from entrypoints.models import chat_template, safetensors_file
from entrypoints.models.source_keys import CONFIG, GENERATION, TOKENIZER, KeyRule
from paddle_stacks.errors import RequestError
from tests.support.gguf_files import TOKENS, weights
from tests.support.hugging_face_files import (
    BOS,
    EOS,
    begin_with_bos,
    save,
    tokenizer_file,
    write,
)

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def sentencepiece(pieces: Sequence[str]) -> bytes:
    return sentencepiece_file.encode(
        Vocabulary(
            pieces=pieces,
            scores=[0.0] * len(pieces),
            types=[1] * len(pieces),
            unknown=0,
            begin=1,
            end=2,
            dummy_prefix=True,
        )
    )


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
    header = safetensors_file.read_header(out / "model.safetensors")
    assert {entry.dtype for entry in header.values()} == {dtype}
    with safetensors_file.opened(out / "model.safetensors") as read:
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
    head = weights(tied=True)["model.embed_tokens.weight"]
    write(tmp_path / "hf", tied=True, add={"lm_head.weight": head})
    out = convert(tmp_path / "hf", tmp_path / "out")
    assert "lm_head.weight" not in safetensors_file.read_header(out / "model.safetensors")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    head = weights(tied=True)["model.embed_tokens.weight"].copy()
    head[-1, -1] += 1
    write(tmp_path / "hf", tied=True, add={"lm_head.weight": head})
    with pytest.raises(RequestError, match=r"lm_head\.weight differs from the embedding"):
        convert(tmp_path / "hf", tmp_path / "out")


def test_stored_rotary_frequencies_are_left_out(tmp_path: Path) -> None:
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32)}
    write(tmp_path / "hf", add=frequencies)
    out = convert(tmp_path / "hf", tmp_path / "out")
    assert not [
        n for n in safetensors_file.read_header(out / "model.safetensors") if "inv_freq" in n
    ]


def test_the_tokenizer_is_the_fast_one(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    out = convert(tmp_path / "hf", tmp_path / "out")
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PretrainedTokenizerFast"
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == (
        BOS, EOS, EOS,
    )  # fmt: skip
    assert config["chat_template"] == "{{ messages }}"
    assert "added_tokens_decoder" not in config
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def test_a_sentencepiece_model_is_taken_where_there_is_no_fast_one(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    model = sentencepiece(TOKENS)
    (tmp_path / "hf" / "tokenizer.model").write_bytes(model)
    out = convert(tmp_path / "hf", tmp_path / "out")
    assert (out / "sentencepiece.bpe.model").read_bytes() == model
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
        (LLAMA3, {"rope_scaling": LLAMA3}),
        # Up to max_position_embeddings, which no job exceeds, it changes nothing.
        ({"rope_type": "dynamic", "factor": 2.0}, {}),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_scaled_positions(
    tmp_path: Path, scaling: dict[str, Any], wanted: dict[str, Any], version: int
) -> None:
    keys = {
        4: {"rope_theta": 5e5, "rope_scaling": scaling},
        5: {"rope_parameters": {**scaling, "rope_theta": 5e5}},
    }
    write(tmp_path / "hf", config=keys[version])
    out = convert(tmp_path / "hf", tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    found = {k: v for k, v in config.items() if k.startswith("rope_scaling")}
    assert found == wanted
    assert config["rope_theta"] == 5e5
    assert "rope_parameters" not in config


def test_the_default_theta_is_written(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    out = convert(tmp_path / "hf", tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["rope_theta"] == 10000.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": {"model_type": "mistral"}}, ['"mistral"']),
        ({"config": {"attention_bias": True, "mlp_bias": True}}, ["attention_bias", "mlp_bias"]),
        ({"config": {"head_dim": 8}}, ["head_dim"]),
        ({"config": {"rope_scaling": {"rope_type": "yarn"}}}, ['"yarn"']),
        (
            {"config": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}},
            ['"yarn"'],
        ),
        ({"config": {"rope_scaling": {"type": "longrope"}}}, ['"longrope"']),
        (
            {"config": {"rope_scaling": {"rope_type": "llama3", "factor": "8"}}},
            ["factor is '8'", "low_freq_factor is None"],
        ),
        (
            {"config": {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}},
            ["rope_theta is 10000.0, but 500000.0"],
        ),
        (
            {
                "config": {
                    "rope_scaling": {"type": "linear", "factor": 2.0},
                    "rope_parameters": {"rope_type": "linear", "factor": 4.0},
                }
            },
            ["rope_parameters and rope_scaling differ"],
        ),
        (
            {"config": {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}},
            ["differs between layers"],
        ),
        (
            {"config": {"rope_parameters": {"partial_rotary_factor": 0.5}}},
            ["partial_rotary_factor is 0.5"],
        ),
        ({"config": {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor is 0.5"]),
        ({"config": {"sliding_window": 64}}, ["sliding_window is 64", "context of 2048"]),
        ({"config": {"layer_types": ["sliding_attention"] * 2}}, ["layer_types"]),
        ({"config": {"hidden_act": "gelu"}}, ["hidden_act is 'gelu'"]),
        ({"config": {"quantization_config": {"bits": 4}}}, ["quantization_config"]),
        ({"config": {"is_encoder_decoder": True}}, ["is_encoder_decoder"]),
        ({"generation": {"num_beams": 4}}, ["num_beams is 4"]),
        (
            {"generation": {"suppress_tokens": [7], "no_repeat_ngram_size": 3}},
            ["suppress_tokens", "no_repeat_ngram_size"],
        ),
        ({"tokenizer": {"split_special_tokens": True}}, ["split_special_tokens"]),
        ({"tokenizer": {"add_prefix_space": True}}, ["add_prefix_space"]),
        (
            {"tokenizer": {"pad_token": "[PAD]"}},
            ["pad_token is '[PAD]', which is not in the vocabulary"],
        ),
        (
            {"tokenizer": {"added_tokens_decoder": {"101": {"content": "<tool>"}}}},
            ["tokenizer.json lacks the token '<tool>' with the ID 101"],
        ),
        (
            {"tokenizer": {"additional_special_tokens": ["<tool>"]}},
            ["tokenizer.json lacks the token '<tool>'"],
        ),
        (
            {"tokenizer": {"chat_template": "{% for m in messages %}"}},
            ["chat template cannot be compiled"],
        ),
        ({"tokenizer": {"chat_template": 7}}, ["neither a template nor a list"]),
        ({"config": {"num_attention_heads": 3}}, ["is not divisible by num_attention_heads 3"]),
        ({"config": {"hidden_size": "16"}}, ["\"hidden_size\" is '16'"]),
        (
            {"drop": ("model.norm.weight", "lm_head.weight")},
            ["model.norm.weight is missing", "lm_head.weight is missing"],
        ),
        ({"add": {"model.extra": np.zeros(2)}}, ["model.extra is not a weight of a Llama"]),
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
    save(file, {name: made[name] for name in safetensors_file.read_header(file)}, "F16")
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
    with pytest.raises(RequestError, match=r"truncated|incomplete"):
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
        safetensors_file.Tensor(f"t{n}", "F32", (size,), lambda: np.zeros(size, np.float32))
        for n in range(count)
    ]
    tracemalloc.start()
    safetensors_file.write(tmp_path / "many.safetensors", many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "many.safetensors").stat().st_size > count * size * 4
    assert peak < 4 * size * 4


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    longer = tokenizer_file([*TOKENS, "x1", "x2"])
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(longer))
    with pytest.raises(RequestError, match=r"vocabulary of \d+: 'x1' \(\d+\), 'x2'"):
        convert(tmp_path / "hf", tmp_path / "out")


def test_pieces_beyond_the_embedding_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    (tmp_path / "hf" / "tokenizer.model").write_bytes(sentencepiece([*TOKENS, "x1"]))
    with pytest.raises(RequestError, match="IDs beyond the model's vocabulary"):
        convert(tmp_path / "hf", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"pieces", b"\x0a\xff\xff", b"\x0a\x02\x12\x00"])
def test_a_damaged_sentencepiece_model_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    (tmp_path / "hf" / "tokenizer.model").write_bytes(content)
    with pytest.raises(RequestError, match="not a sentencepiece model"):
        convert(tmp_path / "hf", tmp_path / "out")


def test_a_copied_checkpoint_has_rows_for_every_id(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    out = convert(tmp_path / "hf", tmp_path / "out")
    (out / "tokenizer.json").write_text(json.dumps(tokenizer_file([*TOKENS, "x1"])))
    (tmp_path / "copy").mkdir()
    with pytest.raises(RequestError, match="IDs beyond the model's vocabulary"):
        folder.copy(out, tmp_path / "copy")


def test_unknown_keys_are_named_and_not_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        tmp_path / "hf",
        config={"logit_scale": 2.0, "alibi": True, "pretraining_tp": 1},
        generation={"new_processor": 1},
        tokenizer={"new_flag": True, "legacy": False},
    )
    out = convert(tmp_path / "hf", tmp_path / "out")
    said = capsys.readouterr().err
    assert "config.json has unknown keys, which are ignored: alibi, logit_scale" in said
    assert "generation_config.json has unknown keys, which are ignored: new_processor" in said
    assert "tokenizer_config.json has unknown keys, which are ignored: new_flag" in said
    config = json.loads((out / "config.json").read_text())
    assert not {"alibi", "logit_scale", "pretraining_tp"} & set(config)


def test_known_keys_are_not_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        tmp_path / "hf",
        config={"attention_bias": False, "dtype": "float32", "sliding_window": 2048},
        generation={"do_sample": True, "temperature": 0.6, "_from_model_config": True},
        tokenizer={"backend": "tokenizers", "clean_up_tokenization_spaces": True},
    )
    out = convert(tmp_path / "hf", tmp_path / "out")
    assert "not known" not in capsys.readouterr().err
    generation = json.loads((out / "generation_config.json").read_text())
    assert (generation["do_sample"], generation["temperature"]) == (True, 0.6)
    assert "_from_model_config" not in generation


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        ({}, False),
        ({"add_bos_token": True, "add_eos_token": False}, False),
        ({"add_bos_token": False}, True),
        ({"add_eos_token": True}, True),
    ],
)
def test_the_tokenizers_file_decides_how_a_text_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, bool], warned: bool
) -> None:
    write(tmp_path / "hf", tokenizer=flags)
    begin_with_bos(tmp_path / "hf")
    out = convert(tmp_path / "hf", tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert tokenizer.encode(TOKENS[5]).ids == [1, 5]
    assert ("tokenizer.json takes precedence" in capsys.readouterr().err) is warned


def test_added_tokens_have_the_flags_of_the_configuration(tmp_path: Path) -> None:
    the = TOKENS.index("the")
    flags = {"content": "the", "special": True, "lstrip": True, "normalized": False}
    write(tmp_path / "hf", tokenizer={"added_tokens_decoder": {str(the): flags}})
    out = convert(tmp_path / "hf", tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    added = tokenizer.get_added_tokens_decoder()[the]
    assert (added.special, added.lstrip, added.normalized) == (True, True, False)


def test_special_tokens_of_an_older_tokenizer(tmp_path: Path) -> None:
    write(tmp_path / "hf", tokenizer={"added_tokens_decoder": None, "bos_token": None})
    path = tmp_path / "hf" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["added_tokens_decoder"]
    path.write_text(json.dumps(config))
    mapped = {"bos_token": {"content": TOKENS[0]}, "eos_token": TOKENS[1]}
    (tmp_path / "hf" / "special_tokens_map.json").write_text(json.dumps(mapped))
    out = convert(tmp_path / "hf", tmp_path / "out")
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == tuple(TOKENS[:2])


NAMED = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]


@pytest.mark.parametrize(
    ("files", "template", "wanted"),
    [
        ({}, "of the configuration", "of the configuration"),
        ({"chat_template.jinja": "of the file"}, "of the configuration", "of the file"),
        ({"chat_template.jinja": "of the file"}, None, "of the file"),
        ({"chat_template.json": '{"chat_template": "of a processor"}'}, None, "of a processor"),
        ({"chat_template.json": '{"chat_template": "of a processor"}'}, "own", "own"),
        ({}, NAMED, "named"),
        ({}, {"default": "named", "rag": "other"}, "named"),
        ({}, NAMED[:1], None),
        ({}, None, None),
    ],
)
def test_the_template_is_the_one_that_transformers_uses(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, str],
    template: Any,
    wanted: str | None,
) -> None:
    write(tmp_path / "hf", tokenizer={"chat_template": template})
    for name, content in files.items():
        (tmp_path / "hf" / name).write_text(content)
    out = convert(tmp_path / "hf", tmp_path / "out")
    found = chat_template.load(out)
    assert (found.source if found else None) == wanted
    assert json.loads((out / "tokenizer_config.json").read_text()).get("chat_template") == wanted
    assert not (out / "chat_template.json").exists()
    assert ("tool_use" in capsys.readouterr().err) == (template == NAMED[:1])


def test_a_template_that_paddlenlp_cannot_compile_is_in_its_own_file_only(tmp_path: Path) -> None:
    text = "{% generation %}x{% endgeneration %}\n"
    write(tmp_path / "hf", tokenizer={"chat_template": text})
    out = convert(tmp_path / "hf", tmp_path / "out")
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())
    assert (out / "chat_template.jinja").read_text() == text


def test_an_adapter_beside_a_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "hf")
    (tmp_path / "hf" / "adapter_config.json").write_text("{}")
    with pytest.raises(RequestError, match="a model and an adapter"):
        convert(tmp_path / "hf", tmp_path / "out")


@pytest.mark.parametrize("rules", [CONFIG, GENERATION, TOKENIZER])
def test_every_rule_says_why(rules: Mapping[str, KeyRule]) -> None:
    assert all(rule.used or rule.reason for rule in rules.values())
