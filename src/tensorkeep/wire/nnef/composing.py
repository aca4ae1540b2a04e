"""Composing: flat operations made into the assignments that say them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.similar import did_you_mean
from tensorkeep.wire.nnef.lexing import is_identifier
from tensorkeep.wire.nnef.operations import Operation, Reference, Value
from tensorkeep.wire.nnef.syntax import (
    GENERIC,
    Argument,
    Array,
    ArrayOf,
    Assignment,
    Expression,
    Fragment,
    Invocation,
    Literal,
    Name,
    Primitive,
    TensorOf,
    Tuple,
    TupleOf,
    Type,
    holds_tensors,
    is_generic,
)

_COST = 16  # of an operation or tensor, as many values

_TYPES: dict[str, type] = {"integer": int, "scalar": float, "logical": bool, "string": str}


def assignment(operation: Operation, fragments: Mapping[str, Fragment]) -> Assignment:
    """Write an operation as an assignment: tensors by place, all else by name, defaults left out.

    Raises:
        ArgumentError: it is not an operation of NNEF's, or an argument does not suit it.
        UnsupportedError: a number that is not finite.
    """
    fragment = fragments.get(operation.name)
    if fragment is None:
        problem = f"NNEF has no operation {operation.name!r}"
        raise ArgumentError(problem, cure=did_you_mean(operation.name, fragments))
    unknown = set(operation.arguments) - {each.name for each in fragment.parameters}
    if unknown:
        problem = f"{operation.name} has no parameter {min(unknown)!r}"
        known = ", ".join(each.name for each in fragment.parameters)
        raise ArgumentError(problem, cure=f"It has {known}.")
    arguments = tuple(_arguments(operation, fragment))
    targets = [_target(operation, each.name) for each in fragment.results]
    target = targets[0] if len(targets) == 1 else Tuple(tuple(targets))
    call = Invocation(operation.name, _dtype(operation, fragment), arguments)
    return Assignment(target, call)


def _dtype(operation: Operation, fragment: Fragment) -> str:
    """Give the type that has to be written: one that the arguments do not tell."""
    if not fragment.generic:
        return ""
    told = any(is_generic(each.type) and holds_tensors(each.type) for each in fragment.parameters)
    if told or operation.dtype == fragment.generic:
        return ""
    if not operation.dtype and fragment.generic == GENERIC:
        raise ArgumentError(f"{operation.name} wants a dtype", cure='Such as "scalar".')
    return operation.dtype


def _arguments(operation: Operation, fragment: Fragment) -> Iterator[Argument]:
    by_place = True
    for parameter in fragment.parameters:
        value = operation.arguments.get(parameter.name)
        if value is None:
            if parameter.required:
                raise ArgumentError(f"{operation.name} wants an argument {parameter.name!r}")
            by_place = False
            continue
        where = f"{operation.name}: {parameter.name}"
        value = _converted(value, parameter.type, operation.dtype or fragment.generic, where)
        if not parameter.required and _equal(value, parameter.default):
            by_place = False
            continue
        by_place = by_place and holds_tensors(parameter.type)
        yield Argument("" if by_place else parameter.name, _expression(value))


def _equal(value: Value, default: Value) -> bool:
    if isinstance(value, float) and isinstance(default, float):
        return value == default and math.copysign(1, value) == math.copysign(1, default)
    return type(value) is type(default) and value == default


def _converted(value: Any, kind: Type, generic: str, where: str) -> Value:
    """Give a value as its type wants it: NumPy's numbers as Python's, 1 as 1.0 for a scalar."""
    if isinstance(value, Reference):
        if isinstance(kind, TensorOf):
            return value
        raise ArgumentError(f"{where} wants {kind}, not the tensor {value.name}")
    given: Any = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(kind, ArrayOf | TupleOf):
        fits = isinstance(given, list | tuple)
        if not fits or (isinstance(kind, TupleOf) and len(given) != len(kind.items)):
            raise ArgumentError(f"{where} wants {kind}, not {value!r}")
        if isinstance(kind, ArrayOf):
            return [_converted(item, kind.item, generic, where) for item in given]
        pairs = zip(given, kind.items, strict=True)
        return tuple(_converted(item, each, generic, where) for item, each in pairs)
    wanted = kind.name if isinstance(kind, Primitive) else kind.item
    wanted = generic if wanted == GENERIC else wanted
    if wanted == "scalar" and type(given) is int:
        given = float(given)
    if type(given) not in _TYPES.values() or type(given) is not _TYPES.get(wanted, type(given)):
        raise ArgumentError(f"{where} wants {kind}, not {value!r}")
    if isinstance(given, float) and not math.isfinite(given):
        problem = f"{where} is {given}, which NNEF's text has no word for"
        raise UnsupportedError(problem, cure="Keep it as a variable.")
    return cast(Value, given)


def _expression(value: Value) -> Expression:
    if isinstance(value, Reference):
        return Name(value.name)
    if isinstance(value, list):
        return Array(tuple(map(_expression, value)))
    if isinstance(value, tuple):
        return Tuple(tuple(map(_expression, value)))
    assert value is not None
    return Literal(value)


def _target(operation: Operation, name: str) -> Expression:
    if name not in operation.results:
        raise ArgumentError(f"{operation.name} wants a result {name!r}")
    return _expression(operation.results[name])


def check_names(graph: str, inputs: Sequence[str], operations: Sequence[Operation]) -> None:
    """Check that all names can be written.

    Raises:
        ArgumentError: one is no identifier.
    """
    names = [graph, *inputs]
    for operation in operations:
        names += [*operation.outputs(), *operation.inputs()]
    for name in names:
        if not is_identifier(name):
            cure = "Letters, digits and _ make one; it begins with no digit and is no keyword."
            raise ArgumentError(f"{name!r} is no identifier of NNEF's", cure=cure)


def weight(operation: Operation) -> int:
    """Count an operation and its results as flattening does, and the values of its arguments."""
    return _COST * (1 + len(operation.outputs())) + sum(map(_count, operation.arguments.values()))


def _count(value: Value) -> int:
    return 1 + sum(map(_count, value)) if isinstance(value, list | tuple) else 1
