"""The models that are known by name, and where a model can come from.

A known model is a row: a file ``configs/models/<name>.toml`` of the project, or of
the user's workspace, which wins.
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
"""What a source can be, for a person."""

SCRATCH = "scratch"
"""The kind of source that is no model, but a text: a tokenizer is trained on it."""

# What an [architecture] can have beside what every shape has; upstream has defaults for it.
_MORE_SHAPE = ("max_position_embeddings", "tie_word_embeddings")
_POSITIVE = ("rms_norm_eps", "rope_theta", "initializer_range")
_FOLLOWS = ("parameters", "context", "sha256")


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Args:
        kind: ``python-package``, ``gguf``, ``huggingface``, ``paddlenlp``, ``scratch`` or
            ``path`` (a file or a folder, recognized by what is in it).
        value: a pinned requirement, a hub's name of the model, a path, or a text as
            ``prepare --input`` takes one.
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return self.value if self.kind == "path" else f"{self.kind}:{self.value}"


@dataclass(frozen=True)
class Model:
    """A row of ``configs/models``.

    Args:
        name: its folder's name in ``models/``.
        source: where it comes from.
        title: its maker's name for it.
        licence: an SPDX identifier, or its maker's name of the licence.
        parameters: how many weights it has; 0 where that is not known.
        context: the longest text it was made for, in tokens; 0 where that is not known.
        sha256: of the source's file, where it is one file; empty where it is not pinned.
        architecture: of a model from scratch, with the keys of ``config.json``.
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
    """Return the source that a command line or a row names.

    Raises:
        RequestError: it is of no known form.
    """
    kind, colon, value = text.partition(":")
    forms = {"python-package": _PINNED, "huggingface": _HUB_NAME, "paddlenlp": _HUB_NAME}
    if colon and kind in forms:
        if not forms[kind].fullmatch(value):
            wanted = "NAME==VERSION" if kind == "python-package" else "ORG/NAME"
            raise RequestError(
                f'"{value}" is not a name of the form {wanted}',
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
    """Return the rows' files by the models' names; the workspace's replace the project's."""
    folders = (_SHIPPED, workspace / "configs" / "models")
    rows = {path.stem: path for folder in folders for path in folder.glob("*.toml")}
    return dict(sorted(rows.items()))


def fetch_command(name: str, workspace: Path = Path()) -> str:
    """Return the command that fetches a model.

    Args:
        name: of a known model, or ``ORG/NAME`` of a hub; of any other the source is not known.
        workspace: the folder that may hold rows of its own.
    """
    rows = known(workspace)
    base = Path(name).name
    for row in (base, base.lower()):
        if row in rows:
            return f"./inv fetch {row}"
    source = name if _HUB_NAME.fullmatch(name) and "models/" not in name else f"ORG/{base}"
    return f"./inv fetch {base} --from huggingface:{source}"


def find(name: str, source: str | None = None, workspace: Path = Path()) -> Model:
    """Return the known model of that name, or a new one that comes from ``source``.

    Args:
        name: of a row, or any name together with a source.
        source: where to get it from instead; ``scratch:TEXT`` needs a row with a shape.
        workspace: the folder that may hold rows of its own.

    Raises:
        RequestError: there is no such row and no source, the name cannot be a
            folder's, or the row is wrong (all its faults at once).
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
                f'nothing says what shape "{name}" has, which is to begin from scratch',
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
            f"cannot read the model's row: {error}",
            where=str(path),
            remedy="mend it as TOML; configs/models/ has rows to copy",
        ) from error
    types: dict[str, type] = dict.fromkeys(("source", "title", "licence", "sha256"), str)
    types |= dict.fromkeys(("parameters", "context"), int) | {"architecture": dict}
    problems = [_fault(key, value, types, path) for key, value in table.items()]
    found = [problem for problem in problems if problem]
    if "source" not in table:
        found.append(Problem('"source" is missing', str(path), f"it is {FORMS}"))
    if isinstance(sha := table.get("sha256", "0" * 64), str) and not _SHA256.fullmatch(sha):
        found.append(
            Problem(
                '"sha256" is not 64 lower-case hexadecimal digits',
                str(path),
                "sha256sum FILE prints it",
            )
        )
    if found:
        raise RequestError(found)
    source = parse_source(table.pop("source"))
    if source.kind == SCRATCH or "architecture" in table:
        table |= _scratch(table, source, path)
    return Model(path.stem, source, **table)


def _scratch(table: Mapping[str, Any], source: Source, path: Path) -> dict[str, Any]:
    """Return what follows from the shape of a model that begins from scratch."""
    shape = table.get("architecture", {})
    known_keys = (*KEYS, *_MORE_SHAPE, *_POSITIVE)
    found = [
        Problem(
            f'[architecture] has the unknown key "{key}"',
            str(path),
            did_you_mean(key, known_keys) or f"known: {', '.join(known_keys)}",
        )
        for key in shape
        if key not in known_keys
    ]
    found += [
        Problem(
            f'"{key}" is {shape[key]!r}, not a number above 0',
            str(path),
            "configs/models/ has rows to copy",
        )
        for key in _POSITIVE
        if key in shape and not _is_positive(shape[key])
    ]
    found += [
        Problem(f'"{key}" is given, and follows from [architecture]', str(path), "leave it out")
        for key in _FOLLOWS
        if key in table
    ]
    if source.kind != SCRATCH:
        what = f"[architecture] is for a model from scratch, and this one comes from {source}"
        found.append(Problem(what, str(path), "remove it: the model has its own config.json"))
    try:
        model = from_config(shape, path.stem, str(path))
    except RequestError as error:
        raise RequestError([*found, *error.problems]) from None
    if found:
        raise RequestError(found)
    return {"parameters": model.parameters, "context": model.max_position_embeddings}


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < float(str(value)) < float("inf")


def _fault(key: str, value: Any, types: dict[str, type], path: Path) -> Problem | None:
    if key not in types:
        hint = did_you_mean(key, types) or f"known: {', '.join(types)}"
        return Problem(f'unknown key "{key}"', str(path), hint)
    if type(value) is not types[key]:
        return Problem(
            f'"{key}" is {value!r}, not {types[key].__name__}',
            str(path),
            "configs/models/ has rows to copy",
        )
    return None
