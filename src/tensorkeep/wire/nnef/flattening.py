"""Flattening: a graph's expressions, and the fragments of it, taken apart into operations."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from tensorkeep.errors import UnsafeError, UnsupportedError
from tensorkeep.wire.nnef import computing
from tensorkeep.wire.nnef.calling import Calls, Scope, Target, Wanted
from tensorkeep.wire.nnef.checking import Vocabulary
from tensorkeep.wire.nnef.computing import UncomputableError, type_of
from tensorkeep.wire.nnef.lexing import fail, placed
from tensorkeep.wire.nnef.operations import Operation, Reference, Value
from tensorkeep.wire.nnef.syntax import (
    GENERIC,
    Array,
    Binary,
    Builtin,
    Choice,
    Comprehension,
    Expression,
    Fragment,
    Invocation,
    Literal,
    Name,
    Position,
    Subscript,
    Tuple,
    Unary,
    names_of,
)

_UNARY = {"+": "copy", "-": "neg", "!": "not"}
_BINARY = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow", "&&": "and", "||": "or",
    "<": "lt", ">": "gt", "<=": "le", ">=": "ge", "==": "eq", "!=": "ne",
}  # fmt: skip


def flatten(
    graph: Fragment, words: Vocabulary, expand: Collection[str], budget: int
) -> list[Operation]:
    """Give the operations of a graph.

    Args:
        graph: checked by `checking.check_graph`.
        words: the operations that there are; the bodies of the fragments are checked too.
        expand: the standard operations that give way to what they are made of.
        budget: how many values and operations it may come to.

    Raises:
        CorruptError: a value is not of the type that is wanted, or cannot be computed.
        UnsafeError: it comes to far more than what is written, or nests too deeply.
        UnsupportedError: it depends on shapes, which the text alone does not tell.
    """
    return _Flattening(graph, words, expand, budget).operations()


class _Flattening:
    def __init__(
        self, graph: Fragment, words: Vocabulary, expand: Collection[str], budget: int
    ) -> None:
        self._graph = graph
        self._where = words.where
        self._words = words
        taken = {name.name for line in graph.body or () for name in names_of(line.target)}
        self._calls = Calls(words, expand, budget, taken, self._run)

    def operations(self) -> list[Operation]:
        outputs = {result.name for result in self._graph.results}
        scope = Scope()
        for line in self._graph.body or ():
            names = [name.name for name in names_of(line.target)]
            scope.prefix = names[0]
            scope.results = {name: Wanted(name, exact=True) for name in names}
            scope.numbers = not outputs.isdisjoint(names)
            value = self._evaluate(line.value, scope, self._target(line.target, scope))
            self._assign(line.target, value, scope)
        for result in self._graph.results:
            value = scope.values[result.name]
            if not isinstance(value, Reference):
                problem = f"the output '{result.name}' is {type_of(value)}, expected a tensor"
                fail(self._graph.at, problem, self._where)
        return self._calls.operations

    def _run(self, fragment: Fragment, scope: Scope) -> None:
        for line in fragment.body or ():
            value = self._evaluate(line.value, scope, self._target(line.target, scope))
            self._assign(line.target, value, scope)

    def _target(self, target: Expression, scope: Scope) -> Target:
        if isinstance(target, Name):
            return scope.results.get(target.name, scope.hint(target.name))
        items = [self._target(item, scope) for item in _items(target)]
        return items if isinstance(target, Array) else tuple(items)

    def _assign(self, target: Expression, value: Value, scope: Scope) -> None:
        if isinstance(target, Name):
            wanted = scope.results.get(target.name)
            scope.values[target.name] = self._named(value, wanted, target.at, scope)
            return
        wants = "array" if isinstance(target, Array) else "tuple"
        if not isinstance(value, list if wants == "array" else tuple):
            fail(target.at, f"found {type_of(value)} to assign to an {wants}", self._where)
        items = _items(target)
        assert isinstance(value, list | tuple)
        self._check_count(len(value), len(items), target.at)
        for item, each in zip(items, value, strict=True):
            self._assign(item, each, scope)

    def _check_count(self, values: int, names: int, at: Position) -> None:
        if values != names:
            fail(at, f"found {values} values for {names} identifiers", self._where)

    def _named(self, value: Value, wanted: Target, at: Position, scope: Scope) -> Value:
        """Give a value under the very name that is wanted of it, by a copy where it has another."""
        if isinstance(wanted, list | tuple) and isinstance(value, list | tuple):
            self._check_count(len(value), len(wanted), at)
            pairs = zip(value, wanted, strict=True)
            return type(value)(self._named(each, name, at, scope) for each, name in pairs)
        exact = isinstance(wanted, Wanted) and wanted.exact
        if not exact or isinstance(value, list | tuple):
            return value
        if value == Reference(wanted.name) or not (isinstance(value, Reference) or scope.numbers):  # type: ignore[union-attr]
            return value
        return self._calls.call("copy", {"x": value}, "", wanted, at, scope)

    def _evaluate(self, value: Expression, scope: Scope, wanted: Target = None) -> Value:
        self._calls.spend(1, value.at)
        if isinstance(value, Literal):
            return value.value
        return _EVALUATORS[type(value)](self, value, scope, wanted)

    def _name(self, value: Name, scope: Scope, wanted: Target) -> Value:
        return scope.values[value.name]

    def _array(self, value: Array | Tuple, scope: Scope, wanted: Target) -> Value:
        wants = wanted if isinstance(wanted, list | tuple) else ()
        items = [
            item.value
            if isinstance(item, Literal)
            else self._evaluate(item, scope, wants[place] if place < len(wants) else None)
            for place, item in enumerate(value.items)
        ]
        self._calls.spend(len(items), value.at)
        if isinstance(value, Tuple):
            return tuple(self._weighed(items, value.at))
        if len(set(map(type, items)) - {Reference}) > 1:
            kinds = " and ".join(dict.fromkeys(map(type_of, items)))
            fail(value.at, f"an array of {kinds}, expected items of one type", self._where)
        return self._weighed(items, value.at)

    def _weighed(self, items: list[Value], at: Position) -> list[Value]:
        for item in items:
            if isinstance(item, list | tuple):
                self._calls.spend(_weight(item), at)
        return items

    def _computed(self, at: Position, compute: Callable[..., Value], *operands: Any) -> Value:
        try:
            value = compute(*operands)
        except UncomputableError as error:
            fail(at, str(error), self._where)
        except UnsafeError as error:
            raise UnsafeError(placed(at, error.problem), where=self._where) from None
        self._calls.spend(_weight(value), at)
        return value

    def _subscript(self, value: Subscript, scope: Scope, wanted: Target) -> Value:
        sequence = self._evaluate(value.sequence, scope)
        begin = None if value.begin is None else self._evaluate(value.begin, scope)
        end = None if value.end is None else self._evaluate(value.end, scope)
        return self._computed(value.at, computing.subscript, sequence, begin, end, value.ranges)

    def _unary(self, value: Unary, scope: Scope, wanted: Target) -> Value:
        operand = self._evaluate(value.operand, scope)
        if isinstance(operand, Reference):
            name = _UNARY[value.operator]
            return self._calls.call(name, {"x": operand}, "", wanted, value.at, scope)
        return self._computed(value.at, computing.unary, value.operator, operand)

    def _binary(self, value: Binary, scope: Scope, wanted: Target) -> Value:
        left = self._evaluate(value.left, scope)
        if isinstance(left, bool) and left == {"&&": False, "||": True}.get(value.operator):
            return left
        right = self._evaluate(value.right, scope)
        tensors = isinstance(left, Reference) or isinstance(right, Reference)
        if tensors and value.operator in _BINARY:
            given = {"x": left, "y": right}
            name = _BINARY[value.operator]
            return self._calls.call(name, given, "", wanted, value.at, scope)
        return self._computed(value.at, computing.binary, value.operator, left, right)

    def _condition(self, value: Expression, scope: Scope) -> bool:
        found = self._evaluate(value, scope)
        if not isinstance(found, bool):
            cure = "What depends on a tensor is chosen by select." * isinstance(found, Reference)
            fail(value.at, f"a condition is logical, found {type_of(found)}", self._where, cure)
        return found

    def _choice(self, value: Choice, scope: Scope, wanted: Target) -> Value:
        chosen = value.yes if self._condition(value.condition, scope) else value.no
        return self._evaluate(chosen, scope, wanted)

    def _comprehension(self, value: Comprehension, scope: Scope, wanted: Target) -> Value:
        arrays: list[list[Value]] = []
        for _, items in value.loops:
            array = self._evaluate(items, scope)
            if not isinstance(array, list):
                fail(items.at, f"found {type_of(array)}, expected an array", self._where)
            arrays.append(array)
        if len(set(map(len, arrays))) > 1:
            lengths = " and ".join(str(len(array)) for array in arrays)
            fail(value.at, f"looped over together are arrays of {lengths} items", self._where)
        wants = wanted if isinstance(wanted, list) else []
        inner = Scope(dict(scope.values), {}, False, scope.generic, scope.prefix, scope.depth)
        self._calls.spend(len(inner.values), value.at)
        given: list[Value] = []
        for row in zip(*arrays, strict=True):
            for (target, _), each in zip(value.loops, row, strict=True):
                self._assign(target, each, inner)
            if value.condition is None or self._condition(value.condition, inner):
                name = wants[len(given)] if len(given) < len(wants) else None
                given.append(self._evaluate(value.item, inner, name))
        return self._weighed(given, value.at)

    def _builtin(self, value: Builtin, scope: Scope, wanted: Target) -> Value:
        operand = self._evaluate(value.operand, scope)
        if value.name != "shape_of":
            return self._computed(value.at, computing.builtin, value.name, operand)
        if not isinstance(operand, Reference):
            return []
        if operand.name not in self._calls.shapes:
            problem = placed(value.at, f"the text does not tell the shape of '{operand}'")
            cure = "Write it out; shape_of is no longer part of NNEF."
            raise UnsupportedError(problem, where=self._where, cure=cure)
        return list(self._calls.shapes[operand.name])

    def _invocation(self, value: Invocation, scope: Scope, wanted: Target) -> Value:
        fragment = self._words.find(value)
        dtype = scope.generic if value.dtype == GENERIC else value.dtype
        given: dict[str, Value]
        if fragment is None:
            given = {
                argument.name or str(place): self._evaluate(argument.value, scope)
                for place, argument in enumerate(value.arguments)
            }
            return self._calls.foreign(value.name, given, dtype, wanted, value.at, scope)
        bound = self._words.bind(value, fragment)
        given = {name: self._evaluate(each, scope) for name, each in bound.items()}
        return self._calls.call(value.name, given, dtype, wanted, value.at, scope)


def _items(target: Expression) -> tuple[Expression, ...]:
    return target.items if isinstance(target, Array | Tuple) else ()


def _weight(value: Value) -> int:
    """Count what a value holds; a long text counts like as many numbers."""
    if isinstance(value, list | tuple):
        return len(value) + sum(_weight(item) for item in value if isinstance(item, list | tuple))
    return len(value) // 16 if isinstance(value, str) else 0


_EVALUATORS: dict[type, Callable[[_Flattening, Any, Scope, Target], Value]] = {
    Name: _Flattening._name,
    Array: _Flattening._array,
    Tuple: _Flattening._array,
    Subscript: _Flattening._subscript,
    Unary: _Flattening._unary,
    Binary: _Flattening._binary,
    Choice: _Flattening._choice,
    Comprehension: _Flattening._comprehension,
    Builtin: _Flattening._builtin,
    Invocation: _Flattening._invocation,
}
