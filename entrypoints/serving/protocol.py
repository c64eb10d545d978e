"""Request bodies of OpenAI's API, with vLLM's additions.

https://platform.openai.com/docs/api-reference/chat/create and …/completions/create, and
https://docs.vllm.ai/en/stable/serving/openai_compatible_server/.

Types are strict: ``"5"`` is not a number and ``1`` is not true. Every list is bounded and
fails at its first error, so that a body costs no more than it holds. Unknown fields are
accepted and named; one that is nearly the name of a known field is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from entrypoints.serving.body import load_json
from entrypoints.serving.errors import ApiError

__all__ = [
    "MAX_N",
    "MAX_PROMPTS",
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "StreamOptions",
    "TextPart",
    "TokenizeRequest",
    "parse",
]

MAX_N = 16
"""The greatest ``n`` and ``best_of``."""

MAX_PROMPTS = 2048
"""The most prompts in one request, as OpenAI's."""

_MAX_TOP_LOGPROBS = 20
_MAX_STOPS = 16
_MAX_STOP_TOKENS = 256
_MAX_BIASES = 1024
_MAX_MESSAGES = 4096
_MAX_PARTS = 1024
_MAX_TOKENS = 2**18
_MAX_ERRORS_SHOWN = 5
_MAX_FIELDS = 256
_MAX_UNKNOWN_FIELDS = 100
_OBJECT = "the object"
_NEAR = 0.85
"""Similarity (difflib) from which an unknown field counts as a misspelt one."""

# Fields that this server does not implement, and their values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "guided_json": ({},),
    "guided_regex": ("",),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": ({},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}
# Fields that do not change an answer.
_WITHOUT_EFFECT = frozenset(
    {
        "cache_salt",
        "early_stopping",
        "metadata",
        "parallel_tool_calls",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "spaces_between_special_tokens",
        "store",
        "user",
    }
)

# Fields with several types, and the errors for values of other types.
_FORMS = {
    "content": "it must be a text, or a list of parts {type: text, text: …}; other parts are not"
    " supported",
    "prompt": f"it must be a text, a list of 1 to {MAX_PROMPTS} texts, a list of tokens, or a"
    f" list of 1 to {MAX_PROMPTS} lists of tokens",
    "stop": f"it must be a text, or a list of at most {_MAX_STOPS} texts of 1 to 256 characters",
}

Finite = Annotated[float, Field(allow_inf_nan=False)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(min_length=1, max_length=_MAX_TOKENS, fail_fast=True)]


# The most items of a list or an object, checked before any of them is looked at.
_MAX_ITEMS = {
    "content": _MAX_PARTS,
    "logit_bias": _MAX_BIASES,
    "messages": _MAX_MESSAGES,
    "prompt": _MAX_TOKENS,
    "stop": _MAX_STOPS,
    "stop_token_ids": _MAX_STOP_TOKENS,
    "tokens": _MAX_TOKENS,
}


