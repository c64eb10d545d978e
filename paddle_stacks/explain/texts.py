"""What an expression of the source can become as text.

No program is run. A name is followed to what is assigned to it, to the arguments that a
function is called with, to what a loop goes through; what cannot be followed is a hole.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from paddle_stacks.explain.sources import Function, Module, called
from paddle_stacks.explain.templates import Hole, Template, join

__all__ = ["Scope", "pairs"]

# A chain of calls that says a text is this long at most; what is longer says it somewhere else.
_DEPTH = 5
# A part of a text that has as many letters of its own says more than the name it has.
_TELLING = 4
# Functions that return their first argument, or what it is made of, as text.
_WRAPPERS = {"str", "repr", "len", "sorted", "list", "tuple", "map", "dumps", "_shown", "_code"}
_TRIMMING = {"strip", "rstrip", "lstrip", "removeprefix", "removesuffix", "format", "replace"}
_SUGGESTION = Template(('did you mean "', Hole("word"), '"?'))


@dataclass(frozen=True)
class Scope:
    """Where the names of an expression are looked up.

    Args:
        module: its module.
        node: the place in it.
        given: names that a caller, or a turn of a loop, gives a value.
    """

    module: Module
    node: ast.AST
    given: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """An expression, and where its names are looked up."""

    expression: ast.expr
    scope: Scope

    def at(self, node: ast.AST) -> Scope:
        """Return the same scope, at another place of its module."""
        return replace(self.scope, node=node)


_NOTHING = ast.Constant("")


def pairs(
    what: ast.expr, remedy: ast.expr | None, scope: Scope
) -> Iterator[tuple[Template, tuple[Template, ...]]]:
    """Yield what can be said, each with the remedies that go with it; an empty one is none.

    Args:
        what: the expression that is the message.
        remedy: that of the remedy; None where there is none.
        scope: where both stand.
    """
    yield from _pairs(Value(what, scope), Value(remedy or _NOTHING, scope), 0)


def _pairs(
    what: Value, remedy: Value, depth: int
) -> Iterator[tuple[Template, tuple[Template, ...]]]:
    for said in _followed(what, depth):
        remedies = _beside(said, _followed(remedy, depth))
        for fix in remedies:
            opened = _opened(said, depth) or _opened(fix, depth)
            for given in opened:
                yield from _pairs(_bound(said, given), _bound(fix, given), depth + 1)
            if not opened:
                fixes = tuple(_texts(fix, depth))
                for text in _texts(said, depth):
                    yield text, fixes


def _beside(said: Value, remedies: Sequence[Value]) -> Sequence[Value]:
    """Return the remedies that are assigned beside a message; all where none is."""
    here = _block(said)
    beside = [fix for fix in remedies if here is not None and _block(fix) is here]
    return beside or remedies


def _block(value: Value) -> Sequence[ast.stmt] | None:
    return next((block for block, _ in value.scope.module.blocks_above(value.expression)), None)


def _bound(value: Value, given: Mapping[str, Value]) -> Value:
    return replace(value, scope=replace(value.scope, given={**value.scope.given, **given}))


def _followed(value: Value, depth: int) -> list[Value]:
    """Return what a name is assigned; what is no name, or is not assigned here, as it is."""
    expression, scope = value.expression, value.scope
    key = _key(expression)
    if key in scope.given:
        return _followed(scope.given[key], depth)
    if isinstance(expression, ast.IfExp):
        branches = (expression.body, expression.orelse)
        return [found for branch in branches for found in _followed(Value(branch, scope), depth)]
    if isinstance(expression, ast.Name) and depth < _DEPTH:
        found = _assigned(expression.id, scope)
        if found:
            return [one for item in found for one in _followed(item, depth + 1)]
    return [value]


def _key(expression: ast.expr) -> str:
    if isinstance(expression, ast.Name):
        return expression.id
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
        return f"{expression.value.id}.{expression.attr}"
    return ""


# ------------------------------------------------------------------ assignments


def _assigned(name: str, scope: Scope) -> list[Value]:
    """Return the expressions that a name can hold at a place, as far as assignments say."""
    found: list[Value] = []
    for block, index in scope.module.blocks_above(scope.node):
        found += _in_header(name, block[index], scope)
        for statement in reversed(block[:index]):
            values = _by(name, statement, scope)
            found += values
            if values and _certain(name, statement):
                return found
    if not found and name in _constants(scope.module):
        constant = _constants(scope.module)[name]
        return [Value(constant, Scope(scope.module, constant))]
    return found


def _constants(module: Module) -> dict[str, ast.expr]:
    return {
        target.id: statement.value
        for statement in module.tree.body
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None
        for target in _targets(statement)
        if isinstance(target, ast.Name)
    }


def _targets(statement: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return statement.targets if isinstance(statement, ast.Assign) else [statement.target]


def _in_header(name: str, statement: ast.stmt, scope: Scope) -> list[Value]:
    """Return what ``:=`` gives a name in a statement's own expressions."""
    return [
        Value(node.value, replace(scope, node=node))
        for node in ast.walk(statement)
        if isinstance(node, ast.NamedExpr) and node.target.id == name
    ]


