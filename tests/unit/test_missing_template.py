"""A model without a chat template: told before a training, refused in a chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from entrypoints.inference.generation_config import repetition_penalty
from entrypoints.inference.text import Text
from entrypoints.models.chat_template import ChatTemplate
from entrypoints.serving.errors import ApiError
from entrypoints.serving.preprocess import Encoder, RequestLimits
from entrypoints.serving.protocol import ChatRequest
from entrypoints.training.data import Encoder as TrainingEncoder
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import chat_templates, schema
from paddle_stacks.jobs.prompts import Message, Prompt
from paddle_stacks.jobs.records import Record
from tests.support.fake_model import CONTEXT, VOCABULARY, FakeTokenizer

ASKED = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "a"}]})


def text(template: Any, vocabulary_size: int | None = None) -> Text:
    tokenizer = FakeTokenizer()
    tokenizer.chat_template = template
    return Text(tokenizer, Path("/no/such/folder"), CONTEXT, False, vocabulary_size)


def encoder(chat: Text) -> Encoder:
    bounds = RequestLimits(
        context=CONTEXT,
        vocabulary=VOCABULARY,
        prompt_tokens=CONTEXT - 1,
        new_tokens=8,
        cache_tokens=CONTEXT,
        max_num_seqs=4,
        seconds=1,
    )
    return Encoder(chat, chat, bounds)


def test_a_chat_is_a_client_error() -> None:
    with pytest.raises(ApiError) as caught:
        encoder(text(None)).chat(ASKED)
    assert caught.value.status == 400
    assert "no chat template" in str(caught.value)


def test_what_a_template_raises_is_the_error_of_that_request() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ApiError, match="chat template fails: roles must alternate") as caught:
        encoder(text(template)).chat(ASKED)
    assert caught.value.status == 400


def test_a_token_that_the_model_has_no_row_for_is_a_client_error() -> None:
    chat = text(ChatTemplate("{{ messages[0].content }}"), vocabulary_size=50)
    with pytest.raises(ApiError, match="the model's vocabulary is 50") as caught:
        encoder(chat).chat(ASKED)
    assert caught.value.status == 400


def test_a_prompt_is_taken_as_it_is() -> None:
    plain = Prompt(0, (Message("user", "ab"),), plain=True)
    assert text(None).tokens(plain) == FakeTokenizer()("ab")["input_ids"]


def test_a_record_that_a_template_refuses_is_named() -> None:
    tokenizer = FakeTokenizer()
    tokenizer.chat_template = ChatTemplate("{{ raise_exception('no') }}")
    record = Record(src=("a",), tgt=("b",), context={}, where="train.json:7")
    with pytest.raises(RequestError, match="rejects this record: no") as caught:
        TrainingEncoder(tokenizer, 32, 64).encode(record)
    assert caught.value.problems[0].where == "train.json:7"


def config(folder: Path, **values: Any) -> schema.Config:
    path = folder / "my.json"
    body = {"model_name_or_path": "m", "dataset_name_or_path": "data", **values}
    path.write_text(json.dumps(body))
    return schema.load(path, [])


@pytest.mark.parametrize(
    ("files", "values", "noted"),
    [
        ({}, {}, True),
        ({"tokenizer_config.json": '{"chat_template": null}'}, {}, True),
        ({"tokenizer_config.json": '{"chat_template": "x"}'}, {}, False),
        ({"chat_template.jinja": "x"}, {}, False),
        ({"chat_template.json": "{}"}, {}, False),
        ({}, {"chat_template": "none"}, False),  # wanted so
        ({}, {"model_name_or_path": "other"}, False),  # named as missing elsewhere
    ],
)
def test_a_training_says_so(
    tmp_path: Path, files: dict[str, str], values: dict[str, Any], noted: bool
) -> None:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    for name, content in {"config.json": "{}", **files}.items():
        (folder / name).write_text(content)
    note = chat_templates.missing_note(config(tmp_path, **values), tmp_path)
    assert ("has no chat template" in note) is noted


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(None, 1.0), ("{}", 1.0), ('{"repetition_penalty": 1.2}', 1.2)],
)
def test_the_models_repetition_penalty(tmp_path: Path, content: str | None, wanted: float) -> None:
    if content is not None:
        (tmp_path / "generation_config.json").write_text(content)
    assert repetition_penalty(tmp_path) == wanted


@pytest.mark.parametrize("value", [0, -1, "2", True, float("inf")])
def test_a_damaged_repetition_penalty(tmp_path: Path, value: Any) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"repetition_penalty": value}))
    with pytest.raises(RequestError, match="expected a number above 0"):
        repetition_penalty(tmp_path)
