"""Sampling of the next token from a model's logits.

The order of the steps, and their behavior at the limits, are those of Hugging Face
transformers (``generation/logits_process.py``): repetition penalty, temperature,
top-k, top-p. Parameters that only vLLM has are applied where vLLM applies them: logit bias
first, presence and frequency penalties after the repetition penalty, min-p after the
temperature.

Plain NumPy: Paddle's ``log_softmax`` is quadratic in the vocabulary on a CPU at batch 1,
and its ``top_p_sampling`` has no CPU kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = [
    "Logits",
    "SampledToken",
    "Sampler",
    "SamplingConfig",
    "TokenLogprob",
    "apply_repetition_penalty",
    "distribution",
    "sampled_token",
]

Logits = npt.NDArray[np.float32]

_LIKELY = 512  # the sampled token is nearly always among this many of the most probable ones


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling parameters.

    Args:
        greedy: always the most probable token; temperature, top_k and top_p are ignored.
        temperature: divides the logits; > 0.
        top_k: only the k most probable tokens; 0 for all.
        top_p: only the most probable tokens whose probabilities add up to at least this;
            in (0, 1], 1 for all.
        repetition_penalty: divides the positive logits of tokens that have occurred,
            in the prompt or since, and multiplies the negative ones; 1 for none.
        seed: of the random numbers; ≥ 0.
        min_p: only tokens with at least this share of the highest probability;
            0 for all.
        presence_penalty: subtracted from the logits of tokens that have been generated.
        frequency_penalty: the same, multiplied by how often the token has been generated.
        logit_bias: added to the logits of these tokens.
    """

    greedy: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class Sampler:
    """Samples the tokens of one answer.

    Its random numbers depend on the seed and the answer's number only, so an answer does not
    depend on the other rows of its batch.

    Args:
        sampling: the sampling parameters.
        number: the answer's number in the run, from 0.
        prompt: the prompt's tokens, which the repetition penalty counts.
    """

    def __init__(self, sampling: SamplingConfig, number: int, prompt: Iterable[int]) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64([sampling.seed, number]))
        self._seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        self._counts_tokens = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._counts: Counter[int] = Counter()

    def sample(self, logits: Logits, banned: Collection[int] = ()) -> int:
        """Return the next token.

        Args:
            logits: ``[vocabulary]``, float32.
            banned: tokens to exclude.
        """
        sampling = self._sampling
        logits = self._biased(logits, banned)
        if sampling.repetition_penalty != 1.0:
            logits = apply_repetition_penalty(logits, self._seen, sampling.repetition_penalty)
        if self._counts:
            tokens = np.fromiter(self._counts, dtype=np.int64)
            counts = np.fromiter(self._counts.values(), dtype=np.float32)
            logits = logits.copy()
            logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        if sampling.greedy:
            token = int(logits.argmax())
        else:
            tokens, probabilities = distribution(logits, sampling)
            edges = np.cumsum(probabilities)
            drawn = self._random.random() * edges[-1]
            token = int(tokens[np.searchsorted(edges, drawn, side="right")])
        if sampling.repetition_penalty != 1.0:
            self._seen.add(token)
        if self._counts_tokens:
            self._counts[token] += 1
        return token

    def _biased(self, logits: Logits, banned: Collection[int]) -> Logits:
        bias = self._sampling.logit_bias
        if not (bias or banned):
            return logits
        logits = logits.copy()
        for token, value in bias.items():
            logits[token] += value
        logits[[token for token in banned if token < logits.size]] = -np.inf
        return logits


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its log probability.

    Args:
        token: its ID.
        logprob: natural logarithm of its probability, before temperature and penalties.
    """

    token: int
    logprob: float


@dataclass(frozen=True)
class SampledToken:
    """A generated token with log probabilities.

    Args:
        chosen: the token.
        top_logprobs: the most probable tokens at its position, in descending order.
    """

    chosen: TokenLogprob
    top_logprobs: tuple[TokenLogprob, ...]


def sampled_token(logits: Logits, token: int, top_logprobs: int) -> SampledToken:
    """Return a token with the log probabilities at its position.

    Args:
        logits: ``[vocabulary]``, float32, the model's output.
        token: the sampled token.
        top_logprobs: the number of most probable tokens to return.
    """
    exact = logits.astype(np.float64)
    exact -= exact.max()
    exact -= np.log(np.exp(exact).sum())
    count = min(top_logprobs, exact.size)
    best = np.argpartition(exact, -count)[-count:] if count else np.arange(0)
    ordered = best[np.lexsort((best, -exact[best]))]
    top = tuple(TokenLogprob(int(at), float(exact[at])) for at in ordered)
    return SampledToken(TokenLogprob(token, float(exact[token])), top)


def apply_repetition_penalty(logits: Logits, seen: Iterable[int], penalty: float) -> Logits:
    """Return the logits with the repetition penalty of CTRL (arXiv:1909.05858) on ``seen``."""
    tokens = np.fromiter(seen, dtype=np.int64)
    logits = logits.copy()
    values = logits[tokens]
    logits[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return logits


def distribution(
    logits: Logits, sampling: SamplingConfig
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the candidates for the next token, most probable first, and their probabilities.

    Args:
        logits: ``[vocabulary]``, float32.
        sampling: temperature, min_p, top_k and top_p are used.
    """
    scaled = logits.astype(np.float64)
    scaled -= scaled.max()  # first, so that the maximum stays 0 at any temperature
    with np.errstate(over="ignore"):
        scaled /= sampling.temperature
    tokens = np.arange(scaled.size)
    if sampling.min_p:
        tokens = np.flatnonzero(scaled >= np.log(sampling.min_p))
        scaled = scaled[tokens]
    if 0 < sampling.top_k < scaled.size:
        # Ties with the k-th stay, as in transformers.
        top = np.flatnonzero(scaled >= np.partition(scaled, -sampling.top_k)[-sampling.top_k])
        tokens, scaled = tokens[top], scaled[top]
    weights = np.exp(scaled)
    weights /= weights.sum()
    order = _most_probable_first(weights, sampling.top_p)
    tokens, weights = tokens[order], weights[order]
    if sampling.top_p < 1.0:
        # A token stays if those before it do not add up to top_p.
        count = int(np.searchsorted(np.cumsum(weights), sampling.top_p, side="left")) + 1
        tokens, weights = tokens[:count], weights[:count]
    return tokens, weights / weights.sum()


def _most_probable_first(weights: npt.NDArray[np.float64], needed: float) -> npt.NDArray[np.int64]:
    """Return an order by descending weight that covers at least ``needed`` of the total.

    Sorting a vocabulary takes longer than a step of a small model, so only a few hundred tokens
    are sorted if they cover it.
    """
    if needed < 1.0 and weights.size > 2 * _LIKELY:
        likely = np.argpartition(weights, -_LIKELY)[-_LIKELY:]
        if weights[likely].sum() > needed:
            return _sorted(likely, weights)
    return _sorted(np.arange(weights.size), weights)


def _sorted(
    tokens: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    # By token if weights are equal, so that both callers give the same order.
    ordered: npt.NDArray[np.int64] = tokens[np.lexsort((tokens, -weights[tokens]))]
    return ordered
