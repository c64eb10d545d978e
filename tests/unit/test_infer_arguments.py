"""The arguments of ``infer``: defaults, and every fault at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from entrypoints.inference.arguments import parse
from entrypoints.inference.sampling import SamplingConfig
from paddle_stacks import recipes
from paddle_stacks.errors import RequestError

ROOT = Path(__file__).parents[2]
MODEL = ["--model", "m"]
PROMPT = [*MODEL, "--prompt", "x"]


def faults(*argv: str) -> str:
    with pytest.raises(RequestError) as caught:
        parse(list(argv))
    return "\n".join(problem.what for problem in caught.value.problems)


def test_defaults() -> None:
    options = parse(PROMPT)
    assert options.sampling == SamplingConfig(True, 1.0, 0, 1.0, 1.0, 0)
    assert (options.max_new_tokens, options.batch_size, options.stop) == (128, 8, ())
    assert (options.output_file, options.adapter, options.system) == (None, None, None)


@pytest.mark.parametrize("option", ["--temperature=0.7", "--top-k=5", "--top-p=0.9"])
def test_an_option_of_sampling_means_sampling(option: str) -> None:
    assert not parse([*PROMPT, option]).sampling.greedy


@pytest.mark.parametrize(("given", "used"), [([], 1.3), (["--repetition-penalty", "1.0"], 1.0)])
def test_the_models_repetition_penalty_is_the_default(given: list[str], used: float) -> None:
    options = parse([*PROMPT, *given]).with_repetition_penalty(1.3)
    assert options.sampling.repetition_penalty == used


@pytest.mark.parametrize("option", ["--seed=4", "--repetition-penalty=1.1"])
def test_other_options_do_not(option: str) -> None:
    assert parse([*PROMPT, option]).sampling.greedy


def test_what_is_said_counts() -> None:
    line = [*MODEL, "--input", "-", "--stop", "a", "--stop", "b", "--decode", "sampling"]
    options = parse([*line, "--top-k", "3", "--seed", "9", "--output", "o", "--force"])
    assert options.sampling == SamplingConfig(False, 1.0, 3, 1.0, 1.0, 9)
    assert (options.input, options.output_file, options.force) == ("-", "o", True)
    assert options.stop == ("a", "b")


@pytest.mark.parametrize("output", [[], ["--output", "-"], ["--output", ""]])
def test_answers_go_to_standard_output(output: list[str]) -> None:
    assert parse([*MODEL, "--input", "i", *output]).output_file is None


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--prompt", "x"], "--model"),
        (MODEL, "expected one of --prompt, --input, --chat and --benchmark, got none"),
        ([*PROMPT, "--benchmark"], "--prompt and --benchmark"),
        ([*PROMPT, "--logprobs", "2"], "--logprobs requires --input"),
        ([*MODEL, "--input", "i", "--logprobs", "21"], "--logprobs must be in 0 … 20, got 21"),
        ([*MODEL, "--benchmark", "--source-length", "0"], "--source-length must be at least 1"),
        ([*MODEL, "--benchmark", "--rounds", "0"], "--rounds must be"),
        ([*PROMPT, "--chat"], "--prompt and --chat"),
        ([*PROMPT, "--input", "i"], "--prompt and --input"),
        ([*PROMPT, "--output", "o"], "--output requires --input"),
        ([*PROMPT, "--raw", "--system", "s"], "--raw cannot be combined with --system"),
        ([*MODEL, "--chat", "--raw"], "--raw cannot be combined"),
        (
            [*PROMPT, "--decode", "greedy", "--top-p", "0.5"],
            "--decode greedy cannot be combined with --top-p",
        ),
        ([*PROMPT, "--decode", "beam"], "beam"),
        (
            [*PROMPT, "--temperature", "0"],
            "--temperature must be greater than 0 and at most 1e+09, got 0.0",
        ),
        ([*PROMPT, "--temperature", "nan"], "--temperature must be"),
        ([*PROMPT, "--temperature", "inf"], "--temperature must be"),
        ([*PROMPT, "--temperature", "warm"], "warm"),
        ([*PROMPT, "--top-k", "-1"], "--top-k must be"),
        ([*PROMPT, "--top-p", "0"], "--top-p must be"),
        ([*PROMPT, "--top-p", "1.1"], "--top-p must be"),
        ([*PROMPT, "--repetition-penalty", "0"], "--repetition-penalty must be"),
        ([*PROMPT, "--seed", "-1"], "--seed must be"),
        ([*PROMPT, "--max-new-tokens", "0"], "--max-new-tokens must be"),
        ([*PROMPT, "--batch-size", "0"], "--batch-size must be"),
        ([*PROMPT, "--stop", ""], "--stop is empty"),
        ([*PROMPT, "--dtype", "float16"], "float16"),
        ([*PROMPT, "--precision", "int8"], "--precision requires --engine native"),
        ([*PROMPT, "--engine", "native", "--precision", "int4"], "int4"),
        ([*PROMPT, "--max-tokens", "5"], "infer has no option --max-tokens"),
    ],
)
def test_a_wrong_argument(argv: list[str], words: str) -> None:
    assert words in faults(*argv)


@pytest.mark.parametrize(
    ("backend", "engine", "words"),
    [
        ("cpu", "fused", "requires the operators of a DCU"),
        ("cpu", "block", "requires the operators of a DCU"),
        ("dcu-sim", "block", "requires the operators of a DCU"),
        ("dcu", "fused", "is upstream's program on a DCU"),
        ("dcu", "static", "is upstream's program on a DCU"),
        ("dcu", "native", "--engine native computes on a CPU"),
        ("cpu", "statik", "statik"),
    ],
)
def test_an_engine_that_is_not_here(
    monkeypatch: pytest.MonkeyPatch, backend: str, engine: str, words: str
) -> None:
    monkeypatch.setenv("PADDLE_STACKS_BACKEND", backend)
    assert words in faults(*PROMPT, "--engine", engine)


def test_the_recipes_of_other_engines_are_there() -> None:
    known = recipes.load(ROOT, "dcu")
    for engine in ("fused", "block"):
        with pytest.raises(RequestError) as caught:
            parse([*PROMPT, "--engine", engine])
        named = re.findall(r"infer-[\w-]+", caught.value.problems[0].remedy)
        assert named
        assert [name for name in named if name not in known] == []


def test_a_static_graph_takes_no_adapter() -> None:
    assert parse([*PROMPT, "--engine", "static"]).engine == "static"
    found = faults(*PROMPT, "--engine", "static", "--adapter", "a")
    assert "the graph contains its adapter" in found


def test_all_faults_at_once() -> None:
    found = faults(*MODEL, "--top-p", "2", "--seed", "-1", "--stop", "")
    assert [word in found for word in ("expected one of", "got 2.0", "--seed must", "--stop")] == [
        True
    ] * 4


def test_the_remedy_for_no_temperature() -> None:
    with pytest.raises(RequestError) as caught:
        parse([*PROMPT, "--temperature", "0"])
    assert "--decode greedy" in caught.value.problems[0].remedy


@pytest.mark.parametrize(
    ("backend", "dtype"), [("cpu", "float32"), ("dcu-sim", "float32"), ("dcu", "float16")]
)
def test_what_is_computed_in(monkeypatch: pytest.MonkeyPatch, backend: str, dtype: str) -> None:
    monkeypatch.setenv("PADDLE_STACKS_BACKEND", backend)
    assert parse(PROMPT).compute_dtype == dtype
    assert parse([*PROMPT, "--dtype", "float32"]).compute_dtype == "float32"
    if dtype == "float32":
        assert "a CPU computes in float32" in faults(*PROMPT, "--dtype", "float16")
    else:
        assert parse([*PROMPT, "--dtype", "float16"]).compute_dtype == "float16"
