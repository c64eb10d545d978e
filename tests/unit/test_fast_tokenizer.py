"""Tokenizers that need no PaddleNLP, and those that are left to it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from entrypoints.inference.text import Text
from entrypoints.models import fast_tokenizer
from paddle_stacks.errors import RequestError, Stopped
from paddle_stacks.jobs.prompts import question
from tests.support.fast_tokenizer import write


def loaded(folder: Path) -> fast_tokenizer.FastTokenizer:
    tokenizer = fast_tokenizer.load(folder)
    assert tokenizer is not None
    return tokenizer


def test_texts_become_tokens_and_back(tmp_path: Path) -> None:
    tokenizer = loaded(write(tmp_path))
    plain = tokenizer("hello", add_special_tokens=False, return_attention_mask=False)["input_ids"]
    assert [tokenizer.convert_ids_to_tokens(token) for token in plain] == ["he", "l", "l", "o"]
    assert tokenizer("hello")["input_ids"] == [0, *plain]
    assert tokenizer("he</s>")["input_ids"] == [0, plain[0], 1]
    assert tokenizer.decode([0, *plain, 1]) == "<s>hello</s>"
    assert tokenizer.decode([0, *plain, 1], skip_special_tokens=True) == "hello"
    long = "a text that is longer than what the file would cut it to"
    assert tokenizer.decode(tokenizer(long, add_special_tokens=False)["input_ids"]) == long


def test_special_tokens_have_names_and_numbers(tmp_path: Path) -> None:
    tokenizer = loaded(write(tmp_path))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", None)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, None)
    assert tokenizer.special_tokens_map == {"bos_token": "<s>", "eos_token": "</s>"}
    with pytest.raises(AttributeError):
        tokenizer.unknown  # noqa: B018
    assert tokenizer.convert_ids_to_tokens(9999) is None


def test_it_serves_as_the_tokenizer_of_prompts(tmp_path: Path) -> None:
    text = Text(loaded(write(tmp_path)), tmp_path, 64, raw=False)
    tokens = text.tokens(question("h\u00e9, hello", None))
    assert tokens[0] == 0
    assert text.decode(tokens) == "h\u00e9, hello"
    assert text.ends == {1}
    assert b"".join(map(text.token_bytes, tokens[1:])) == "h\u00e9, hello".encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"tokenizer_class": None},
        {"pad_token": "<pad>"},  # PaddleNLP adds it to the vocabulary
        {"additional_special_tokens": ["<extra>"]},
        {"added_tokens_decoder": {"7": {"content": "<seven>"}}},
        {"split_special_tokens": True},
        {"add_prefix_space": True},
    ],
)
def test_what_paddlenlp_treats_in_its_own_way_is_left_to_it(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert fast_tokenizer.load(write(tmp_path, **changes)) is None


@pytest.mark.parametrize(
    "name", ["special_tokens_map.json", "added_tokens.json", "chat_template.json"]
)
def test_files_that_paddlenlp_reads_besides_are_left_to_it(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / name).write_text("{}")
    assert fast_tokenizer.load(tmp_path) is None


def test_a_model_without_the_file_is_left_to_paddlenlp(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert fast_tokenizer.load(tmp_path) is None


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(RequestError, match="tokenizer cannot be loaded"):
        fast_tokenizer.load(tmp_path)


def test_a_signal_while_it_loads_is_not_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        @staticmethod
        def from_file(path: str) -> None:
            raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("tokenizers.Tokenizer", Interrupted)
    with pytest.raises(Stopped):
        fast_tokenizer.load(write(tmp_path))
