"""The parts of a server whose model is there, put together."""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.types import ASGIApp

from entrypoints.inference.protocols import LanguageModel
from entrypoints.inference.text import Text
from entrypoints.serving import api
from entrypoints.serving.arguments import Options
from entrypoints.serving.engine import Engine
from entrypoints.serving.guard import Guard, Rules
from entrypoints.serving.limits import RateLimit
from entrypoints.serving.metrics import Metrics
from entrypoints.serving.peers import Peers, gateways
from entrypoints.serving.preprocess import Bounds, Encoder
from entrypoints.serving.scheduler import Space
from entrypoints.serving.service import Service

__all__ = ["Model", "Parts", "Tokenizers", "put_together"]


@dataclass(frozen=True)
class Parts:
    """A server that does not listen yet.

    Args:
        app: the application.
        engine: what computes, not started.
        name: the model's name.
    """

    app: ASGIApp
    engine: Engine
    name: str


@dataclass(frozen=True)
class Tokenizers:
    """A model's tokenizer, once for each thread that uses it.

    Args:
        chat: for conversations.
        raw: the same object for texts that go to the model as they are.
        engine: another one, for what is generated.
    """

    chat: Text
    raw: Text
    engine: Text


@dataclass(frozen=True)
class Model:
    """A model, and what has to be known of it.

    Args:
        network: computes.
        tokenizers: its.
        name: what clients call it.
        context: in tokens.
        vocabulary: its number of tokens.
        fingerprint: of its weights.
        repetition_penalty: of answers that no request says one for.
    """

    network: LanguageModel
    tokenizers: Tokenizers
    name: str
    context: int
    vocabulary: int
    fingerprint: str
    repetition_penalty: float = 1.0


def put_together(options: Options, model: Model) -> Parts:
    """Return the server of a model."""
    metrics = Metrics(model.name)
    space = Space(
        places=options.batch_size,
        cache_tokens=max(options.cache_tokens, model.context),
        prefill_tokens=options.prefill_tokens,
        waiting=options.max_waiting,
        waiting_per_client=max(options.max_waiting // 2, 1) if len(options.keys) > 1 else 0,
    )
    bounds = Bounds(
        context=model.context,
        vocabulary=model.vocabulary,
        prompt_tokens=options.max_prompt_tokens or model.context - 1,
        new_tokens=options.max_new_tokens,
        cache_tokens=space.cache_tokens,
        places=space.places,
        seconds=options.timeout,
        repetition_penalty=model.repetition_penalty,
    )
    tokenizers = model.tokenizers
    engine = Engine(model.network, tokenizers.engine, space, metrics)
    service = Service(
        engine=engine,
        encoder=Encoder(tokenizers.chat, tokenizers.raw, bounds),
        bounds=bounds,
        token_bytes=tokenizers.engine.spelt,
        model=model.name,
        created=int(time.time()),
        fingerprint=model.fingerprint,
    )
    rules = Rules(
        keys=options.keys,
        peers=Peers(gateways() if options.published else frozenset()),
        rate=RateLimit(options.requests_per_minute, time.monotonic),
        log_prompts=options.log_prompts,
        origins=options.origins,
    )
    return Parts(Guard(api.make(service, metrics), rules, metrics), engine, model.name)
