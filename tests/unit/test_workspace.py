"""Names of models, runs and adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddle_stacks.errors import RequestError, render
from paddle_stacks.jobs.workspace import find_adapter, find_model, find_run, find_trained


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, content in {
        "models/small/config.json": '{"model_type": "llama"}',
        "models/broken/weights": "",
        "models/whole/config.json": "{}",
        "models/whole/model-00001-of-00002.safetensors": "",
        "runs/sft/config.json": '{"dataset_name_or_path": "d"}',
        "runs/sft/model/config.json": "{}",
        "runs/lora/config.json": '{"dataset_name_or_path": "d"}',
        "runs/lora/adapter/lora_config.json": "{}",
        "runs/both/adapter/lora_config.json": "{}",
        "runs/both/merged/config.json": "{}",
        "runs/half/config.json": '{"dataset_name_or_path": "d"}',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("small", "models/small"),
        ("models/small", "models/small"),
        ("runs/sft", "runs/sft/model"),
        ("runs/sft/model", "runs/sft/model"),
        ("runs/both", "runs/both/merged"),
    ],
)
def test_models(place: Path, name: str, folder: str) -> None:
    assert find_model(name, place) == place / folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smal", 'did you mean "small"?'),
        ("who", 'did you mean "whole"?'),
        ("nothing", "./inv fetch nothing"),
        ("broken", "it has no config.json"),
        ("runs/lora", "--adapter runs/lora"),
        ("runs/half", "continues where it stopped"),
    ],
)
def test_what_is_not_a_model(place: Path, name: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        find_model(name, place)
    assert words in render(caught.value)


def test_a_model_without_weights_is_none_to_answer_with(place: Path) -> None:
    assert find_trained("whole", place) == place / "models/whole"
    with pytest.raises(RequestError) as caught:
        find_trained("small", place)
    assert caught.value.problems[0].what.endswith("models/small has no weights: pretrain it first")
    assert "./inv pretrain" in caught.value.problems[0].remedy
    with pytest.raises(RequestError, match="broken is not a model"):
        find_trained("broken", place)


def test_runs_and_adapters(place: Path) -> None:
    assert find_run("lora", place) == find_run("runs/lora", place) == place / "runs/lora"
    for name in ("lora", "runs/lora", "runs/lora/adapter"):
        assert find_adapter(name, place) == place / "runs/lora/adapter"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lorra", 'did you mean "lora"?'),
        ("sft", "with a model instead of an adapter"),
        ("half", "if the run is unfinished"),
    ],
)
def test_what_is_not_an_adapter(place: Path, name: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        find_adapter(name, place)
    assert words in render(caught.value)