class _Body(BaseModel):
    # Unknown fields are kept to be named: `_unknown_fields`.
    model_config = ConfigDict(strict=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _check_items(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if len(value) > _MAX_FIELDS:
            raise _too_many(_OBJECT, _MAX_FIELDS, len(value))
        for field, limit in _MAX_ITEMS.items():
            items = value.get(field)
            if isinstance(items, (list, dict)) and len(items) > limit:
                raise _too_many(field, limit, len(items))
        return value


def _too_many(field: str, limit: int, count: int) -> PydanticCustomError:
    return PydanticCustomError(
        "too_many",
        "{field}: expected at most {limit} items, got {count}",
        {"field": field, "limit": limit, "count": count},
    )


class TextPart(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """A turn of a conversation; ``developer`` is OpenAI's newer word for ``system``.

    An assistant's message may be one of this server's own, as a client's library hands it
    back: with fields that are null.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[TextPart], Field(max_length=_MAX_PARTS, fail_fast=True)] | None
    name: str | None = None
    refusal: str | None = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None
    tool_calls: Any = None

    @model_validator(mode="before")
    @classmethod
    def _default_content(cls, value: Any) -> Any:
        # Libraries leave it out where it is null.
        if isinstance(value, dict) and value.get("role") == "assistant":
            return {"content": None, **value}
        return value

    @property
    def text(self) -> str:
        """The text of the message, its parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or ()) or self.refusal or ""

    def check(self, path: str) -> None:
        """Check what depends on the role.

        Raises:
            ApiError: 400; ``path`` says where the message is.
        """
        if self.role in ("tool", "function"):
            raise _unsupported(f"{path}.role", f'role "{self.role}"')
        for field in ("audio", "function_call", "tool_calls"):
            if getattr(self, field) not in (None, [], {}):
                raise _unsupported(f"{path}.{field}")
        if self.role != "assistant" and not isinstance(self.content, str) and not self.content:
            raise ApiError(400, f"{path}.content: {_FORMS['content']}", param=f"{path}.content")


class StreamOptions(_Body):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class _TextFormat(_Body):
    type: Literal["text"]


class _Request(_Body):
    """The fields of both kinds of requests."""

    model: str
    temperature: Annotated[Finite, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Finite, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,10}$")],
                Annotated[Finite, Field(ge=-100, le=100)],
            ],
            Field(max_length=_MAX_BIASES, fail_fast=True),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        StopText | Annotated[list[StopText], Field(max_length=_MAX_STOPS, fail_fast=True)] | None
    ) = None
    stop_token_ids: (
        Annotated[list[Token], Field(max_length=_MAX_STOP_TOKENS, fail_fast=True)] | None
    ) = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    skip_special_tokens: bool | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_unused(cls, value: Any) -> Any:
        """Reject unsupported fields, and drop those without effect."""
        if not isinstance(value, dict):
            return value
        for field, harmless in _UNSUPPORTED.items():
            wish = value.get(field)
            if wish is not None and not any(_same(wish, other) for other in harmless):
                raise PydanticCustomError(
                    "unsupported", "{field} is not supported by this server", {"field": field}
                )
        dropped = _UNSUPPORTED.keys() | _WITHOUT_EFFECT
        return {key: item for key, item in value.items() if key not in dropped}

    @model_validator(mode="after")
    def _check_together(self) -> Any:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options requires stream: true")
        if self.best_of is not None:
            if self.best_of < (self.n or 1):
                raise PydanticCustomError("best_of", "best_of must be at least n")
            if self.stream and self.best_of > (self.n or 1):
                raise PydanticCustomError("best_of", "best_of cannot be streamed: it must equal n")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def usage_in_stream(self) -> bool:
        """True if a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def usage_in_chunks(self) -> bool:
        """True if every chunk of a stream has the usage so far."""
        options = self.stream_options
        return bool(options and options.include_usage and options.continuous_usage_stats)

    @property
    def candidates(self) -> int:
        """The number of answers that are generated for each prompt."""
        return max(self.n or 1, self.best_of or 1)

    def check(self) -> None:
        """Check what a schema does not express.

        Raises:
            ApiError: 400.
        """


class ChatRequest(_Request):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[
        list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES, fail_fast=True)
    ]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MAX_TOP_LOGPROBS)] | None = None
    response_format: _TextFormat | None = None
    add_generation_prompt: Literal[True] | None = None
    add_special_tokens: Literal[False] | None = None
    echo: Literal[False] | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs requires logprobs: true")
        return self

    def check(self) -> None:
        """Check what a schema does not express; see :meth:`_Request.check`."""
        for index, message in enumerate(self.messages):
            message.check(f"messages.{index}")

    @property
    def max_new_tokens(self) -> int | None:
        """The greatest length of an answer, where one is given."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """The number of likeliest tokens at each position; None for no logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def num_prompt_logprobs(self) -> None:
        """None: an answer does not repeat its conversation."""
        return


class CompletionRequest(_Request):
    """The body of ``/v1/completions``."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=_MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    response_format: _TextFormat | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or tokens."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [[token for token in prompt if isinstance(token, int)]]
        return [each for each in prompt if not isinstance(each, int)]

    @property
    def max_new_tokens(self) -> int:
        """The greatest length of an answer; 16 by default, as OpenAI's."""
        chosen = self.max_tokens if self.max_tokens is not None else self.max_completion_tokens
        return 16 if chosen is None else chosen

    @property
    def num_logprobs(self) -> int | None:
        """The number of likeliest tokens at each position; None for no logprobs."""
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The same for the tokens of the prompt, which only an echo has."""
        return self.logprobs if self.echo else None

    def check(self) -> None:
        """Check what a schema does not express; see :meth:`_Request.check`."""
        if self.max_new_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens: 0 requires echo: true", param="max_tokens")


class TokenizeRequest(_Body):
    """The body of ``/tokenize``: a prompt, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: (
        Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES, fail_fast=True)]
        | None
    ) = None
    add_special_tokens: bool | None = None
    add_generation_prompt: Literal[True] | None = None
    return_token_strs: bool | None = None

    def check(self) -> None:
        """Check what a schema does not express; see :meth:`_Request.check`."""
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "expected either prompt or messages", param="prompt")
        for index, message in enumerate(self.messages or ()):
            message.check(f"messages.{index}")


class DetokenizeRequest(_Body):
    """The body of ``/detokenize``."""

    model: str | None = None
    tokens: Annotated[list[Token], Field(max_length=_MAX_TOKENS, fail_fast=True)]

    def check(self) -> None:
        """Check nothing, because the schema is complete."""


