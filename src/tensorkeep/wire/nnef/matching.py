"""Types of arguments against those of parameters, and what ? stands for in a generic fragment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tensorkeep.wire.nnef.computing import type_of
from tensorkeep.wire.nnef.operations import Reference, Value
from tensorkeep.wire.nnef.syntax import (
    GENERIC,
    ArrayOf,
    Fragment,
    Primitive,
    TensorOf,
    TupleOf,
    Type,
)


class MistypedError(Exception):
    """An argument that is not of the type that is wanted, and how."""


@dataclass(slots=True)
class Dtypes:
    """What each tensor holds: scalar, integer, logical, string; "" where nothing tells."""

    known: dict[str, str] = field(default_factory=dict)

    def declare(self, value: Value, kind: Type, dtype: str) -> None:
        """Note what the tensors of a result hold."""
        if isinstance(value, Reference) and isinstance(kind, TensorOf):
            self.known[value.name] = dtype if kind.item == GENERIC else kind.item
        elif isinstance(value, list) and isinstance(kind, ArrayOf):
            for item in value:
                self.declare(item, kind.item, dtype)

    def check(self, fragment: Fragment, given: Mapping[str, Value], dtype: str) -> str:
        """Check arguments, and give what ? stands for; "" where the fragment is not generic.

        Raises:
            MistypedError: an argument is of another type, or nothing tells what ? is.
        """
        if fragment.generic and not dtype:
            dtype = fragment.generic
            if dtype == GENERIC:
                dtype = self._deduced(fragment, given)
        for parameter in fragment.parameters:
            value = given[parameter.name]
            if not self.fits(value, parameter.type, dtype):
                kind = str(parameter.type).replace(GENERIC, dtype or GENERIC)
                raise MistypedError(
                    f"'{parameter.name}' wants {kind}, found {self._described(value)}"
                )
        return dtype

    def fits(self, value: Value, kind: Type, dtype: str) -> bool:
        """Tell whether a value is of a type; a number will do for a tensor of such."""
        if isinstance(kind, ArrayOf):
            return isinstance(value, list) and all(
                self.fits(item, kind.item, dtype) for item in _kinds(value)
            )
        if isinstance(kind, TupleOf):
            return (
                isinstance(value, tuple)
                and len(value) == len(kind.items)
                and all(self.fits(*pair, dtype) for pair in zip(value, kind.items, strict=True))
            )
        wanted = kind.name if isinstance(kind, Primitive) else kind.item
        wanted = dtype if wanted == GENERIC else wanted
        if isinstance(value, Reference):
            known = self.known.get(value.name, "")
            return isinstance(kind, TensorOf) and (not known or not wanted or known == wanted)
        if isinstance(value, list | tuple):
            return False
        return not wanted or type_of(value) == wanted

    def _described(self, value: Value) -> str:
        if isinstance(value, Reference):
            return f"tensor<{self.known.get(value.name, '')}> '{value.name}'"
        return type_of(value)

    def _deduced(self, fragment: Fragment, given: Mapping[str, Value]) -> str:
        found: list[str] = []
        for parameter in fragment.parameters:
            found.extend(self._generics(given[parameter.name], parameter.type))
        kinds = sorted(set(found) - {""})
        if len(kinds) > 1:
            raise MistypedError(
                f"its arguments are {' and '.join(kinds)}, expected all of one type"
            )
        if not found:
            raise MistypedError(f"nothing tells its type; write {fragment.name}<scalar>(...)")
        return kinds[0] if kinds else ""

    def _generics(self, value: Value, kind: Type) -> Iterator[str]:
        if isinstance(kind, ArrayOf) and isinstance(value, list):
            for item in _kinds(value):
                yield from self._generics(item, kind.item)
        elif isinstance(kind, TupleOf) and isinstance(value, tuple):
            for item, each in zip(value, kind.items, strict=False):
                yield from self._generics(item, each)
        elif isinstance(kind, TensorOf) and kind.item == GENERIC and isinstance(value, Reference):
            yield self.known.get(value.name, "")
        elif kind in (Primitive(GENERIC), TensorOf(GENERIC)) and not isinstance(
            value, list | tuple
        ):
            yield type_of(value)


def _kinds(values: list[Value]) -> list[Value]:
    """Give the values, of the plain ones no more than one of a type: their types alone count."""
    types = set(map(type, values))
    if types.isdisjoint({Reference, list, tuple}):
        return list({type(value): value for value in values}.values())
    return values