def _by(name: str, statement: ast.stmt, scope: Scope) -> list[Value]:
    found = []
    for node in ast.walk(statement):
        place = replace(scope, node=node)
        if isinstance(node, ast.NamedExpr) and node.target.id == name:
            found.append(Value(node.value, place))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in _targets(node):
                found += _parts(name, target, Value(node.value, place))
    return found


def _parts(name: str, target: ast.expr, value: Value) -> list[Value]:
    """Return what an assignment gives a name, also as a part of a tuple."""
    if isinstance(target, ast.Name) and target.id == name:
        return [value]
    if isinstance(target, ast.Tuple) and isinstance(value.expression, ast.Tuple):
        both = zip(target.elts, value.expression.elts, strict=False)
        return [part for one, item in both for part in _parts(name, one, Value(item, value.scope))]
    return []


def _certain(name: str, statement: ast.stmt) -> bool:
    """Whether a statement gives the name a value whichever way it goes."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return True
    if not isinstance(statement, ast.If) or not statement.orelse:
        return False
    return all(
        any(_names(name, inner) and _certain(name, inner) for inner in branch)
        for branch in (statement.body, statement.orelse)
    )


def _names(name: str, statement: ast.stmt) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for node in ast.walk(statement)
    )


# ------------------------------------------------------------------ what gives a name its value


def _opened(value: Value, depth: int) -> list[dict[str, Value]]:
    """Return the values that callers or loops give a name that is all of a text; [] for none."""
    if depth >= _DEPTH:
        return []
    for name in _skeleton(value.expression):
        if _key(name) in value.scope.given:
            continue
        place = value.at(name) if name in value.scope.module.parents else value.scope
        if found := _givers(name, place):
            return found
    return []


def _skeleton(expression: ast.expr) -> Iterator[ast.expr]:
    """Yield the names that a text is, or is made of and of nothing else."""
    if isinstance(expression, (ast.Name, ast.Attribute)):
        yield expression
    elif isinstance(expression, ast.BoolOp):
        for part in expression.values:
            yield from _skeleton(part)
    elif isinstance(expression, ast.JoinedStr):
        holes = [part for part in expression.values if isinstance(part, ast.FormattedValue)]
        if len(holes) == len(expression.values):
            for hole in holes:
                yield from _skeleton(hole.value)


def _givers(name: ast.expr, scope: Scope) -> list[dict[str, Value]]:
    if isinstance(name, ast.Attribute):
        return _thrown(name, scope)
    assert isinstance(name, ast.Name)
    return _from_loop(name.id, scope) or _from_tuple(name.id, scope) or _from_callers(name, scope)


def _from_callers(name: ast.Name, scope: Scope) -> list[dict[str, Value]]:
    function = scope.module.function_of(scope.node)
    if function is None or name.id not in _parameters(function):
        return []
    calls = scope.module.calls.get(function.name, [])
    return [_arguments(function, call, Scope(scope.module, call)) for call in calls]


def _parameters(function: Function) -> list[str]:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return [*names, *(argument.arg for argument in function.args.kwonlyargs)]


def _arguments(function: Function, call: ast.Call, scope: Scope) -> dict[str, Value]:
    """Return what a call gives each parameter, defaults too."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    defaults = function.args.defaults
    given = {
        name: Value(default, scope)
        for name, default in zip(names[len(names) - len(defaults) :], defaults, strict=True)
    }
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if default is not None:
            given[argument.arg] = Value(default, scope)
    positional = names[1:] if names[:1] == ["self"] else names
    given |= {name: Value(value, scope) for name, value in zip(positional, call.args, strict=False)}
    return given | {word.arg: Value(word.value, scope) for word in call.keywords if word.arg}


