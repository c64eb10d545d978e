"""Creation of the server's application from a loaded model."""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.types import ASGIApp

from entrypoints.inference.protocols import LanguageModel
from entrypoints.inference.text import Text
from entrypoints.serving import api
from entrypoints.serving.arguments import Options
from entrypoints.serving.client_address import ClientAddresses, gateways
from entrypoints.serving.engine import Engine
from entrypoints.serving.metrics import Metrics
from entrypoints.serving.middleware import AccessRules, Middleware
from entrypoints.serving.preprocess import Encoder, RequestLimits
from entrypoints.serving.rate_limit import RateLimit
from entrypoints.serving.scheduler import SchedulerConfig
from entrypoints.serving.service import Service

__all__ = ["Model", "Server", "Tokenizers", "create_server"]


@dataclass(frozen=True)
class Server:
    """A server that does not listen yet.

    Args:
        app: the ASGI application.
        engine: computes the answers; not started.
        name: the model's name.
    """

    app: ASGIApp
    engine: Engine
    name: str


@dataclass(frozen=True)
class Tokenizers:
    """A model's tokenizers, one for each thread.

    Args:
        chat: for chats.
        raw: the same object without chat template.
        engine: another object, for generated tokens.
    """

    chat: Text
    raw: Text
    engine: Text


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Args:
        network: the model.
        tokenizers: its tokenizers.
        name: its name in the API.
        context: in tokens.
        vocabulary: the size of its vocabulary.
        fingerprint: of its weights.
        repetition_penalty: the default.
    """

    network: LanguageModel
    tokenizers: Tokenizers
    name: str
    context: int
    vocabulary: int
    fingerprint: str
    repetition_penalty: float = 1.0


def create_server(options: Options, model: Model) -> Server:
    """Return the server of a model."""
    metrics = Metrics(model.name)
    config = SchedulerConfig(
        max_num_seqs=options.batch_size,
        cache_tokens=max(options.cache_tokens, model.context),
        prefill_tokens=options.prefill_tokens,
        max_waiting=options.max_waiting,
        max_waiting_per_client=max(options.max_waiting // 2, 1) if len(options.keys) > 1 else 0,
    )
    bounds = RequestLimits(
        context=model.context,
        vocabulary=model.vocabulary,
        prompt_tokens=options.max_prompt_tokens or model.context - 1,
        new_tokens=options.max_new_tokens,
        cache_tokens=config.cache_tokens,
        max_num_seqs=config.max_num_seqs,
        seconds=options.request_timeout,
        repetition_penalty=model.repetition_penalty,
    )
    tokenizers = model.tokenizers
    engine = Engine(model.network, tokenizers.engine, config, metrics)
    service = Service(
        engine=engine,
        encoder=Encoder(tokenizers.chat, tokenizers.raw, bounds),
        bounds=bounds,
        token_bytes=tokenizers.engine.token_bytes,
        model=model.name,
        created=int(time.time()),
        fingerprint=model.fingerprint,
    )
    rules = AccessRules(
        keys=options.keys,
        addresses=ClientAddresses(gateways() if options.published else frozenset()),
        rate=RateLimit(options.requests_per_minute, time.monotonic),
        log_prompts=options.log_prompts,
        origins=frozenset(options.allowed_origin),
    )
    return Server(Middleware(api.make(service, metrics), rules, metrics), engine, model.name)
