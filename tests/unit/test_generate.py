"""What is wanted of an answer, what is told of it, and what a benchmark measures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from entrypoints.inference import benchmark
from entrypoints.inference.arguments import parse
from entrypoints.inference.generate import GenerationConfig, StoppingCriteria, with_overrides
from entrypoints.inference.sampling import SamplingConfig, sampled_token
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.prompts import DEFAULT_SAMPLING, SamplingParams

VOCABULARY = 11
GREEDY = GenerationConfig(SamplingConfig(), StoppingCriteria(8, 100, ("a",)), None)
SAMPLING = dataclasses.replace(GREEDY, sampling=SamplingConfig(greedy=False, top_k=3, seed=1))


@pytest.mark.parametrize(
    ("usual", "wishes", "sampling"),
    [
        (GREEDY, DEFAULT_SAMPLING, SamplingConfig()),
        (SAMPLING, DEFAULT_SAMPLING, SamplingConfig(greedy=False, top_k=3, seed=1)),
        (GREEDY, SamplingParams(top_p=0.5), SamplingConfig(greedy=False, top_p=0.5)),
        (GREEDY, SamplingParams(seed=4), SamplingConfig(seed=4)),
        (GREEDY, SamplingParams(decode="sampling"), SamplingConfig(greedy=False)),
        (SAMPLING, SamplingParams(decode="greedy"), SamplingConfig(greedy=True, top_k=3, seed=1)),
        (SAMPLING, SamplingParams(top_k=0, seed=0), SamplingConfig(greedy=False, top_k=0, seed=0)),
    ],
)
def test_a_prompt_chooses_how_it_is_answered(
    usual: GenerationConfig, wishes: SamplingParams, sampling: SamplingConfig
) -> None:
    assert with_overrides(usual, wishes).sampling == sampling


def test_a_prompt_chooses_where_its_answer_ends() -> None:
    assert with_overrides(GREEDY, DEFAULT_SAMPLING).limits == GREEDY.limits
    limits = with_overrides(GREEDY, SamplingParams(max_new_tokens=2)).limits
    assert limits == StoppingCriteria(2, 100, ("a",))
    assert with_overrides(GREEDY, SamplingParams(stop=())).limits == StoppingCriteria(8, 100, ())


def test_how_likely_tokens_are() -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0, -5.0], dtype=np.float32)
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    found = sampled_token(logits, 2, 3)
    assert found.chosen.token == 2
    assert found.chosen.logprob == pytest.approx(exact[2])
    assert [each.token for each in found.top_logprobs] == [1, 3, 2]
    assert [each.logprob for each in found.top_logprobs] == pytest.approx(exact[[1, 3, 2]].tolist())
    assert sampled_token(logits, 2, 0).top_logprobs == ()
    assert len(sampled_token(logits, 2, 20).top_logprobs) == 5


class CountingModel:
    """Stands for a model: its next token is the number of tokens that it has read."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.steps: list[list[int]] = []

    def start(self, prompts):
        self.started.append((len(prompts), len(prompts[0])))
        assert all(0 <= token < VOCABULARY for prompt in prompts for token in prompt)
        return CountingDecoding(self, len(prompts), len(prompts[0]))


class CountingDecoding:
    def __init__(self, model: CountingModel, rows: int, read: int) -> None:
        self._model, self._rows, self._read = model, rows, read

    @property
    def logits(self) -> np.ndarray:
        return np.eye(VOCABULARY, dtype=np.float32)[[self._read % VOCABULARY] * self._rows]

    def step(self, tokens: list[int]) -> None:
        self._model.steps.append(tokens)
        self._read += 1


def options(*argv: str):
    return parse(["--model", "m", "--benchmark", *argv])


def test_a_benchmark_does_what_it_says() -> None:
    model = CountingModel()
    line = ["--batch-size", "3", "--source-length", "7", "--max-new-tokens", "4", "--rounds", "2"]
    found = benchmark.measure(model, options(*line), VOCABULARY)  # type: ignore[arg-type]
    assert model.started == [(3, 7)] * 3  # the first round is not counted
    assert model.steps == [[7] * 3, [8] * 3, [9] * 3] * 3
    assert (found["batch_size"], found["source_length"], found["output_length"]) == (3, 7, 4)
    for name in ("seconds_to_first_token", "seconds_per_step"):
        assert found[name]["p50"] <= found[name]["p90"] <= found[name]["p99"]
    assert min(found["prefill_tokens_per_second"], found["decode_tokens_per_second"]) > 0
    assert found["peak_memory_mib"] > 10


def test_a_benchmark_of_one_token_has_no_steps() -> None:
    model = CountingModel()
    line = ["--max-new-tokens", "1", "--rounds", "1", "--source-length", "2"]
    found = benchmark.measure(model, options(*line), VOCABULARY)  # type: ignore[arg-type]
    assert found["seconds_per_step"] is None
    assert found["decode_tokens_per_second"] is None
    shown = {"engine": "dynamic", "threads": 2, "load_seconds": 0.1, **found}
    assert any(row.split() == ["a", "step", "-"] for row in benchmark.table(shown))


def test_a_benchmark_writes_one_document(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = ["--max-new-tokens", "2", "--rounds", "1", "--source-length", "2"]
    benchmark.run(options(*line), CountingModel, VOCABULARY)  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert json.loads(said.out)["output_length"] == 2
    assert "to the first token" in said.err
    path = tmp_path / "found.json"
    asked = options(*line, "--output", str(path))
    benchmark.run(asked, CountingModel, VOCABULARY)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    assert json.loads(path.read_text())["rounds"] == 1


def test_a_benchmark_that_does_not_fit() -> None:
    asked = options("--source-length", "90", "--max-new-tokens", "20")
    benchmark.check_lengths(asked, 110)
    with pytest.raises(RequestError, match="are 110 in total, but the model's context is 109"):
        benchmark.check_lengths(asked, 109)