def _thrown(name: ast.Attribute, scope: Scope) -> list[dict[str, Value]]:
    """Return what ``error.what`` is, for each place that raises the error that is caught."""
    if not isinstance(name.value, ast.Name):
        return []
    alias = name.value.id
    handler = next(
        (
            node
            for node in scope.module.above(scope.node)
            if isinstance(node, ast.ExceptHandler) and node.name == alias
        ),
        None,
    )
    kind = handler.type.id if handler and isinstance(handler.type, ast.Name) else ""
    known = scope.module.classes.get(kind)
    made = next(
        (
            node
            for node in (known.body if known else ())
            if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        ),
        None,
    )
    if made is None:
        return []
    calls = scope.module.calls.get(kind, [])
    return [
        {
            f"{alias}.{key}": value
            for key, value in _arguments(made, call, Scope(scope.module, call)).items()
        }
        for call in calls
    ]


def _from_loop(name: str, scope: Scope) -> list[dict[str, Value]]:
    for node in scope.module.above(scope.node):
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            loops = [(loop.target, loop.iter) for loop in node.generators]
        elif isinstance(node, ast.For):
            loops = [(node.target, node.iter)]
        else:
            continue
        for target, iterable in loops:
            if name in {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}:
                items = _items(Value(iterable, replace(scope, node=node)), 0)
                return [given for item in items if (given := _destructured(target, item))]
    return []


def _from_tuple(name: str, scope: Scope) -> list[dict[str, Value]]:
    """Return what a tuple gives its names that a function of this module returns."""
    for block, index in scope.module.blocks_above(scope.node):
        for statement in reversed(block[: index + 1]):
            for node in ast.walk(statement):
                if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Tuple):
                    continue
                target = node.targets[0]
                if name not in {part.id for part in target.elts if isinstance(part, ast.Name)}:
                    continue
                values = _results(Value(node.value, replace(scope, node=node)))
                return [given for item in values if (given := _destructured(target, item))]
    return []


def _destructured(target: ast.expr, item: Value) -> dict[str, Value]:
    if isinstance(target, ast.Name):
        return {target.id: item}
    if not isinstance(target, ast.Tuple) or not isinstance(item.expression, ast.Tuple):
        return {}
    found: dict[str, Value] = {}
    for part, value in zip(target.elts, item.expression.elts, strict=False):
        found |= _destructured(part, Value(value, item.scope))
    return found


def _items(value: Value, depth: int) -> list[Value]:
    """Return what an iterable yields, as far as the source says."""
    expression, scope = value.expression, value.scope
    if depth >= _DEPTH:
        return []
    if isinstance(expression, (ast.List, ast.Tuple, ast.Set)):
        return [
            found
            for item in expression.elts
            for found in (
                _items(Value(item.value, scope), depth + 1)
                if isinstance(item, ast.Starred)
                else [Value(item, scope)]
            )
        ]
    if isinstance(expression, (ast.ListComp, ast.GeneratorExp)):
        return [Value(expression.elt, replace(scope, node=expression.elt))]
    if isinstance(expression, ast.BinOp):
        sides = (expression.left, expression.right)
        return [found for side in sides for found in _items(Value(side, scope), depth + 1)]
    if isinstance(expression, ast.Subscript):
        return _items(Value(expression.value, scope), depth + 1)
    if isinstance(expression, ast.Call):
        return _items_of_call(Value(expression, scope), depth)
    if isinstance(expression, ast.Name):
        assigned = _assigned(expression.id, scope)
        found = [item for one in assigned for item in _items(one, depth + 1)]
        added = [item for one in _added(expression.id, scope) for item in _items(one, depth + 1)]
        return [*found, *added, *_appended(expression.id, scope)]
    return []


