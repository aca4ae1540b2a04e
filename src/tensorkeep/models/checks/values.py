"""Faults of what is declared of values: types that are missing or impossible, or contradict."""

from __future__ import annotations

from typing import NamedTuple

from tensorkeep.graph.elements import KINDS
from tensorkeep.graph.graph import Axis, Value, value_of
from tensorkeep.message import Message
from tensorkeep.models.checks.findings import Report, quoted
from tensorkeep.models.checks.scopes import Scope
from tensorkeep.models.checks.tensors import ABSURD

# What a value lacks that inference may know.
UNTYPED = frozenset(("value-without-type", "value-without-shape", "value-type"))


class Declared(NamedTuple):
    """A ValueInfoProto, its place and what it says."""

    message: Message
    where: str
    value: Value


def declared_in(scope: Scope) -> list[Declared]:
    """Give all that a graph or a function declares of its values."""
    fields = ("value_info",) if scope.is_function else ("input", "output", "value_info")
    return [
        Declared(row, f"{scope.where}.{name}[{place}] {quoted(row.name)}", value_of(row))
        for name in fields
        for place, row in enumerate(scope.message[name])
    ]


def shown(value: Value) -> str:
    """Say what a value is, without its name.

    >>> shown(Value("x", "float32", (1, "N", None)))
    'float32[1, N, ?]'
    """
    return str(value._replace(name=""))[2:]


def differs(a: Value, b: Value) -> str:
    """Say in what two declarations of a value contradict; empty where both may be right.

    >>> differs(Value("x", "float32", (1, 26)), Value("x", "float32", (1, 28)))
    'axis 1 is 26 and 28'
    """
    if "unknown" in (a.kind, b.kind):
        return ""
    if a.kind != b.kind:
        return f"the kind is {a.kind} and {b.kind}"
    if a.dtype and b.dtype and a.dtype != b.dtype:
        return f"the element type is {a.dtype} and {b.dtype}"
    if a.axes is None or b.axes is None:
        return ""
    if len(a.axes) != len(b.axes):
        return f"the number of axes is {len(a.axes)} and {len(b.axes)}"
    for place, (one, other) in enumerate(zip(a.axes, b.axes, strict=True)):
        if isinstance(one, int) and isinstance(other, int) and one != other:
            return f"axis {place} is {one} and {other}"
    return ""


def check_values(scope: Scope, made: set[str], report: Report) -> None:
    """Look at what a scope declares; `made` are the values that it has."""
    first: dict[str, Declared] = {}
    seen: set[str] = set()
    constants = {} if scope.is_function else _constants(scope.message)
    for declared in declared_in(scope):
        _, where, value = declared
        _check_type(scope, declared, report)
        described = ".value_info[" in where
        if described and value.name in seen:
            problem = f"the value {quoted(value.name)} is described twice"
            report.warning("repeated-value-info", where, problem, "Keep one of both.")
        if described:
            seen.add(value.name)
            if value.name not in made:
                problem = f"describes {quoted(value.name)}, which the graph does not have"
                report.warning("stray-value-info", where, problem, "Remove it.")
        before = first.setdefault(value.name, declared)
        if before is not declared and (what := differs(before.value, value)):
            problem = f"says {shown(value)}, and {before.where} says {shown(before.value)}: {what}"
            report.error("declared-twice", where, problem, "Correct the one that is wrong.")
        constant = constants.get(value.name)
        if constant is not None and (what := differs(value, constant)):
            problem = f"says {shown(value)}, and the initializer is {shown(constant)}: {what}"
            cure = "Correct the one that is wrong."
            report.error("declared-initializer", where, problem, cure)


def _constants(graph: Message) -> dict[str, Value]:
    found = {}
    for tensor in graph.initializer:
        if tensor.data_type in KINDS:
            axes: tuple[Axis, ...] = tuple(map(int, tensor.dims.tolist()))
            name = str(tensor.name)
            found[name] = Value(name, KINDS[tensor.data_type].name, axes)
    return found


def _check_type(scope: Scope, declared: Declared, report: Report) -> None:
    message, where, value = declared
    described = ".value_info[" in where
    outside = scope.where == "graph" and not described
    if "type" not in message or value.kind == "unknown":
        if outside:
            problem = "says nothing of the type of the value, which callers have to know"
            cure = "Give its element type and shape."
            report.error("value-without-type", where, problem, cure)
        return
    if value.kind not in ("tensor", "sparse_tensor"):
        return
    held = message.type[f"{value.kind}_type"]
    number = held.elem_type
    if number not in KINDS and (number != 0 or outside):
        problem = f"has element type {number}; ONNX has 1 (float32) to {len(KINDS)}"
        report.error("value-type", where, problem, "Set elem_type.")
    if "shape" not in held:
        if outside:
            problem = "says nothing of the shape, not even how many axes there are"
            cure = "Give a shape; axes of it may stay open."
            report.error("value-without-shape", where, problem, cure)
        return
    sizes = [axis for axis in value.axes or () if isinstance(axis, int)]
    if any(size < 0 for size in sizes):
        problem = f"has the shape {shown(value)}, with a size below 0"
        cure = "Give an axis that varies a name (dim_param) instead."
        report.error("impossible-shape", where, problem, cure)
    elif len(value.axes or ()) > 64 or any(size > ABSURD for size in sizes):
        problem = f"has a shape that no tensor can have: {shown(value)[:100]}"
        report.error("absurd-size", where, problem, "Correct it.")
