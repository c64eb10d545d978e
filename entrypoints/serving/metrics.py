"""Prometheus metrics with vLLM's names.

https://docs.vllm.ai/en/stable/usage/metrics/: dashboards and autoscalers for vLLM work with
them. Names have the same meaning; metrics of features that this server lacks (preemption,
prefix caches, …) are omitted.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import Counter as _Counter
from prometheus_client import Gauge as _Gauge
from prometheus_client import Histogram as _Histogram

from entrypoints.serving.request import Request

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_STEP_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_COUNTS = (1, 2, 4, 8, 16)


class Metrics:
    """The metrics of one server.

    Args:
        model: the model's name, a label of all metrics.
    """

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._running = self._gauge("num_requests_running", "running requests")
        self._waiting = self._gauge("num_requests_waiting", "waiting requests")
        self._cache = self._gauge("kv_cache_usage_perc", "used share of the cache, at most 1")
        self._prompt = self._counter("prompt_tokens", "prefilled prompt tokens")
        self._generated = self._counter("generation_tokens", "generated tokens")
        self._success = _Counter(
            "vllm:request_success",
            "ended answers by finish reason",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        seconds = _REQUEST_SECONDS
        self._first = self._histogram(
            "time_to_first_token_seconds", "time to the first token", seconds
        )
        self._between = self._histogram(
            "inter_token_latency_seconds", "time between two tokens", _STEP_SECONDS
        )
        self._per_token = self._histogram(
            "request_time_per_output_token_seconds", "time of a request per token", _STEP_SECONDS
        )
        self._whole = self._histogram("e2e_request_latency_seconds", "total time", seconds)
        self._queue = self._histogram("request_queue_time_seconds", "time in the queue", seconds)
        self._inference = self._histogram(
            "request_inference_time_seconds", "time from admission to the end", seconds
        )
        self._prefill = self._histogram("request_prefill_time_seconds", "prefill time", seconds)
        self._decode = self._histogram("request_decode_time_seconds", "decoding time", seconds)
        self._prompts = self._histogram("request_prompt_tokens", "tokens of a prompt", _TOKENS)
        self._answers = self._histogram(
            "request_generation_tokens", "tokens of the answers", _TOKENS
        )
        self._max_tokens = self._histogram(
            "request_params_max_tokens", "requested max_tokens", _TOKENS
        )
        self._count = self._histogram("request_params_n", "requested answers", _COUNTS)
        self._steps = self._histogram("iteration_tokens_total", "tokens of a step", _TOKENS)
        self._http = _Counter(
            "http_requests",
            "requests by method, route and status",
            ["method", "handler", "status"],
            registry=self.registry,
        )
        self._http_seconds = _Histogram(
            "http_request_duration_seconds",
            "time to the end of the response",
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
        """Set the engine's load; ``cache`` is at most 1."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._cache.set(cache)

    def step(self, tokens: int) -> None:
        """Record the tokens of a step."""
        self._steps.observe(tokens)

    def first_token(self, request: Request, now: float) -> None:
        """Record the first token of a request."""
        start_time = request.started if request.started is not None else now
        self._prompt.inc(len(request.prompt))
        self._first.observe(now - request.arrived)
        self._queue.observe(start_time - request.arrived)
        self._prefill.observe(now - start_time)

    def between_tokens(self, seconds: float) -> None:
        """Record the time between two tokens of an answer."""
        self._between.observe(seconds)

    def ended(self, request: Request, reason: str, now: float) -> None:
        """Record the end of a request.

        Args:
            request: the request.
            reason: ``abort`` or ``error``; empty if all answers have a finish reason.
            now: on the engine's clock.
        """
        for index in range(request.count):
            ended = request.finish_reasons.get(index) or reason
            self._success.labels(self._model, ended).inc()
        self._generated.inc(request.tokens)
        self._whole.observe(now - request.arrived)
        self._prompts.observe(len(request.prompt))
        self._answers.observe(request.tokens)
        self._max_tokens.observe(request.limits.max_new_tokens)
        self._count.observe(request.count)
        if request.started is not None:
            self._inference.observe(now - request.started)
        if request.first_token is not None:
            self._decode.observe(now - request.first_token)
            per_answer = request.tokens / request.count
            if per_answer > 1:
                self._per_token.observe((now - request.first_token) / (per_answer - 1))

    def http(self, method: str, handler: str, status: int, seconds: float) -> None:
        """Record an HTTP response."""
        self._http.labels(method, handler, str(status)).inc()
        self._http_seconds.labels(method, handler).observe(seconds)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