def _items_of_call(value: Value, depth: int) -> list[Value]:
    call = value.expression
    assert isinstance(call, ast.Call)
    if called(call) in ("items", "values") and isinstance(call.func, ast.Attribute):
        found = []
        for table in _followed(Value(call.func.value, value.scope), depth):
            if not isinstance(table.expression, ast.Dict):
                continue
            for key, item in zip(table.expression.keys, table.expression.values, strict=True):
                both = ast.Tuple([key or _NOTHING, item], ast.Load())
                one = both if called(call) == "items" else item
                found.append(Value(one, table.scope))
        return found
    return [
        item
        for result in _results(value, also_yielded=True)
        for item in (_items(result, depth + 1) if result.expression is not _NOTHING else [])
    ] + [Value(node.value, scope) for node, scope in _yielded(value) if node.value is not None]


def _added(name: str, scope: Scope) -> list[Value]:
    """Return what ``name += …`` adds to a list, anywhere in the function."""
    function = scope.module.function_of(scope.node)
    return [
        Value(node.value, replace(scope, node=node))
        for node in (ast.walk(function) if function else ())
        if isinstance(node, ast.AugAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == name
    ]


def _appended(name: str, scope: Scope) -> list[Value]:
    function = scope.module.function_of(scope.node)
    nodes = ast.walk(function) if function else iter(())
    return [
        Value(node.args[0], replace(scope, node=node))
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "append"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == name
        and node.args
    ]


def _results(value: Value, *, also_yielded: bool = False) -> list[Value]:
    """Return what a function of this module returns, for a call of it."""
    call, scope = value.expression, value.scope
    if isinstance(call, ast.IfExp):
        return [
            found
            for branch in (call.body, call.orelse)
            for found in _results(Value(branch, scope), also_yielded=also_yielded)
        ]
    if isinstance(call, ast.Tuple):
        return [value]
    function = _function(value)
    if function is None or not isinstance(call, ast.Call):
        return []
    given = _arguments(function, call, scope)
    return [
        Value(node.value, Scope(scope.module, node, given))
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and node.value is not None
    ]


def _yielded(value: Value) -> list[tuple[ast.Yield, Scope]]:
    function, call = _function(value), value.expression
    if function is None or not isinstance(call, ast.Call):
        return []
    given = _arguments(function, call, value.scope)
    return [
        (node, Scope(value.scope.module, node, given))
        for node in ast.walk(function)
        if isinstance(node, ast.Yield)
    ]


def _function(value: Value) -> Function | None:
    if not isinstance(value.expression, ast.Call):
        return None
    return value.scope.module.functions.get(called(value.expression))


# ------------------------------------------------------------------ texts


def _texts(value: Value, depth: int) -> list[Template]:
    """Return the texts that an expression can become, each once."""
    return list(dict.fromkeys(_made(value, depth)))


def _made(value: Value, depth: int) -> Iterator[Template]:
    expression, scope = value.expression, value.scope
    if isinstance(expression, ast.Constant):
        yield _literal(expression.value)
    elif _key(expression) in scope.given and depth < _DEPTH:
        yield from _made(scope.given[_key(expression)], depth + 1)
    elif isinstance(expression, ast.JoinedStr):
        yield from _product([_of_part(part, scope, depth) for part in expression.values])
    elif isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Add):
        sides = (expression.left, expression.right)
        yield from _product([_texts(Value(side, scope), depth) for side in sides])
    elif isinstance(expression, ast.IfExp):
        yield from _texts(Value(expression.body, scope), depth)
        yield from _texts(Value(expression.orelse, scope), depth)
    elif isinstance(expression, ast.BoolOp):
        yield from _of_choice(expression, scope, depth)
    elif isinstance(expression, ast.Name) and depth < _DEPTH:
        found = _assigned(expression.id, scope)
        for one in found:
            yield from _made(one, depth + 1)
        if not found:
            yield Template((Hole(expression.id.strip("_").lower()),))
    elif isinstance(expression, ast.Call):
        yield from _of_call(value, depth)
    else:
        yield Template((Hole(_hole(expression)),))


