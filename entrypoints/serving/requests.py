"""What a client may ask, as OpenAI's API has it, and what of it is not there.

https://platform.openai.com/docs/api-reference/chat/create and …/completions/create,
with the usual additions of other servers: ``top_k`` and ``repetition_penalty``.
Types are strict: ``"5"`` is not a number and ``1`` is not true.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from entrypoints.serving.errors import ApiError
from paddle_stacks.errors import did_you_mean

__all__ = [
    "GREATEST_COUNT",
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "StreamOptions",
    "TextPart",
    "parse",
]

GREATEST_COUNT = 16
"""The greatest ``n``, and the most prompts in one request."""

_LIKELIEST = 20
_STOPS = 16
_MESSAGES = 4096
_SHOWN = 5

# Fields of OpenAI's that ask for what is not here, and the values that ask for nothing.
_NOT_HERE: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
# Fields that do not change an answer.
_WITHOUT_EFFECT = (
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)

# Fields of several forms, and what to say of a value that has none of them.
_FORMS = {
    "content": "it has to be a text, or a list of parts {type: text, text: …}; others are not read",
    "prompt": f"it has to be a text, a list of 1 to {GREATEST_COUNT} texts, a list of tokens, or a"
    f" list of 1 to {GREATEST_COUNT} lists of tokens",
    "stop": f"it has to be a text, or a list of up to {_STOPS} texts, none empty or long",
}

Finite = Annotated[float, Field(allow_inf_nan=False)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One turn of a conversation; ``developer`` is OpenAI's newer word for ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    @property
    def text(self) -> str:
        """What was said, its parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(_Strict):
    """How a stream is sent."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _TextFormat(_Strict):
    type: Literal["text"]


class _Request(_Strict):
    """What both kinds of requests have."""

    model: str
    temperature: Annotated[Finite, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    repetition_penalty: Annotated[Finite, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=GREATEST_COUNT)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, given: Any) -> Any:
        """Refuse what is not here, and drop what has no effect."""
        if not isinstance(given, dict):
            return given
        for field, harmless in _NOT_HERE.items():
            value = given.get(field)
            if value is not None and not any(_same(value, other) for other in harmless):
                raise PydanticCustomError(
                    "not_here", "{field} is not supported by this server", {"field": field}
                )
        dropped = {*_NOT_HERE, *_WITHOUT_EFFECT}
        return {key: value for key, value in given.items() if key not in dropped}

    @model_validator(mode="after")
    def _check_stream(self) -> Any:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options is for stream: true only")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def usage_in_stream(self) -> bool:
        """Whether a stream ends with how many tokens it took."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(_Request):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_LIKELIEST)] | None = None
    response_format: _TextFormat | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs needs logprobs: true")
        return self

    @property
    def longest(self) -> int | None:
        """An answer's greatest length, where one is asked for."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens are told; None for no probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Request):
    """The body of ``/v1/completions``."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=GREATEST_COUNT)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=GREATEST_COUNT)]
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=_LIKELIEST)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or tokens."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if isinstance(given[0], int):
            return [[token for token in given if isinstance(token, int)]]
        return [prompt for prompt in given if not isinstance(prompt, int)]

    @property
    def longest(self) -> int:
        """An answer's greatest length; OpenAI's is 16 where none is asked for."""
        return self.max_tokens or 16

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens are told; None for no probabilities."""
        return self.logprobs


Asked = TypeVar("Asked", bound=_Request)


def parse(body: bytes, kind: type[Asked]) -> Asked:
    """Return a request.

    Raises:
        ApiError: 400, it is not JSON, or fields are wrong; it names up to five of them.
    """
    if not body:
        raise ApiError(400, "the body is empty: it has to be a JSON object")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _as_api_error(error.errors(include_url=False), kind) from None


def _same(value: Any, other: Any) -> bool:
    # false is 0 to Python, and not to a client.
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _as_api_error(faults: list[ErrorDetails], kind: type[BaseModel]) -> ApiError:
    faults = _best_branch(faults)
    texts = [_fault(fault, kind) for fault in faults]
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    first = faults[0]
    param = ".".join(map(str, first["loc"])) or None
    if first["type"] == "not_here":
        param = str(first["ctx"]["field"])
        return ApiError(400, texts[0], param=param, code="unsupported_parameter")
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}
    return ApiError(
        400, "; ".join(texts[:_SHOWN] + more), param=param, code=code.get(first["type"])
    )


def _best_branch(faults: list[ErrorDetails]) -> list[ErrorDetails]:
    """Return the faults with one for each field of several forms, instead of one a form."""
    found: dict[tuple[int | str, ...], ErrorDetails] = {}
    for fault in faults:
        place = fault["loc"]
        at = next((at for at, part in enumerate(place) if part in _FORMS), None)
        # What follows such a field is pydantic's name for the form that did not match.
        if at is not None and at + 1 < len(place):
            place = place[: at + 1]
            fault = {**fault, "loc": place, "type": "form", "msg": _FORMS[str(place[-1])]}
        found.setdefault(place, fault)
    return list(found.values())


def _fault(fault: ErrorDetails, kind: type[BaseModel]) -> str:
    place = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        hint = did_you_mean(str(fault["loc"][-1]), kind.model_fields)
        return f"unknown field {place}" + (f": {hint}" if hint else "")
    message = fault["msg"]
    message = message[:1].lower() + message[1:] if fault["type"] != "json_invalid" else message
    return f"{place}: {message}" if place else message
