"""Operations of a flat NNEF graph: what its text means once every expression is taken apart.

Arguments are Python's own values: bool, int, float, str, Reference for a tensor, lists and tuples
of these. A tensor that is a number in the text stays a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reference:
    """A tensor, by its identifier."""

    name: str

    def __str__(self) -> str:
        return self.name


Value = bool | int | float | str | Reference | list["Value"] | tuple["Value", ...] | None


@dataclass(slots=True)
class Operation:
    """One operation: what it is called, its arguments and results by the names of its fragment.

    Attributes:
        name: such as "conv".
        arguments: all of its parameters, those that were not given with their defaults; in the
            order of the fragment. None is a default that is left out ("bias = none"). Of what
            only an extension knows, arguments without a name are "0", "1", ...; so are results.
        results: a Reference each; a list of them where a result is an array of tensors.
        dtype: "scalar", "integer", "logical" or "string" of an operation that is generic, whether
            it is said (external<scalar>) or found out; "" of any other.
        line: where it stands in the text, from 1; 0 where it does not.
    """

    name: str
    arguments: dict[str, Value]
    results: dict[str, Value]
    dtype: str = ""
    line: int = 0
    column: int = 0

    def outputs(self) -> list[str]:
        """Name the tensors that it gives."""
        return [each.name for each in references(list(self.results.values()))]

    def inputs(self) -> list[str]:
        """Name the tensors that it takes."""
        return [each.name for each in references(list(self.arguments.values()))]

    def copy(self) -> Operation:
        """Give another one, which can be changed."""
        arguments = {name: _copied(value) for name, value in self.arguments.items()}
        results = {name: _copied(value) for name, value in self.results.items()}
        return Operation(self.name, arguments, results, self.dtype, self.line, self.column)


@dataclass(slots=True)
class Quantization:
    """A line of graph.quant: an operation whose first argument is the tensor itself."""

    name: str
    arguments: dict[str, Value] = field(default_factory=dict)


def _copied(value: Value) -> Value:
    if isinstance(value, list):
        nested = bool(value) and isinstance(value[0], list | tuple)
        return [_copied(item) for item in value] if nested else value.copy()
    return tuple(map(_copied, value)) if isinstance(value, tuple) else value


def references(value: Value) -> Iterator[Reference]:
    """Give the tensors in a value, however deep."""
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)
