"""Conversion of the tokenizer and the chat template of Hugging Face folders for PaddleNLP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from entrypoints.fetching import sentencepiece_file
from entrypoints.fetching.gguf_tokenizer import MODEL_INPUTS, trimmed_template
from entrypoints.models import chat_template
from entrypoints.models.chat_template import ChatTemplate, ChatTemplateError
from entrypoints.models.files import write_json
from entrypoints.runtime.console import warn
from paddle_stacks.errors import Problem, RequestError
from paddle_stacks.jobs import chat_templates, json_files

__all__ = ["check_ids", "write"]

_FAST, _PIECES, _PADDLE_PIECES = "tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model"
_CONFIG, _SPECIAL_MAP, _ADDED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
_EXTRA = ("additional_special_tokens", "extra_special_tokens")
_COPIED = ("model_max_length", "legacy", "add_bos_token", "add_eos_token")
_LISTED = 5
_AGAIN = "get the tokenizer's files again from the model's source"


def write(source: Path, folder: Path, vocabulary_size: int) -> None:
    """Write the tokenizer and the chat template of ``source`` into ``folder``.

    ``tokenizer.json`` is preferred, because it gives the same IDs in all programs.

    Args:
        source: the Hugging Face folder.
        folder: of the checkpoint.
        vocabulary_size: rows of the model's embedding.

    Raises:
        RequestError: a file is missing or damaged, PaddleNLP's tokenizer would return other
            IDs than that of transformers, or the chat template cannot be compiled.
    """
    path = source / _CONFIG
    config = json_files.read_object(path) if path.is_file() else {}
    tokens = _special_tokens(config, source)
    written: dict[str, Any] = {key: config[key] for key in _COPIED if config.get(key) is not None}
    written |= tokens
    if extra := config.get("additional_special_tokens"):
        written["additional_special_tokens"] = [
            entry.get("content") if isinstance(entry, dict) else entry for entry in extra
        ]
    written.setdefault("pad_token", tokens.get("eos_token"))
    if (source / _FAST).is_file():
        tokenizer = json_files.read_object(source / _FAST)
        ids = _fast_ids(tokenizer, str(source / _FAST))
        problems = _added_token_problems(config, source, ids, _FAST)
        problems += _prefix_problems(config, tokenizer, str(path))
        tokenizer = _with_added_tokens(tokenizer, config, tokens)
        _warn_of_begin_and_end(config, tokens, tokenizer)
        written |= {"tokenizer_class": "PretrainedTokenizerFast", "model_input_names": MODEL_INPUTS}
        for key in ("add_bos_token", "add_eos_token"):
            written.pop(key, None)  # the file decides
    elif (source / _PIECES).is_file():
        pieces = sentencepiece_file.pieces(source / _PIECES)
        ids = {piece: number for number, piece in enumerate(pieces)}
        tokenizer = {}
        problems = _added_token_problems(config, source, ids, _PIECES)
        written["tokenizer_class"] = "LlamaTokenizer"
    else:
        raise RequestError(
            "no tokenizer: neither tokenizer.json nor tokenizer.model",
            where=str(source),
            remedy="copy one of them there from the model's source",
        )
    problems += _missing_tokens(tokens, ids, str(path))
    problems += _id_problems(ids, vocabulary_size, str(source))
    if problems:
        raise RequestError(problems)
    if tokenizer:
        text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
        (folder / _FAST).write_text(text + "\n", encoding="utf-8")
    else:
        (folder / _PADDLE_PIECES).write_bytes((source / _PIECES).read_bytes())
    written |= {"padding_side": "left", "clean_up_tokenization_spaces": False}
    _write_template(source, folder, config, written)
    write_json(folder / _CONFIG, written)


def check_ids(folder: Path, vocabulary_size: int) -> None:
    """Check that all IDs of a tokenizer are in the model's vocabulary.

    Args:
        folder: of the model; only ``tokenizer.json`` is checked.
        vocabulary_size: rows of its embedding.

    Raises:
        RequestError: there are other IDs.
    """
    path = folder / _FAST
    if path.is_file():
        ids = _fast_ids(json_files.read_object(path), str(path))
        if problems := _id_problems(ids, vocabulary_size, str(path)):
            raise RequestError(problems)


def _special_tokens(config: Mapping[str, Any], source: Path) -> dict[str, str]:
    """Return the named special tokens; transformers writes them as strings or objects.

    Without ``added_tokens_decoder``, the tokenizer has the older format, in which
    ``special_tokens_map.json`` takes precedence.
    """
    path = source / _SPECIAL_MAP
    mapped = json_files.read_object(path) if path.is_file() else {}
    ordered = [mapped, config] if "added_tokens_decoder" in config else [config, mapped]
    tokens = {}
    for values in ordered:
        for key in _SPECIAL:
            token = values.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if token is None:
                continue
            if not isinstance(token, str):
                raise RequestError(
                    f"{key} is {token!r:.60}, expected a string", where=str(source), remedy=_AGAIN
                )
            tokens[key] = token
    return tokens


def _fast_ids(tokenizer: Mapping[str, Any], where: str) -> dict[str, int]:
    """Return the IDs of a ``tokenizer.json`` by token.

    Raises:
        RequestError: it has no vocabulary.
    """
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = tokenizer.get("added_tokens") or []
    try:
        if isinstance(vocabulary, list):  # Unigram: pairs of token and score
            ids = {str(entry[0]): number for number, entry in enumerate(vocabulary)}
        else:
            ids = {str(token): int(number) for token, number in dict(vocabulary or {}).items()}
        ids |= {str(entry["content"]): int(entry["id"]) for entry in added}
    except (TypeError, ValueError, KeyError, LookupError):
        ids = {}
    if not ids:
        raise RequestError("the tokenizer has no vocabulary", where=where, remedy=_AGAIN)
    return ids


def _added_token_problems(
    config: Mapping[str, Any], source: Path, ids: Mapping[str, int], place: str
) -> list[Problem]:
    """Return problems for added tokens of other files that the tokenizer's file lacks.

    Args:
        config: ``tokenizer_config.json``.
        source: the folder.
        ids: of the tokenizer's own file.
        place: the name of that file.
    """
    expected: dict[str, Any] = {content: number for number, content, _ in _decoder(config)}
    path = source / _ADDED
    expected |= json_files.read_object(path) if path.is_file() else {}
    for key in _EXTRA:
        extra = config.get(key) or []
        for value in extra.values() if isinstance(extra, dict) else extra:
            content = str(value.get("content") if isinstance(value, dict) else value)
            expected.setdefault(content, ids.get(content, "-"))
    return [
        Problem(
            f"{place} lacks the token {content!r:.60} with the ID {number}, which other files have",
            str(source),
            "save the tokenizer again with transformers to make its files consistent",
        )
        for content, number in expected.items()
        if ids.get(content) != number
    ][:_LISTED]


def _decoder(config: Mapping[str, Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield ID, content and flags of each entry of ``added_tokens_decoder``."""
    try:
        for number, entry in dict(config.get("added_tokens_decoder") or {}).items():
            yield int(number), str(entry["content"]), dict(entry)
    except (TypeError, ValueError, KeyError) as error:
        raise RequestError(
            f"added_tokens_decoder is damaged: {type(error).__name__}: {error}",
            where=_CONFIG,
            remedy=_AGAIN,
        ) from None


