"""The arguments of ``serve``, checked together before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from entrypoints.runtime.arguments import parse as parse_arguments
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs import backends, serving
from paddle_stacks.jobs.options import ServeOptions
from paddle_stacks.jobs.serving import Keys

__all__ = ["MOUNTED_KEYS", "Options", "parse"]

MOUNTED_KEYS = Path("/run/secrets/api_keys")
"""The file in which Compose and plans mount the keys; read by default."""


@dataclass(frozen=True)
class Options:
    """Options of ``serve``.

    Args:
        model: name in ``models/`` or path of the base model.
        adapter: run or path of a LoRA adapter, or None.
        name: the model's name in the API; empty for its folder's name.
        engine: ``dynamic`` or ``native``.
        dtype: the computation type: ``float32`` or ``float16``.
        precision: of the native engine's weights; None for the checkpoint's.
        host: the address to listen on.
        port: to listen on.
        published: whether this is a container with a published port.
        keys: the API keys; empty to answer this machine only.
        requests_per_minute: per key; 0 for no limit.
        log_prompts: whether prompts are logged.
        origins: sites whose pages may use the server.
        batch_size: the maximum number of running sequences.
        max_waiting: the maximum number of waiting requests.
        max_new_tokens: the maximum length of an answer.
        max_prompt_tokens: the maximum length of a prompt; None for the context's.
        cache_tokens: tokens in the KV cache.
        prefill_tokens: prefilled tokens per step.
        timeout: of a request, in seconds.
        grace: seconds to finish running requests at shutdown.
    """

    model: str
    adapter: str | None
    name: str
    engine: str
    dtype: str
    precision: str | None
    host: str
    port: int
    published: bool
    keys: Keys
    requests_per_minute: int
    log_prompts: bool
    origins: frozenset[str]
    batch_size: int
    max_waiting: int
    max_new_tokens: int
    max_prompt_tokens: int | None
    cache_tokens: int
    prefill_tokens: int
    timeout: float
    grace: int


def parse(argv: list[str]) -> Options:
    """Return the options on the command line.

    Raises:
        RequestError: they are invalid; all faults at once.
    """
    arguments = parse_arguments(ServeOptions, argv)
    keys = _keys(arguments.api_keys)
    _check_host(arguments, keys)
    return Options(
        model=arguments.model,
        adapter=arguments.adapter,
        name=arguments.served_model_name or "",
        engine=arguments.engine,
        dtype=arguments.dtype or backends.default_dtype(),
        precision=arguments.precision,
        host="0.0.0.0" if arguments.published else arguments.host,
        port=arguments.port,
        published=arguments.published,
        keys=keys,
        requests_per_minute=arguments.requests_per_minute,
        log_prompts=arguments.log_prompts,
        origins=frozenset(arguments.allowed_origin),
        batch_size=arguments.batch_size,
        max_waiting=arguments.max_waiting,
        max_new_tokens=arguments.max_new_tokens,
        max_prompt_tokens=arguments.max_prompt_tokens,
        cache_tokens=arguments.cache_tokens,
        prefill_tokens=arguments.prefill_tokens,
        timeout=arguments.request_timeout,
        grace=arguments.grace,
    )


def _keys(named: str | None) -> Keys:
    if named is not None:
        return Keys(serving.load_some(Path(named)))
    return Keys(serving.load(MOUNTED_KEYS) if MOUNTED_KEYS.exists() else {})


def _check_host(arguments: ServeOptions, keys: Keys) -> None:
    """Check that there are API keys if other machines can reach the server.

    A container does not see where its port is published, and Docker's proxy hides the source of
    connections, so the address of the published port decides.
    """
    if keys:
        return
    published = os.environ.get(serving.PUBLISHED_ADDRESS, serving.LOOPBACK)
    if arguments.published and not serving.is_loopback(published):
        raise RequestError(
            f"SERVE_ADDRESS={published} requires API keys, otherwise the server is open to the"
            " network",
            where="docker-compose.yml, serve",
            remedy="PADDLE_STACKS_API_KEYS_FILE=keys.txt; or leave SERVE_ADDRESS out",
        )
    if not (arguments.published or serving.is_loopback(arguments.host)):
        raise RequestError(serving.open_to_the_network(arguments.host))
    if "*" in arguments.allowed_origin:
        raise RequestError(
            "--allowed-origin * requires --api-keys, otherwise any web page can use the server",
            where="serve",
            remedy="--api-keys FILE; or name the origins: --allowed-origin https://app.example",
        )
