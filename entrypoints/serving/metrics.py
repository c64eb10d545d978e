"""Prometheus metrics, by the names that vLLM made usual.

https://docs.vllm.ai/en/stable/usage/metrics/: a dashboard or an autoscaler that knows
vLLM's knows these. What a name means there it means here; those of parts that this
server has not (preemption, prefix caches, …) are left out.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import Counter as _Counter
from prometheus_client import Gauge as _Gauge
from prometheus_client import Histogram as _Histogram

from entrypoints.serving.work import Work

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_STEP_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_COUNTS = (1, 2, 4, 8, 16)


class Metrics:
    """The metrics of one server.

    Args:
        model: the model's name, a label of them all.
    """

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._running = self._gauge("num_requests_running", "requests that are computed")
        self._waiting = self._gauge("num_requests_waiting", "requests that wait for a place")
        self._cache = self._gauge("kv_cache_usage_perc", "share of the cache in use, 1 is all")
        self._prompt = self._counter("prompt_tokens", "tokens of prompts that were read")
        self._made = self._counter("generation_tokens", "tokens that were generated")
        self._success = _Counter(
            "vllm:request_success",
            "answers that have ended, by the reason",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        seconds = _REQUEST_SECONDS
        self._first = self._histogram("time_to_first_token_seconds", "to the first token", seconds)
        self._between = self._histogram(
            "inter_token_latency_seconds", "between a token and the one before", _STEP_SECONDS
        )
        self._per_token = self._histogram(
            "request_time_per_output_token_seconds", "of a request, per token", _STEP_SECONDS
        )
        self._whole = self._histogram("e2e_request_latency_seconds", "of a request", seconds)
        self._queue = self._histogram("request_queue_time_seconds", "waiting", seconds)
        self._inference = self._histogram(
            "request_inference_time_seconds", "from its place to its end", seconds
        )
        self._prefill = self._histogram("request_prefill_time_seconds", "reading", seconds)
        self._decode = self._histogram("request_decode_time_seconds", "generating", seconds)
        self._prompts = self._histogram("request_prompt_tokens", "of a request's prompt", _TOKENS)
        self._answers = self._histogram("request_generation_tokens", "of its answers", _TOKENS)
        self._max_tokens = self._histogram("request_params_max_tokens", "asked for", _TOKENS)
        self._count = self._histogram("request_params_n", "answers asked for", _COUNTS)
        self._rounds = self._histogram("iteration_tokens_total", "tokens of a round", _TOKENS)
        self._http = _Counter(
            "http_requests",
            "requests by method, route and status",
            ["method", "handler", "status"],
            registry=self.registry,
        )
        self._http_seconds = _Histogram(
            "http_request_duration_seconds",
            "from a request to the end of its response",
            ["method", "handler"],
            buckets=seconds,
            registry=self.registry,
        )

    def _gauge(self, name: str, documentation: str) -> _Gauge:
        gauge = _Gauge(f"vllm:{name}", documentation, ["model_name"], registry=self.registry)
        return gauge.labels(self._model)

    def _counter(self, name: str, documentation: str) -> _Counter:
        counter = _Counter(f"vllm:{name}", documentation, ["model_name"], registry=self.registry)
        return counter.labels(self._model)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> _Histogram:
        histogram = _Histogram(
            f"vllm:{name}", documentation, ["model_name"], buckets=buckets, registry=self.registry
        )
        return histogram.labels(self._model)

    def state(self, running: int, waiting: int, cache: float) -> None:
        """Take down how full the engine is; ``cache`` is a share of 1."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._cache.set(cache)

    def round(self, tokens: int) -> None:
        """Take down the tokens that a round has read or made."""
        self._rounds.observe(tokens)

    def first_token(self, work: Work, now: float) -> None:
        """Take down that a work's prompt was read, and its first token made."""
        begun = work.started if work.started is not None else now
        self._prompt.inc(len(work.prompt))
        self._first.observe(now - work.arrived)
        self._queue.observe(begun - work.arrived)
        self._prefill.observe(now - begun)

    def between_tokens(self, seconds: float) -> None:
        """Take down the time from one token of an answer to the next."""
        self._between.observe(seconds)

    def ended(self, work: Work, reason: str, now: float) -> None:
        """Take down the end of a work.

        Args:
            work: it.
            reason: ``abort`` or ``error``; empty where its answers have reasons of their own.
            now: on the engine's clock.
        """
        for index in range(work.count):
            ended = work.finish_reasons.get(index) or reason
            self._success.labels(self._model, ended).inc()
        self._made.inc(work.tokens)
        self._whole.observe(now - work.arrived)
        self._prompts.observe(len(work.prompt))
        self._answers.observe(work.tokens)
        self._max_tokens.observe(work.limits.max_new_tokens)
        self._count.observe(work.count)
        if work.started is not None:
            self._inference.observe(now - work.started)
        if work.first_token is not None:
            self._decode.observe(now - work.first_token)
            per_answer = work.tokens / work.count
            if per_answer > 1:
                self._per_token.observe((now - work.first_token) / (per_answer - 1))

    def http(self, method: str, handler: str, status: int, seconds: float) -> None:
        """Take down a response."""
        self._http.labels(method, handler, str(status)).inc()
        self._http_seconds.labels(method, handler).observe(seconds)

    def exposition(self) -> bytes:
        """Return all of them, as Prometheus reads them."""
        return generate_latest(self.registry)