Parsed = TypeVar("Parsed", ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)


def parse(body: bytes, kind: type[Parsed]) -> tuple[Parsed, list[str]]:
    """Return a request and the names of its unknown fields.

    Raises:
        ApiError: 400, it is not JSON, or fields are wrong; it names up to five of them.
    """
    value = load_json(body)
    try:
        request = kind.model_validate(value)
    except ValidationError as error:
        _raise_misspelt(value, kind)
        raise _as_api_error(error.errors(include_url=False, include_input=False)) from None
    request.check()
    return request, _unknown_fields(request)


def _unknown_fields(model: BaseModel) -> list[str]:
    """Return the paths of fields that no model has.

    Raises:
        ApiError: 400, one of them is nearly the name of a known field.
    """
    unknown: dict[str, None] = {}
    for path, name, kind in _extras(model, ""):
        if f"{path}{name}" in unknown:
            continue
        if len(unknown) >= _MAX_UNKNOWN_FIELDS:
            raise ApiError(400, f"expected at most {_MAX_UNKNOWN_FIELDS} unknown fields")
        _check_spelling(name, path, kind)
        unknown[f"{path}{name}"] = None
    return list(unknown)


def _extras(model: BaseModel, path: str) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """Yield the path, the name and the model of every unknown field with a value."""
    for name, value in (model.model_extra or {}).items():
        if value is not None:
            yield path, name, type(model)
    for name in type(model).model_fields:
        value = getattr(model, name)
        # Elements of one list share their path: a thousand messages are one name in the log.
        for inner in value if isinstance(value, list) else (value,):
            if isinstance(inner, BaseModel):
                yield from _extras(inner, f"{path}{name}.")


def _check_spelling(name: str, path: str, kind: type[BaseModel]) -> None:
    if len(name) > 64:
        return
    fields = {*kind.model_fields}
    if issubclass(kind, _Request):
        fields |= _UNSUPPORTED.keys() | _WITHOUT_EFFECT
    if near := difflib.get_close_matches(name, fields, n=1, cutoff=_NEAR):
        raise ApiError(
            400,
            f'unknown field {path}{name}: did you mean "{near[0]}"?',
            param=f"{path}{name}",
            code="unknown_parameter",
        )


def _raise_misspelt(value: Any, kind: type[BaseModel]) -> None:
    """Report a misspelt field first, which often explains a missing one."""
    if isinstance(value, Mapping):
        fields = kind.model_fields.keys() | _UNSUPPORTED.keys() | _WITHOUT_EFFECT
        for name in [name for name in value if name not in fields][:_MAX_UNKNOWN_FIELDS]:
            _check_spelling(name, "", kind)


def _unsupported(path: str, subject: str = "") -> ApiError:
    return ApiError(
        400,
        f"{path}: {subject} is not supported by this server"
        if subject
        else f"{path} is not supported by this server",
        param=path,
        code="unsupported_parameter",
    )


def _same(value: Any, other: Any) -> bool:
    # false is 0 to Python, and not to a client.
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _as_api_error(errors: Sequence[ErrorDetails]) -> ApiError:
    errors = _merged_forms(errors)
    messages = [_message(error) for error in errors]
    more = [f"and {len(messages) - _MAX_ERRORS_SHOWN} more"]
    first = errors[0]
    param = _path(first) or None
    if first["type"] in ("unsupported", "too_many"):
        field = str(first["ctx"]["field"])
        param = ".".join(part for part in (_path(first), field) if part and part != _OBJECT) or None
        code = "unsupported_parameter" if first["type"] == "unsupported" else None
        return ApiError(400, messages[0], param=param, code=code)
    code = "missing_required_parameter" if first["type"] == "missing" else None
    shown = messages[:_MAX_ERRORS_SHOWN] + more * (len(messages) > _MAX_ERRORS_SHOWN)
    return ApiError(400, "; ".join(shown), param=param, code=code)


def _merged_forms(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return the errors with one for each field of several forms, instead of one a form."""
    merged: dict[tuple[int | str, ...], ErrorDetails] = {}
    for error in errors:
        place = error["loc"]
        at = next((at for at, part in enumerate(place) if part in _FORMS), None)
        # What follows such a field is pydantic's name for the form that did not match.
        if at is not None and at + 1 < len(place):
            place = place[: at + 1]
            error = {**error, "loc": place, "type": "form", "msg": _FORMS[str(place[-1])]}
        merged.setdefault(place, error)
    return list(merged.values())


def _path(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"] if part != "[key]")[:200]


def _message(error: ErrorDetails) -> str:
    path, message = _path(error), error["msg"]
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = "it must be a JSON object"
    message = message[:1].lower() + message[1:]
    return f"{path}: {message}" if path else message
