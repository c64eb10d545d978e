"""Known models, and sources of models.

A known model is a file ``configs/models/<name>.toml`` of the workspace or of the project; the
workspace wins.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paddle_stacks.errors import Problem, RequestError, did_you_mean
from paddle_stacks.jobs.llama_config import KEYS, from_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "FORMS",
    "PATH_PREFIXES",
    "SCRATCH",
    "Model",
    "Source",
    "fetch_command",
    "find",
    "known",
    "parse_source",
]

_SHIPPED = Path(__file__).parents[2] / "configs" / "models"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")

FORMS = (
    "python-package:NAME==VERSION, gguf:PATH, huggingface:ORG/NAME, paddlenlp:ORG/NAME, "
    "scratch:TEXT or a PATH"
)
"""The forms of a source, for messages."""

PATH_PREFIXES = ("gguf:", "scratch:")
"""The prefixes of a source that is a path in the workspace."""

SCRATCH = "scratch"
"""The kind of source that is a text to train a tokenizer on, for a new model."""

# The optional keys of an [architecture], for which upstream has defaults.
_MORE_SHAPE = ("max_position_embeddings", "tie_word_embeddings")
_POSITIVE = ("rms_norm_eps", "rope_theta", "initializer_range")
_FOLLOWS = ("parameters", "context", "sha256")


@dataclass(frozen=True)
class Source:
    """The source of a model.

    Args:
        kind: ``python-package``, ``gguf``, ``huggingface``, ``paddlenlp``, ``scratch`` or
            ``path`` (a file or a folder, recognized by its contents).
        value: a pinned requirement, the name on a hub, a path, or a text as for
            ``prepare --input``.
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return self.value if self.kind == "path" else f"{self.kind}:{self.value}"


@dataclass(frozen=True)
class Model:
    """A known model, from ``configs/models``.

    Args:
        name: name of its folder in ``models/``.
        source: its source.
        title: the vendor's name of the model.
        licence: an SPDX identifier, or the vendor's name of the licence.
        parameters: number of weights; 0 if unknown.
        context: context length in tokens; 0 if unknown.
        sha256: checksum of the source if that is one file; empty if it is not pinned.
        architecture: shape of a model from scratch, with the keys of ``config.json``.
    """

    name: str
    source: Source
    title: str = ""
    licence: str = ""
    parameters: int = 0
    context: int = 0
    sha256: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict)


def parse_source(text: str) -> Source:
    """Return the source in a text.

    Raises:
        RequestError: the text has none of the forms.
    """
    kind, colon, value = text.partition(":")
    forms = {"python-package": _PINNED, "huggingface": _HUB_NAME, "paddlenlp": _HUB_NAME}
    if colon and kind in forms:
        if not forms[kind].fullmatch(value):
            form = "NAME==VERSION" if kind == "python-package" else "ORG/NAME"
            raise RequestError(
                f'expected {kind}:{form}, got "{text}"',
                where=f"source {text}",
                remedy=f"a source is {FORMS}",
            )
        return Source(kind, value)
    if colon and kind in ("gguf", SCRATCH) and value not in ("", "-"):
        return Source(kind, value)
    if not text or (colon and re.fullmatch(r"[a-z-]{2,}", kind) and not Path(text).exists()):
        hint = did_you_mean(kind, [*forms, "gguf", SCRATCH])
        raise RequestError(
            f'unknown kind of source "{kind}"',
            where=f"source {text}",
            remedy=f"{hint} a source is {FORMS}".strip(),
        )
    return Source("path", text)


def known(workspace: Path = Path()) -> dict[str, Path]:
    """Return the files of known models by name; the workspace's replace the project's."""
    folders = (_SHIPPED, workspace / "configs" / "models")
    rows = {path.stem: path for folder in folders for path in folder.glob("*.toml")}
    return dict(sorted(rows.items()))


def fetch_command(name: str, workspace: Path = Path()) -> str:
    """Return the command that fetches a model.

    Args:
        name: a known model, ``ORG/NAME`` on a hub, or another name.
        workspace: the workspace, which may have known models of its own.
    """
    rows = known(workspace)
    base = Path(name).name
    for row in (base, base.lower()):
        if row in rows:
            return f"./inv fetch {row}"
    source = name if _HUB_NAME.fullmatch(name) and "models/" not in name else f"ORG/{base}"
    return f"./inv fetch {base} --from huggingface:{source}"


