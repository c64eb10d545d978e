"""Process that compiles and renders chat templates with the environment of transformers.

A chat template is untrusted code. It runs in a separate process, which can be killed if it does
not end or uses too much memory.
:mod:`entrypoints.models.chat_template` starts this file by its path and sends requests as lines of
JSON.

The environment is that of ``transformers.utils.chat_template_utils`` (5.24). It needs
Jinja only.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MEMORY = 2**30  # bytes of address space; the process itself takes a tenth


class _OutputTooLongError(Exception):
    pass


class _Generation(jinja2.ext.Extension):
    """``{% generation %}``: marks what the assistant says, and renders as its content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_content")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> Any:
        return caller()


class _Dict:
    """``dict`` without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(jinja2.utils.Namespace):
    """``namespace`` without names that start with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that self=… is a name
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # local time, as transformers does


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


@lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def _render(source: str, variables: dict[str, Any] | None, longest: int) -> str:
    """Return the rendered template; without variables, only compile it."""
    template = _compiled(source)
    if variables is None:
        return ""
    pieces, length = [], 0
    for piece in template.generate(variables):
        pieces.append(piece)
        length += len(piece)
        if length > longest:
            raise _OutputTooLongError
    return "".join(pieces)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"text": _render(request["template"], request["variables"], request["longest"])}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error.message or type(error).__name__)}
    except _OutputTooLongError:
        return {"error": f"the output has more than {request['longest']:,} characters"}
    except MemoryError:
        return {"error": f"rendering requires more than {_MEMORY // 2**20:,} MiB of memory"}
    except Exception as error:  # a template can raise any exception
        return {"error": f"{type(error).__name__}: {error}"[:1000]}


def main() -> None:
    """Answer requests on standard input, one per line."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
