"""What a key, a setting or a variable of the environment is for."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from paddle_stacks import settings, toml
from paddle_stacks.explain.comments import lines
from paddle_stacks.explain.topics import Topic
from paddle_stacks.jobs.schema.keys import GROUPS, OURS, SCHEMAS, Key
from paddle_stacks.plan import backend
from paddle_stacks.plan.backend import Backend

__all__ = ["KeyRow", "key_rows", "topics"]


@dataclass(frozen=True)
class KeyRow:
    """A key of a configuration that has an effect in a job.

    Args:
        group: what it and its neighbours are about.
        name: as upstream spells it.
        says: what it means.
        jobs: in which it has an effect.
        kind: which values it takes, in words.
        default: as JSON.
    """

    group: str
    name: str
    says: str
    jobs: tuple[str, ...]
    kind: str
    default: str


def key_rows() -> Iterator[KeyRow]:
    """Yield the keys that have an effect, by topic."""
    for group, keys in GROUPS.items():
        for name, help in ((key.name, key.help) for key in keys):
            acting = {
                job: key
                for job, schema in SCHEMAS.items()
                if (key := schema.keys.get(name)) and key.acts
            }
            key = next(iter(acting.values()))
            default = json.dumps(key.default, ensure_ascii=False)
            yield KeyRow(group, name, help, tuple(acting), _kind(key), default)


def topics(root: Path) -> Iterator[Topic]:
    """Yield the keys of configurations, the settings, the platforms, and the variables."""
    yield from _keys()
    yield from _settings()
    yield from _backends(root)
    yield from _variables(root)


def _keys() -> Iterator[Topic]:
    by_name: dict[str, dict[str, Key]] = {}
    old: dict[str, set[str]] = {}
    for job, schema in SCHEMAS.items():
        for name, key in schema.keys.items():
            by_name.setdefault(name, {})[job] = key
        for wrong, right in schema.renamed.items():
            old.setdefault(right, set()).add(wrong)
    for name, jobs in by_name.items():
        key = next(iter(jobs.values()))
        says = list(dict.fromkeys(one.help for one in jobs.values() if one.help))[:1]
        says.append("A key of the JSON that --config names" + _whose(name))
        says += dict.fromkeys(
            f"In {job}: {reason}."
            for job, one in jobs.items()
            for reason in (one.refused, one.inert)
            if reason
        )
        facts = [("jobs", ", ".join(jobs)), ("is", _kind(key))]
        facts.append(("default", json.dumps(key.default, ensure_ascii=False)))
        facts += [("also called", ", ".join(sorted(old[name])))] if name in old else []
        yield Topic("key", name, " ".join(says), tuple(facts))


def _whose(name: str) -> str:
    return "; upstream does not have it." if name in OURS else ", as upstream calls it."


def _kind(key: Key) -> str:
    names = {object: "any value", str: "text", int: "a whole number", float: "a number"}
    names |= {bool: "true or false", list: "a list", dict: "an object"}
    limits = [str(key.range)] if key.range else []
    choices = [f"one of {', '.join(map(str, key.choices))}"] if key.choices else []
    return ", ".join([names[key.kind], *limits, *choices])


def _settings() -> Iterator[Topic]:
    texts = _arguments(settings.Settings)
    for item in fields(settings.Settings):
        if item.name == "root":
            continue
        default = "" if item.default is MISSING else str(item.default)
        usual = settings.ENV_FALLBACKS.get(item.name, ())
        facts = [("default", default if default not in ("", "None") else "none")]
        facts += [("in", f"{settings.FILE_NAME}, as {item.name} = …")]
        facts += [("or", f"the variable {settings.PREFIX}{item.name.upper()}")]
        facts += [("else", f"the first that is set of {', '.join(usual)}")] if usual else []
        yield Topic("setting", item.name, texts.get(item.name, ""), tuple(facts))


def _arguments(documented: type) -> dict[str, str]:
    """Return what the docstring of a class says of each argument."""
    text = inspect.getdoc(documented) or ""
    body = text.partition("\nArgs:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", body, re.MULTILINE)
    return {name: " ".join(about.replace("``", "`").split()) for name, about in entries}


def _backends(root: Path) -> Iterator[Topic]:
    texts = _arguments(Backend)
    for name in backend.names(root):
        loaded = backend.load(name, root)
        facts = [("builds on", loaded.extends)] if loaded.extends else []
        facts += [("locks", f"images/*/requirements.{loaded.lock}.lock")]
        facts += [("said in", f"{backend.FOLDER}/{name}.toml")]
        yield Topic("backend", name, loaded.summary, tuple(facts))
    for key, about in texts.items():
        places = [
            (name, line)
            for name in backend.names(root)
            for line in lines(root / backend.FOLDER / f"{name}.toml", groups=False)
            if line.code.split(" =")[0] == key
        ]
        facts = [(name, f"{_value(line.code)}{_because(line.why)}") for name, line in places]
        yield Topic("backend's key", key, about, tuple(facts))


def _value(code: str) -> str:
    return code.partition("=")[2].strip()


def _because(why: str) -> str:
    return f" ({why})" if why else ""


def _variables(root: Path) -> Iterator[Topic]:
    for name, about in settings.ENV_FLAGS.items():
        yield Topic("variable", f"{settings.PREFIX}{name}", about)
    for key, names in settings.ENV_FALLBACKS.items():
        for name in names:
            says = f"The machine's own variable for the setting {key}."
            yield Topic("variable", name, says, (("setting", key),))
    for platform in backend.names(root):
        path = root / backend.FOLDER / f"{platform}.toml"
        table = toml.read(path)
        reasons = {line.code.split(" =")[0]: line for line in lines(path, groups=False)}
        for section in ("environment", "node_environment"):
            for name, value in table.get(section, {}).items():
                line = reasons[name]
                where = "every job" if section == "environment" else "a job on several nodes"
                facts = [("value", str(value)), ("of", f"{where} on {platform}")]
                facts.append(("said in", f"{backend.FOLDER}/{platform}.toml:{line.number}"))
                yield Topic("variable", name, line.why, tuple(facts))