def find(name: str, source: str | None = None, workspace: Path = Path()) -> Model:
    """Return the known model of that name, or a new one from ``source``.

    Args:
        name: a known model, or any name together with a source.
        source: its source instead; ``scratch:TEXT`` requires a known model with a shape.
        workspace: the workspace, which may have known models of its own.

    Raises:
        RequestError: the model is unknown and has no source, its name cannot name a folder, or
            its file is wrong. Reports all faults.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(
            f'"{name}" cannot name a model: letters, digits, ".", "_" and "-" only',
            remedy=fetch_command(name, workspace)
            if _HUB_NAME.fullmatch(name)
            else "./inv fetch NAME --from SOURCE",
        )
    rows = known(workspace)
    if source is not None:
        parsed = parse_source(source)
        if parsed.kind != SCRATCH:
            return Model(name, parsed)
        shape = _row(rows[name]) if name in rows else Model(name, parsed)
        if not shape.architecture:
            raise RequestError(
                f'the shape of "{name}", a model from scratch, is unknown',
                where=f"--from {source}",
                remedy=f"write it into configs/models/{name}.toml: [architecture], as in "
                "configs/models/llama-nano.toml",
            )
        return replace(shape, source=parsed)
    if name not in rows:
        longer = [row for row in rows if row.startswith(name)]
        hint = did_you_mean(name, rows) or (did_you_mean(longer[0], longer) if longer else "")
        raise RequestError(
            f'no model is known as "{name}"',
            remedy=f"{hint} known: {', '.join(rows)}; any other: "
            f"{fetch_command(name, workspace)}".strip(),
        )
    return _row(rows[name])


def _row(path: Path) -> Model:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(
            f"cannot read the model's file: {error}",
            where=str(path),
            remedy="correct it; configs/models/ has others to copy",
        ) from error
    types: dict[str, type] = dict.fromkeys(("source", "title", "licence", "sha256"), str)
    types |= dict.fromkeys(("parameters", "context"), int) | {"architecture": dict}
    problems = [_fault(key, value, types, path) for key, value in table.items()]
    faults = [problem for problem in problems if problem]
    if "source" not in table:
        faults.append(Problem('"source" is missing', str(path), f"it is {FORMS}"))
    if isinstance(sha := table.get("sha256", "0" * 64), str) and not _SHA256.fullmatch(sha):
        faults.append(
            Problem(
                '"sha256" is not 64 lower-case hexadecimal digits',
                str(path),
                "sha256sum FILE prints it",
            )
        )
    if faults:
        raise RequestError(faults)
    source = parse_source(table.pop("source"))
    if source.kind == SCRATCH or "architecture" in table:
        table |= _scratch(table, source, path)
    return Model(path.stem, source, **table)


def _scratch(table: Mapping[str, Any], source: Source, path: Path) -> dict[str, Any]:
    """Return the values that follow from the shape of a model from scratch."""
    shape = table.get("architecture", {})
    known_keys = (*KEYS, *_MORE_SHAPE, *_POSITIVE)
    problems = [
        Problem(
            f'[architecture] has the unknown key "{key}"',
            str(path),
            did_you_mean(key, known_keys) or f"known: {', '.join(known_keys)}",
        )
        for key in shape
        if key not in known_keys
    ]
    problems += [
        Problem(
            f'"{key}" must be a number greater than 0, got {shape[key]!r}',
            str(path),
            "configs/models/ has others to copy",
        )
        for key in _POSITIVE
        if key in shape and not _is_positive(shape[key])
    ]
    problems += [
        Problem(f'"{key}" follows from [architecture]', str(path), "remove it")
        for key in _FOLLOWS
        if key in table
    ]
    if source.kind != SCRATCH:
        message = f"[architecture] is for models from scratch; the source of this one is {source}"
        problems.append(Problem(message, str(path), "remove it: the model has its own config.json"))
    try:
        model = from_config(shape, path.stem, str(path))
    except RequestError as error:
        raise RequestError([*problems, *error.problems]) from None
    if problems:
        raise RequestError(problems)
    return {"parameters": model.parameters, "context": model.max_position_embeddings}


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < float(str(value)) < float("inf")


def _fault(key: str, value: Any, types: dict[str, type], path: Path) -> Problem | None:
    if key not in types:
        hint = did_you_mean(key, types) or f"known: {', '.join(types)}"
        return Problem(f'unknown key "{key}"', str(path), hint)
    if type(value) is not types[key]:
        return Problem(
            f'"{key}" must be {types[key].__name__}, got {value!r}',
            str(path),
            "configs/models/ has others to copy",
        )
    return None
