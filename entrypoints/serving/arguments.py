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
"""Where Compose and plans put the keys; read without being named."""


@dataclass(frozen=True)
class Options:
    """What ``serve`` is asked to do.

    Args:
        model: name in ``models/`` or path of the base model.
        adapter: run or path of a LoRA adapter, or None.
        name: what clients call the model; empty for its folder's name.
        dtype: what is computed in: ``float32`` or ``float16``.
        host: the address to listen on.
        port: to listen on.
        published: whether this is a container whose port an engine publishes.
        keys: who may use it; none where it answers its own machine only.
        requests_per_minute: of each key; 0 for no limit.
        log_prompts: whether the log has what is asked.
        origins: of sites whose pages may use the server.
        batch_size: answers at once.
        max_waiting: requests that may wait.
        max_new_tokens: an answer's greatest length.
        max_prompt_tokens: a prompt's greatest length; None for what the context holds.
        cache_tokens: tokens whose keys and values are kept.
        prefill_tokens: tokens of prompts that are read between two steps.
        timeout: seconds for a request.
        grace: seconds to finish what is under way.
    """

    model: str
    adapter: str | None
    name: str
    dtype: str
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
    """Return the options that ``argv`` holds.

    Raises:
        RequestError: they are wrong; all that is out of range is named at once.
    """
    arguments = parse_arguments(ServeOptions, argv)
    keys = _keys(arguments.api_keys)
    _check_host(arguments, keys)
    return Options(
        model=arguments.model,
        adapter=arguments.adapter,
        name=arguments.served_model_name or "",
        dtype=arguments.dtype or backends.default_dtype(),
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
    """Check that keys are given where other machines reach the server.

    A container does not see where its port is published, and its engine's proxy hides where a
    connection comes from: what counts is the address that the port is published on.
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