def _with_added_tokens(
    tokenizer: dict[str, Any], config: Mapping[str, Any], tokens: Mapping[str, str]
) -> dict[str, Any]:
    """Return a ``tokenizer.json`` whose added tokens have the same flags as in transformers.

    The flags of ``added_tokens_decoder`` take precedence.
    """
    added = {str(entry["content"]): entry for entry in tokenizer.get("added_tokens") or []}
    for number, content, flags in _decoder(config):
        special = bool(flags.get("special", False))
        added[content] = {
            "id": number,
            "content": content,
            **{flag: bool(flags.get(flag, False)) for flag in ("single_word", "lstrip", "rstrip")},
            "normalized": bool(flags.get("normalized", not special)),
            "special": special or content in tokens.values(),
        }
    ordered = sorted(added.values(), key=lambda entry: int(entry["id"]))
    return {**tokenizer, "added_tokens": ordered}


def _prefix_problems(
    config: Mapping[str, Any], tokenizer: Mapping[str, Any], where: str
) -> list[Problem]:
    """Return a problem if ``add_prefix_space`` contradicts ``tokenizer.json``.

    Versions of transformers differ in which one they use.
    """
    value = config.get("add_prefix_space")
    if value is None:
        return []
    pre = tokenizer.get("pre_tokenizer")
    parts = pre.get("pretokenizers") or [pre] if isinstance(pre, dict) else []
    own = [part["add_prefix_space"] for part in parts if "add_prefix_space" in part]
    if all(bool(other) == bool(value) for other in own):
        return []
    return [
        Problem(
            f"add_prefix_space is {value!r}, but tokenizer.json does the opposite",
            where,
            "save the tokenizer again with transformers to make its files consistent",
        )
    ]


