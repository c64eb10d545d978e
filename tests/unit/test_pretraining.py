"""What can be wrong with a pretraining, told before a model is made: each with its remedy."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import corpus, parallelism, pretraining, schema

GOOD: dict[str, Any] = {
    "model_name_or_path": "nano",
    "input_dir": "data/text",
    "max_seq_length": 16,
    "max_steps": 100,
    "learning_rate": 1e-3,
    "min_learning_rate": 1e-4,
    "split": "8,1,1",
}
MODEL = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


def write_corpus(prefix: Path, lengths: list[int], largest: int = 500) -> None:
    """Write a corpus as upstream's builder does; tokens count up to ``largest`` and again."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tokens = array("H", [n % (largest + 1) for n in range(sum(lengths))])
    corpus.tokens_path(prefix).write_bytes(tokens.tobytes())
    places = [2 * sum(lengths[:n]) for n in range(len(lengths))]
    head = corpus.HEADER.pack(corpus.MAGIC, 1, 8, len(lengths), len(lengths) + 1)
    body = array("i", lengths).tobytes() + array("q", places).tobytes()
    ends = array("q", range(len(lengths) + 1)).tobytes()
    corpus.index_path(prefix).write_bytes(head + body + ends)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data" / "text", [40] * 50)
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "config.json").write_text(json.dumps(MODEL))
    return tmp_path


def load(world: int = 1, backend: str = "cpu", **changes: Any) -> schema.Config:
    values = {k: v for k, v in (GOOD | changes).items() if v is not ...}
    Path("my.json").write_text(json.dumps(values, indent=2))
    return schema.load(Path("my.json"), job="pretrain", backend=backend, world=world)


def refused(world: int = 1, backend: str = "cpu", **changes: Any) -> str:
    """Return all that is told of a configuration, from its schema or of its parts."""
    with pytest.raises(RequestError) as caught:
        config = load(world, backend, **changes)
        parts = corpus.parts(config["input_dir"])
        pretraining.check(config, Path("nano"), parts, world)
    assert all(problem.where for problem in caught.value.problems)
    return "\n".join(f"{p.what} | {p.where} | {p.remedy}" for p in caught.value.problems)


def test_a_right_one_is_right(here: Path) -> None:
    config = load()
    pretraining.check(config, here / "nano", corpus.parts("data/text"), 1)
    assert config["lr_scheduler_type"] == "linear" and not config["continue_training"]
    again = Path("again.json")
    again.write_text(config.to_json())
    assert schema.load(again, job="pretrain").to_json() == config.to_json()


# Of the configuration alone: the line it is in, and what to do.
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_dir": ...}, '"input_dir" is missing | my.json | write "input_dir"'),
        ({"model_name_or_path": ...}, '"model_name_or_path" is missing'),
        ({"max_steps": ...}, '"max_steps" is required: a pretraining has no epochs'),
        ({"max_steps": 0}, '"max_steps" is 0: there is nothing to train'),
        ({"max_steps": "100"}, "a number has no quotes"),
        ({"max_seq_length": 0}, '"max_seq_length" must be at least 1'),
        ({"max_length": 64}, '"max_length" is called "max_seq_length"'),
        ({"dataset_name_or_path": "x"}, '"dataset_name_or_path" is called "input_dir"'),
        ({"min_lr": 1e-5}, '"min_lr" is called "min_learning_rate"'),
        ({"max_step": 3}, 'unknown key "max_step" | my.json:9 | did you mean "max_steps"?'),
        ({"lora": True}, 'unknown key "lora"'),
        ({"lr_scheduler_type": "constant"}, 'one of "linear", "cosine"'),
        ({"min_learning_rate": 1e-2}, 'is above "learning_rate"'),
        ({"warmup_steps": 100}, "must end before the decay does"),
        ({"warmup_ratio": 1.0}, "must end before the decay does"),
        ({"decay_steps": 20, "warmup_steps": 30}, "before the decay does, at step 20"),
        ({"split": "a,b"}, 'is not a split | my.json:8 | such as "949,50,1"'),
        ({"split": "-1,2,3"}, "is not a split"),
        ({"split": "1,0,0", "evaluation_strategy": "steps"}, "nothing for evaluation"),
        ({"split": "9,1,0", "do_predict": True}, "nothing for test"),
        ({"do_eval": True}, '"evaluation_strategy" is "no"'),
        ({"do_train": False}, '"do_train" is false'),
        ({"data_impl": "lazy"}, '"data_impl" cannot be "lazy"'),
        ({"fp16": True}, "a CPU has no loss scaling for float16"),
        ({"use_flash_attention": True}, "this kernel requires an accelerator"),
        ({"metric_for_best_model": "accuracy"}, 'cannot be "accuracy"'),
        ({"ignore_data_skip": True}, "training would not continue where it stopped"),
        ({"sharding": "stage4"}, '"sharding" cannot be "stage4"'),
        ({"sharding": "stage2"}, "Paddle shards only the optimizer state on a CPU"),
        ({"sequence_parallel": True}, 'requires "tensor_parallel_degree" of at least 2'),
        ({"virtual_pp_degree": 2}, 'requires "pipeline_parallel_degree" of at least 3'),
        ({"sep_parallel_degree": 2, "context_parallel_degree": 2}, "exclude each other"),
        ({"seed": -1}, '"seed" must be in 0 … 4294967295'),
        ({"gradient_accumulation_steps": 0}, "must be at least 1"),
    ],
)
def test_what_a_configuration_gets_wrong(here: Path, changes: dict[str, Any], told: str) -> None:
    assert told in refused(**changes)