def _literal(value: object) -> Template:
    text = "" if value is None else str(value)
    return Template((text,) if text else ())


def _of_choice(choice: ast.BoolOp, scope: Scope, depth: int) -> Iterator[Template]:
    """Yield what ``a or b`` can be: never an empty a."""
    last = choice.values[-1]
    if isinstance(choice.op, ast.Or):
        for part in choice.values[:-1]:
            texts = _texts(Value(part, scope), depth)
            yield from (text for text in texts if text.parts)
            if all(text.literal.strip() for text in texts):
                return
    yield from _texts(Value(last, scope), depth)


def _of_call(value: Value, depth: int) -> Iterator[Template]:
    call = value.expression
    assert isinstance(call, ast.Call)
    name = called(call)
    if name == "did_you_mean":
        yield from (_SUGGESTION, Template(()))
    elif name in _TRIMMING and isinstance(call.func, ast.Attribute):
        yield from _made(Value(call.func.value, value.scope), depth)
    elif (results := _results(value)) and depth < _DEPTH:
        for result in results:
            yield from _made(result, depth + 1)
    else:
        yield Template((Hole(_hole(call)),))


def _of_part(part: ast.expr, scope: Scope, depth: int) -> list[Template]:
    """Return a part of an f-string: literal, or a hole unless the source says what is in it."""
    if isinstance(part, ast.Constant):
        return [_literal(part.value)]
    assert isinstance(part, ast.FormattedValue)
    inner = Value(part.value, scope)
    if _key(part.value) in scope.given:
        found = _texts(inner, depth + 1)
        if len(found) == 1 or all(len(text.parts) <= 1 for text in found):
            return found
    constant = _constants(scope.module).get(_key(part.value))
    # With a format a number looks different, as 0.8 does as 80%.
    if isinstance(constant, (ast.Constant, ast.JoinedStr)) and part.format_spec is None:
        return _texts(Value(constant, Scope(scope.module, constant)), depth + 1)
    if isinstance(part.value, ast.Name) and depth < _DEPTH and _set_once(part.value.id, scope):
        found = [text for one in _assigned(part.value.id, scope) for text in _made(one, depth + 1)]
        if len(found) == 1 and found[0].letters >= _TELLING:
            return found
    return [Template((Hole(_hole(part.value)),))]


def _set_once(name: str, scope: Scope) -> bool:
    """Whether a function gives a name a value in one place, so that it is that one everywhere."""
    function = scope.module.function_of(scope.node)
    stores = [
        node
        for node in ast.walk(function or scope.module.tree)
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
    ]
    return len(stores) == 1


def _product(parts: list[list[Template]]) -> Iterator[Template]:
    return (join(choice) for choice in itertools.product(*parts))


def _hole(expression: ast.expr) -> str:
    """Return a word for what is not known before it is said."""
    if isinstance(expression, ast.Name):
        return expression.id.strip("_").lower()
    if isinstance(expression, ast.Attribute):
        return expression.attr.strip("_").lower()
    if isinstance(expression, ast.Subscript):
        key = expression.slice
        named = isinstance(key, ast.Constant) and isinstance(key.value, str)
        return str(key.value) if named else _hole(expression.value)  # type: ignore[attr-defined]
    if isinstance(expression, ast.Call):
        name = called(expression)
        if expression.args and (name == "join" or name in _WRAPPERS):
            return _hole(expression.args[-1])
        return name.strip("_").lower() or "text"
    if isinstance(expression, (ast.ListComp, ast.GeneratorExp)):
        return _hole(expression.generators[0].iter)
    if isinstance(expression, (ast.BinOp, ast.BoolOp, ast.IfExp, ast.Starred)):
        inner = next((node for node in ast.walk(expression) if isinstance(node, ast.Name)), None)
        return _hole(inner) if inner else "text"
    return "text"
