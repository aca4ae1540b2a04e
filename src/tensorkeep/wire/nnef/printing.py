"""Canonical writing of NNEF's text: one way of spacing and quoting, shortest numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from tensorkeep.errors import UnsupportedError
from tensorkeep.wire.nnef.lexing import quote
from tensorkeep.wire.nnef.operations import Operation, Value
from tensorkeep.wire.nnef.syntax import (
    Argument,
    Array,
    Assignment,
    Binary,
    Builtin,
    Choice,
    Comprehension,
    Expression,
    Fragment,
    Invocation,
    Literal,
    Name,
    Parameter,
    Subscript,
    Tuple,
    Unary,
)

_SIMPLE = (Name, Array, Tuple, Subscript, Builtin, Invocation, Comprehension)


def literal(value: Value) -> str:
    """Write a value: numbers as short as they read back, a scalar always with a point or exponent.

    Raises:
        UnsupportedError: a number that is not finite, which NNEF has no word for.

    >>> print(literal([1, 1.0, 1e-05, "a", True, (0, 1)]))
    [1, 1.0, 1e-05, 'a', true, (0, 1)]
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        raise UnsupportedError(f"NNEF's text has no word for the number {value}")
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))})"
    return repr(value) if isinstance(value, int | float) else str(value)


def expression(value: Expression) -> str:
    """Write an expression; whatever could be read in two ways stands in parentheses."""
    return str(_WRITERS[type(value)](value))


def _within(value: Expression) -> str:
    """Write an operand: a name or call as it is, anything else in parentheses."""
    bare = isinstance(value, _SIMPLE) or (isinstance(value, Literal) and not _negative(value.value))
    return expression(value) if bare else f"({expression(value)})"


def _negative(value: bool | int | float | str) -> bool:
    return isinstance(value, int | float) and math.copysign(1, value) < 0


def _joined(items: Iterable[Expression]) -> str:
    return ", ".join(map(expression, items))


def _subscript(value: Subscript) -> str:
    begin = "" if value.begin is None else expression(value.begin)
    end = "" if value.end is None else expression(value.end)
    colon = ":" if value.ranges else ""
    return f"{_within(value.sequence)}[{begin}{colon}{end}]"


def _binary(value: Binary) -> str:
    chain = isinstance(value.left, Binary) and value.left.operator == value.operator
    left = expression(value.left) if chain else _within(value.left)
    return f"{left} {value.operator} {_within(value.right)}"


def _choice(value: Choice) -> str:
    no = expression(value.no) if isinstance(value.no, Choice) else _operand(value.no)
    return f"{_operand(value.yes)} if {_operand(value.condition)} else {no}"


def _operand(value: Expression) -> str:
    return f"({expression(value)})" if isinstance(value, Choice | Unary) else expression(value)


def _comprehension(value: Comprehension) -> str:
    loops = ", ".join(f"{expression(target)} in {_operand(items)}" for target, items in value.loops)
    condition = "" if value.condition is None else f" if {_operand(value.condition)}"
    return f"[for {loops}{condition} yield {expression(value.item)}]"


def _invocation(value: Invocation) -> str:
    dtype = f"<{value.dtype}>" if value.dtype else ""
    return f"{value.name}{dtype}({', '.join(map(_argument, value.arguments))})"


def _argument(argument: Argument) -> str:
    value = expression(argument.value)
    return f"{argument.name} = {value}" if argument.name else value


def _tuple(value: Tuple) -> str:
    return f"({_joined(value.items)})"


_WRITERS: dict[type, Any] = {
    Literal: lambda value: literal(value.value),
    Name: lambda value: value.name,
    Array: lambda value: f"[{_joined(value.items)}]",
    Tuple: _tuple,
    Subscript: _subscript,
    Unary: lambda value: value.operator + _within(value.operand),
    Binary: _binary,
    Choice: _choice,
    Comprehension: _comprehension,
    Builtin: lambda value: f"{value.name}({expression(value.operand)})",
    Invocation: _invocation,
}


def _assignment(line: Assignment) -> str:
    target = line.target
    left = _joined(target.items) if isinstance(target, Tuple) else expression(target)
    return f"    {left} = {expression(line.value)};\n"


def _parameter(each: Parameter) -> str:
    default = "" if each.required else f" = {literal(each.default)}"
    return f"{each.name}: {each.type}{default}"


def _fragment(fragment: Fragment) -> Iterator[str]:
    generic = {"": "", "?": "<?>"}.get(fragment.generic, f"<? = {fragment.generic}>")
    parameters = ", ".join(map(_parameter, fragment.parameters))
    results = ", ".join(f"{each.name}: {each.type}" for each in fragment.results)
    yield f"fragment {fragment.name}{generic}( {parameters} ) -> ( {results} )"
    yield ";\n\n" if fragment.body is None else "\n{\n"
    if fragment.body is not None:
        yield from map(_assignment, fragment.body)
        yield "}\n\n"


def operation(flat: Operation) -> str:
    """Write a flat operation with all of its arguments, for a reader to compare.

    >>> from tensorkeep.wire.nnef.operations import Reference
    >>> operation(Operation("relu", {"x": Reference("a")}, {"y": Reference("b")}))
    'relu(x = a)'
    """
    dtype = f"<{flat.dtype}>" if flat.dtype else ""
    given = (f"{name} = {_shown(value)}" for name, value in flat.arguments.items())
    return f"{flat.name}{dtype}({', '.join(given)})"


def _shown(value: Value) -> str:
    try:
        return "none" if value is None else literal(value)
    except UnsupportedError:  # a number that is not finite
        return repr(value)


def document(extensions: Iterable[str], fragments: Iterable[Fragment], graph: Fragment) -> str:
    """Write a graph.nnef."""
    inputs = ", ".join(each.name for each in graph.parameters)
    outputs = ", ".join(each.name for each in graph.results)
    return "".join(
        [
            "version 1.0;\n",
            *(f"extension {extension};\n" for extension in extensions),
            "\n",
            *(text for fragment in fragments for text in _fragment(fragment)),
            f"graph {graph.name}( {inputs} ) -> ( {outputs} )\n{{\n",
            *map(_assignment, graph.body or ()),
            "}\n",
        ]
    )