def _warn_of_begin_and_end(
    config: Mapping[str, Any], tokens: Mapping[str, str], tokenizer: Mapping[str, Any]
) -> None:
    """Warn if ``add_bos_token`` or ``add_eos_token`` contradicts ``tokenizer.json``.

    ``tokenizer.json`` takes precedence, as in transformers 5, unlike in some tokenizers of
    transformers 4.
    """
    processor = json.dumps(tokenizer.get("post_processor"))
    for name in ("bos", "eos"):
        enabled, token = config.get(f"add_{name}_token"), tokens.get(f"{name}_token")
        if enabled is None or token is None:
            continue
        if bool(enabled) != (json.dumps(token) in processor):
            does = "does not add" if enabled else "adds"
            warn(
                f"add_{name}_token is {str(enabled).lower()}, but tokenizer.json {does} {token};"
                " tokenizer.json takes precedence, as in transformers 5"
            )


def _missing_tokens(tokens: Mapping[str, str], ids: Mapping[str, int], where: str) -> list[Problem]:
    """Return problems for special tokens outside the vocabulary; transformers would add them."""
    return [
        Problem(
            f"{key} is {token!r:.60}, which is not in the vocabulary",
            where,
            "use a token of the vocabulary, or resize the model's embedding",
        )
        for key, token in tokens.items()
        if token not in ids
    ]


def _id_problems(ids: Mapping[str, int], vocabulary_size: int, where: str) -> list[Problem]:
    beyond = sorted((number, token) for token, number in ids.items() if number >= vocabulary_size)
    if not beyond:
        return []
    shown = ", ".join(f"{token!r:.40} ({number})" for number, token in beyond[:_LISTED])
    more = f" and {len(beyond) - _LISTED} more" if len(beyond) > _LISTED else ""
    return [
        Problem(
            f"the tokenizer has IDs beyond the model's vocabulary of {vocabulary_size}:"
            f" {shown}{more}",
            where,
            "get the model's own tokenizer: the embedding has no rows for these IDs",
        )
    ]


def _write_template(
    source: Path, folder: Path, config: Mapping[str, Any], written: dict[str, Any]
) -> None:
    """Write the chat template; also add it to ``written`` if PaddleNLP can compile it."""
    text, path = _template(source, config)
    if text is None:
        return
    try:
        ChatTemplate(text).check()
    except ChatTemplateError as error:
        raise RequestError(
            f"the chat template cannot be compiled: {error}",
            where=str(path),
            remedy="get the file again from the model's source, or correct the template",
        ) from None
    # Unchanged newlines, because Jinja reads all kinds.
    (folder / chat_templates.JINJA).write_text(text, encoding="utf-8", newline="")
    if chat_template.is_plain(text):
        # For PaddleNLP's own programs, which lack the extensions and strftime_now.
        written["chat_template"] = trimmed_template(text)


def _template(source: Path, config: Mapping[str, Any]) -> tuple[str | None, Path]:
    """Return the template that transformers uses for a chat without tools, and its file."""
    file = chat_templates.find(source)
    if file is not None:
        return file.source, file.path
    if names := list(_named(config)):
        warn(
            f"none of the chat templates {', '.join(names)[:200]} is the default, so the model"
            " has no chat template"
        )
    path = source / chat_templates.PADDLE
    if path.is_file():  # a processor's
        text = chat_templates.default_template(
            json_files.read_object(path).get("chat_template"), path
        )
        return text, path
    return None, source


def _named(config: Mapping[str, Any]) -> Iterator[str]:
    value = config.get("chat_template")
    entries = value if isinstance(value, list) else []
    yield from (str(entry.get("name")) for entry in entries if isinstance(entry, dict))
    yield from value if isinstance(value, dict) else ()