# Of the corpus and the model.
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_dir": "data/txet"}, 'txet.idx does not exist | data | did you mean "text"?'),
        ({"input_dir": "0.5 data/text 0.5"}, "must alternate weights and prefixes"),
        ({"input_dir": "0 data/text 1 data/text"}, 'a weight must be greater than 0, got "0"'),
        ({"max_seq_length": 2000}, "a sample needs 2001"),
        (
            {"evaluation_strategy": "steps", "split": "99,1,0", "max_seq_length": 64},
            "tokens for evaluation; a sample needs 65",
        ),
        ({"continue_training": True}, "the model has no weights to continue from | nano"),
    ],
)
def test_what_the_text_and_the_model_do_not_give(
    here: Path, changes: dict[str, Any], told: str
) -> None:
    assert told in refused(**changes)


def test_a_corpus_of_another_tokenizer(here: Path) -> None:
    write_corpus(here / "data" / "other", [40] * 50, largest=512)
    said = refused(input_dir="data/other")
    assert "the corpus contains token 512, but the model's vocabulary ends at 511" in said
    assert "./inv prepare --model nano" in said


def test_a_corpus_that_is_cut_off(here: Path) -> None:
    path = here / "data" / "text.bin"
    path.write_bytes(path.read_bytes()[:-2])
    assert "expected 4000 bytes, as in the index, got 3998 | data/text.bin" in refused()
    path.unlink()
    assert "text.bin does not exist" in refused()


def test_a_model_whose_configuration_is_none(here: Path) -> None:
    (here / "nano" / "config.json").write_text("{")
    assert "the file is not JSON" in refused() and "fetch the model again" in refused()


# Of the layout: processes, degrees, and the model's shape.
@pytest.mark.parametrize(
    ("world", "changes", "told"),
    [
        (1, {"tensor_parallel_degree": 2}, "tensor 2 requires 2 devices, got 1"),
        (4, {"tensor_parallel_degree": 3}, "4 devices cannot be divided into groups of 3"),
        (3, {"tensor_parallel_degree": 3}, "4 heads cannot be divided by tp=3"),
        (3, {"pipeline_parallel_degree": 3}, "4 layers cannot be divided into 3"),
        (2, {"pipeline_parallel_degree": 2, "num_hidden_layers": 3}, "3 layers cannot"),
        (
            4,
            {
                "pipeline_parallel_degree": 4,
                "virtual_pp_degree": 2,
                "num_hidden_layers": 8,
                "gradient_accumulation_steps": 6,
            },
            '"gradient_accumulation_steps" (6) must be a multiple',
        ),
        (8, {"pipeline_parallel_degree": 2, "sharding": "stage3"}, "stage1"),
    ],
)
def test_what_cannot_be_spread(here: Path, world: int, changes: dict[str, Any], told: str) -> None:
    assert told in refused(world, **changes)


def test_a_head_that_is_the_embedding_has_no_stages(here: Path) -> None:
    (here / "nano" / "config.json").write_text(json.dumps(MODEL | {"tie_word_embeddings": True}))
    assert "with tied embeddings" in refused(2, pipeline_parallel_degree=2)


def test_heads_of_keys_need_not_divide(here: Path) -> None:
    """Where there are fewer of them than processes, each has them all."""
    config = load(4, tensor_parallel_degree=4)
    assert not list(parallelism.faults(config, here / "nano", 4))


@pytest.mark.parametrize(
    ("world", "changes", "sequences"),
    [
        (1, {}, 8),
        (2, {}, 16),
        (2, {"tensor_parallel_degree": 2}, 8),
        (4, {"tensor_parallel_degree": 2, "gradient_accumulation_steps": 3}, 48),
        (8, {"pipeline_parallel_degree": 2, "sharding": "stage1"}, 32),
        (8, {"sharding": "stage1", "sharding_parallel_degree": 2}, 64),
    ],
)
def test_how_many_sequences_a_step_has(
    here: Path, world: int, changes: dict[str, Any], sequences: int
) -> None:
    assert pretraining.sequences_of_a_step(load(world, **changes), world) == sequences


def test_a_file_of_the_documents_kind_is_read(here: Path) -> None:
    """It asks for evaluation by ``eval_steps`` alone, as upstream's own files do."""
    config = load(1, "dcu", do_eval=True, eval_steps=20, fp16=True, fp16_opt_level="O2")
    assert config["evaluation_strategy"] == "steps" and config["device"] == "gpu"
