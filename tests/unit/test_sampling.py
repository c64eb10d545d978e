"""Tokens are chosen with the probabilities that the options ask for."""

from __future__ import annotations

import numpy as np
import pytest

from entrypoints.inference.sampling import (
    Sampler,
    SamplingConfig,
    apply_repetition_penalty,
    distribution,
)

LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 0.0, 2.5, -4.0], dtype=np.float32)


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values.astype(np.float64) - values.max())
    return weights / weights.sum()


def by_token(logits: np.ndarray, sampling: SamplingConfig) -> dict[int, float]:
    tokens, probabilities = distribution(logits, sampling)
    return dict(zip(tokens.tolist(), probabilities.tolist(), strict=True))


def reference(logits: np.ndarray, sampling: SamplingConfig) -> dict[int, float]:
    """The steps of transformers, one after the other, on the whole vocabulary."""
    scores = logits.astype(np.float64) / sampling.temperature
    if sampling.top_k:
        scores[scores < np.sort(scores)[-min(sampling.top_k, scores.size)]] = -np.inf
    if sampling.top_p < 1:
        order = np.argsort(scores)  # rising, as TopPLogitsWarper has it
        removed = np.cumsum(softmax(scores)[order]) <= 1 - sampling.top_p
        removed[-1] = False
        scores[order[removed]] = -np.inf
    probabilities = softmax(scores)
    return {token: p for token, p in enumerate(probabilities.tolist()) if p > 0}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 3, 7, 100])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.83, 1.0])
def test_the_distribution_is_that_of_transformers(
    temperature: float, top_k: int, top_p: float
) -> None:
    sampling = SamplingConfig(False, temperature, top_k, top_p)
    assert by_token(LOGITS, sampling) == pytest.approx(reference(LOGITS, sampling))


@pytest.mark.parametrize(("scale", "top_p"), [(1.0, 0.9), (6.0, 0.9), (6.0, 0.5), (1.0, 1.0)])
def test_a_large_vocabulary_flat_and_peaked(scale: float, top_p: float) -> None:
    logits = np.random.default_rng(1).normal(size=20_000).astype(np.float32) * scale
    sampling = SamplingConfig(False, top_p=top_p)
    found = by_token(logits, sampling)
    assert found == pytest.approx(reference(logits, sampling))
    assert (len(found) > 512) == (scale == 1.0)  # both ways of sorting are taken


def test_ties_with_the_kth_stay() -> None:
    tied = np.array([2.0, 1.0, 1.0, 0.0], dtype=np.float32)
    assert sorted(by_token(tied, SamplingConfig(False, top_k=2))) == [0, 1, 2]


def test_drawn_frequencies_match_the_probabilities() -> None:
    sampling = SamplingConfig(False, temperature=1.3, top_p=0.97, seed=5)
    chooser, draws = Sampler(sampling, 0, ()), 20_000
    counts = np.bincount([chooser.sample(LOGITS) for _ in range(draws)], minlength=LOGITS.size)
    expected = np.zeros(LOGITS.size)
    for token, probability in by_token(LOGITS, sampling).items():
        expected[token] = probability * draws
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 22.5  # 5 degrees of freedom: passed by chance in 1 of 2,500; seeded


def test_greedy_takes_the_likeliest_whatever_else_is_said() -> None:
    assert Sampler(SamplingConfig(True, temperature=9.0, top_k=2), 0, ()).sample(LOGITS) == 1


def test_the_same_seed_and_number_choose_the_same() -> None:
    def drawn(seed: int, number: int) -> list[int]:
        chooser = Sampler(SamplingConfig(False, seed=seed), number, ())
        return [chooser.sample(LOGITS) for _ in range(50)]

    assert drawn(3, 1) == drawn(3, 1)
    assert drawn(3, 1) != drawn(3, 2)
    assert drawn(3, 1) != drawn(4, 1)


def test_the_penalty_divides_what_is_positive_and_multiplies_what_is_negative() -> None:
    found = apply_repetition_penalty(LOGITS, {1, 3}, 2.0)
    assert found.tolist() == [1.0, 1.5, 2.0, -2.0, 0.0, 2.5, -4.0]
    assert LOGITS[1] == 3.0  # the original is as it was


def test_the_penalty_counts_the_prompt_and_what_was_chosen() -> None:
    chooser = Sampler(SamplingConfig(repetition_penalty=10.0), 0, [1])
    assert [chooser.sample(LOGITS) for _ in range(3)] == [5, 2, 0]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5e-324])
@pytest.mark.filterwarnings("error")
def test_the_smallest_temperatures_take_the_likeliest(temperature: float) -> None:
    sampling = SamplingConfig(greedy=False, temperature=temperature)
    assert by_token(LOGITS, sampling)[1] == 1.0
    assert Sampler(sampling, 0, []).sample(LOGITS) == 1


# ------------------------------------------------------------------------ what vLLM has besides


def test_min_p_keeps_what_is_likely_beside_the_likeliest() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    tokens, probabilities = distribution(logits, SamplingConfig(greedy=False, min_p=0.29))
    assert tokens.tolist() == [0, 1, 2]
    assert probabilities == pytest.approx(np.array([0.5, 0.3, 0.15]) / 0.95)
    both = SamplingConfig(greedy=False, min_p=0.29, top_k=2, top_p=0.4)
    assert distribution(logits, both)[0].tolist() == [0]
    # After the temperature, as in vLLM: a cold one leaves fewer.
    cold = SamplingConfig(greedy=False, min_p=0.29, temperature=0.5)
    assert distribution(logits, cold)[0].tolist() == [0, 1]


def test_presence_and_frequency_penalties_count_what_was_generated() -> None:
    logits = np.array([3.0, 2.5, 0.0], dtype=np.float32)
    once = Sampler(SamplingConfig(presence_penalty=1.0), 0, [1, 1, 1])
    assert [once.sample(logits) for _ in range(4)] == [0, 1, 0, 0]
    often = Sampler(SamplingConfig(frequency_penalty=1.0), 0, [])
    assert [often.sample(logits) for _ in range(6)] == [0, 1, 0, 1, 0, 1]


def test_a_bias_and_banned_tokens_leave_the_logits_as_they_are() -> None:
    logits = np.array([3.0, 2.5, 0.0], dtype=np.float32)
    chooser = Sampler(SamplingConfig(logit_bias={2: 5.0}), 0, [])
    assert chooser.sample(logits) == 2
    assert chooser.sample(logits, banned={2, 0, 99}) == 1
    assert logits.tolist() == [3.0, 2.5, 0.0]
