"""What operations of a document's own fragments are made of, a level at a time.

`Document.operations` takes every fragment apart, down to standard operations. Here the fragments
count as operations without a body, so that calls of them stay as they are; and a call is made a
graph of its own: its tensors are inputs, its other arguments are assigned before the body.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from tensorkeep.wire.nnef.checking import Vocabulary, vocabulary
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.flattening import flatten
from tensorkeep.wire.nnef.fragments import standard
from tensorkeep.wire.nnef.operations import Operation, Reference, Value
from tensorkeep.wire.nnef.syntax import (
    GENERIC,
    Array,
    ArrayOf,
    Assignment,
    Expression,
    Fragment,
    Invocation,
    Literal,
    Name,
    Parameter,
    Result,
    TensorOf,
    Tuple,
    Type,
    names_of,
)

_TENSOR = TensorOf("scalar")
# What gives the tensors of a call; no text can name it. Unlike `external` it tells no shape.
_INPUT = Fragment(" input", "scalar", (), (Result("x", TensorOf(GENERIC)),))
_BUDGET = 2_000_000  # values and operations, of all calls together


class Inside(NamedTuple):
    """What a call is made of, by the names that its fragment gives."""

    inputs: list[str]
    outputs: list[str]
    operations: list[Operation]


class Calls:
    """The calls of a document's own fragments.

    Raises:
        TensorKeepError: a method does, where what is in a fragment cannot be told from its call
            alone; the document as a whole may be sound all the same.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self.defined = {
            each.name: each
            for each in document.fragments
            if each.body is not None
            and all(isinstance(result.type, TensorOf) for result in each.results)
        }
        self._left = _BUDGET
        words = vocabulary(document.extensions, document.fragments, standard(), document.where)
        closed = {name: replace(each, body=None) for name, each in self.defined.items()}
        self._words = Vocabulary(
            {**words.fragments, **closed, _INPUT.name: _INPUT},
            words.open,
            words.expressions,
            words.where,
        )

    def outermost(self) -> list[Operation]:
        """Give the operations of the graph."""
        document = self._document
        inputs = tuple(Parameter(name, _TENSOR) for name in document.inputs)
        outputs = tuple(Result(name, _TENSOR) for name in document.outputs)
        return self._flat(Fragment(document.name, "", inputs, outputs, document.body))

    def key(self, operation: Operation) -> str:
        """Give what calls have in common that are made of the same."""
        given = (f"{name}={_pattern(value)}" for name, value in operation.arguments.items())
        return f"{operation.name}<{operation.dtype}>({', '.join(given)})"

    def inside(self, operation: Operation) -> Inside:
        """Give what a call is made of."""
        fragment = self.defined[operation.name]
        body = fragment.body or ()
        taken = {name.name for line in body for name in names_of(line.target)}
        taken.update(parameter.name for parameter in fragment.parameters)
        inputs: list[str] = []
        first: list[Assignment] = []

        def expression(value: Value, name: str, dtype: str) -> Expression:
            """Write a value; its tensors become inputs, called like their parameter."""
            if isinstance(value, Reference):
                first.append(Assignment(Name(name), Invocation(_INPUT.name, dtype, ())))
                inputs.append(name)
                return Name(name)
            if isinstance(value, list | tuple):
                names = [_fresh(f"{name}_{place}", taken) for place in range(len(value))]
                pairs = zip(value, names, strict=True)
                items = tuple(expression(item, each, dtype) for item, each in pairs)
                return Array(items) if isinstance(value, list) else Tuple(items)
            return Literal(value)  # type: ignore[arg-type]

        for parameter in fragment.parameters:
            dtype = _dtype(parameter.type, operation.dtype)
            value = expression(operation.arguments[parameter.name], parameter.name, dtype)
            if not isinstance(value, Name):
                first.append(Assignment(Name(parameter.name), value))
        graph = Fragment(fragment.name, "", (), fragment.results, (*first, *body))
        operations = [each for each in self._flat(graph) if each.name != _INPUT.name]
        return Inside(inputs, [each.name for each in fragment.results], operations)

    def _flat(self, graph: Fragment) -> list[Operation]:
        operations = flatten(graph, self._words, (), self._left)
        self._left -= 16 * len(operations)
        return operations


def _dtype(kind: Type, generic: str) -> str:
    """Give the type of the elements of a parameter's tensors."""
    while isinstance(kind, ArrayOf):
        kind = kind.item
    item = kind.item if isinstance(kind, TensorOf) else ""
    return (generic if item == GENERIC else item) or "scalar"


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _pattern(value: Value) -> str:
    """Write a value, its tensors without their names."""
    if isinstance(value, Reference):
        return "*"
    if isinstance(value, list | tuple):
        inside = ",".join(map(_pattern, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return repr(value)
