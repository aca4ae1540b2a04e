"""Attributes of nodes: what each value is to ONNX, checked and written.

    int, bool, an element type                int
    float                                     float
    str, bytes                                string
    an array, a Tensor                        tensor
    a Sparse                                  sparse_tensor
    a Body                                    graph
    a Type                                    type_proto
    a list of any of them                     that in the plural

Where the operator says the kind, the value is taken as that: 1 as a float, an array as ints; the
name of an element type as its number, where an attribute tells one (`to`, `dtype`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError
from tensorkeep.graph import NUMBERS, fill_tensor
from tensorkeep.graph.schema import ATTRIBUTE, ATTRIBUTE_TYPES, SPARSE
from tensorkeep.message import Message
from tensorkeep.models.building.constants import is_array, tensor_of
from tensorkeep.models.building.symbols import Formal, Symbol
from tensorkeep.models.building.types import Type
from tensorkeep.tensor import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A graph that is an attribute, such as the body of a Loop; see `body`."""

    inputs: tuple[Symbol, ...]
    outputs: tuple[Symbol, ...]
    output_names: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Sparse:
    """A sparse tensor: values in a row, and where they are.

    Args:
        values: those that are not zero.
        indices: int64, either one place in the flattened tensor for each value, ascending, or one
            row of places on each axis.
        shape: the sizes of the axes.
    """

    values: Any
    indices: Any
    shape: Sequence[int]


@dataclass(frozen=True, slots=True)
class Reference:
    """The attribute of a function, where nodes in it take it as theirs; see `attribute`."""

    name: str
    kind: str
    default: Any = None


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """An attribute of a node: its name, the kind of its value, and the value as ONNX holds it."""

    name: str
    kind: str
    value: Any

    def bodies(self) -> tuple[Body, ...]:
        """Give the graphs that it holds."""
        if isinstance(self.value, Body):
            return (self.value,)
        return self.value if self.kind == "graphs" and isinstance(self.value, tuple) else ()


def attribute(name: str, kind: str, default: Any = None) -> Reference:
    """Give the attribute of a function, to pass it on to the nodes in it.

    Args:
        name: what callers of the function call it.
        kind: "int", "float", "string", "tensor", "ints", "floats", "strings" or another of ONNX's.
        default: what it is where a caller does not give it; without, it has to be given.

    Raises:
        ArgumentError: there is no such kind, or the default is of another.
    """
    if kind not in _FIELDS:
        raise ArgumentError(f"{kind!r} is no kind of attribute", cure=f"Use {', '.join(_FIELDS)}.")
    if default is not None:
        default = take_attribute(name, default, kind, "the function's").value
    return Reference(name, kind, default)


def take_attribute(name: str, value: Any, kind: str, where: str) -> AttributeValue:
    """Take a value as an attribute of a kind, or of the kind it looks like where that is empty.

    Raises:
        ArgumentError: it is of another kind, or of none.
    """
    if isinstance(value, Reference):
        if kind and value.kind != kind:
            raise _wrong(where, name, kind, f"the {value.kind} attribute {value.name}")
        return AttributeValue(name, value.kind, value)
    if isinstance(value, Symbol):
        raise ArgumentError(
            f"{where} attribute {name} is a value that is not computed yet",
            cure="Attributes are constants; values are inputs.",
        )
    if not kind and not (kind := _guess(value)):
        raise ArgumentError(
            f"{where} attribute {name} is {_kind(value)}, which no attribute can be",
            cure="Give numbers, text, bytes, arrays, bodies, types or lists of one of these.",
        )
    try:
        return AttributeValue(name, kind, _take(kind, value, name))
    except _OtherError:
        raise _wrong(where, name, kind, _kind(value)) from None
    except ArgumentError as error:
        raise ArgumentError(f"{where} attribute {name}: {error.problem}", cure=error.cure) from None


def write_attribute(given: AttributeValue, graph_of: Callable[[Body], Message]) -> Message:
    """Give an attribute as an AttributeProto; `graph_of` gives the graph of a body."""
    made = Message(ATTRIBUTE, name=given.name, type=ATTRIBUTE_TYPES[given.kind.upper()])
    value = given.value
    if isinstance(value, Reference):
        made.ref_attr_name = value.name
        return made
    write = _WRITERS.get(given.kind.removesuffix("s"), lambda item, _: item)
    plural = isinstance(value, tuple)
    made[_FIELDS[given.kind]] = (
        [write(item, graph_of) for item in value] if plural else write(value, graph_of)
    )
    return made


_FIELDS = {
    "float": "f",
    "int": "i",
    "string": "s",
    "tensor": "t",
    "graph": "g",
    "sparse_tensor": "sparse_tensor",
    "type_proto": "tp",
    "floats": "floats",
    "ints": "ints",
    "strings": "strings",
    "tensors": "tensors",
    "graphs": "graphs",
    "sparse_tensors": "sparse_tensors",
    "type_protos": "type_protos",
}


class _OtherError(Exception):
    """The value is of another kind."""


def _guess(value: Any) -> str:
    match value:
        case bool() | int() | np.integer() | np.bool_() | DType():
            return "int"
        case float() | np.floating():
            return "float"
        case str() | bytes():
            return "string"
        case Body():
            return "graph"
        case Type():
            return "type_proto"
        case Sparse():
            return "sparse_tensor"
        case list() | tuple() if value:
            kinds = {_guess(item) for item in value}
            if kinds == {"int", "float"}:
                return "floats"
            (kind, *others) = kinds
            return "" if others or not kind or kind.endswith("s") else f"{kind}s"
    return "tensor" if is_array(value) else ""


# Attributes of ONNX's operators that are numbers of element types.
_TYPE_NAMES = frozenset(
    (
        "to",
        "dtype",
        "output_dtype",
        "output_datatype",
        "precision",
        "softmax_precision",
        "stash_type",
    )
)


def _take(kind: str, value: Any, name: str) -> Any:
    if kind == "int" and name in _TYPE_NAMES and isinstance(value, str | np.dtype | type):
        value = dtypes.dtype(value)
    if kind.endswith("s"):
        if is_array(value):
            value = np.asarray(value)
            if value.ndim != 1:
                raise _OtherError
        elif not isinstance(value, list | tuple | range):
            raise _OtherError
        return tuple(_TAKERS[kind[:-1]](item) for item in value)
    if kind in ("int", "float", "string") and is_array(value) and value.shape == ():
        value = np.asarray(value)[()]
    return _TAKERS[kind](value)


def _take_int(value: Any) -> int:
    if isinstance(value, bool | int | np.integer | np.bool_):
        number = int(value)
        if not -(2**63) <= number < 2**63:
            raise ArgumentError(f"{number} does not fit in the 64 bits of an attribute")
        return number
    if isinstance(value, DType):
        if value not in NUMBERS:
            raise ArgumentError(f"{value} is no element type of ONNX")
        return NUMBERS[value]
    raise _OtherError


def _take_float(value: Any) -> float:
    if not isinstance(value, bool | int | float | np.number | np.bool_) or np.iscomplexobj(value):
        raise _OtherError
    number = float(value)
    with np.errstate(over="ignore"):
        if np.isinf(np.float32(number)) and not np.isinf(number):
            raise ArgumentError(f"{number} does not fit in the 32 bits of a float attribute")
    return number


def _take_string(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return value
    raise _OtherError


def _take_tensor(value: Any) -> Tensor:
    if isinstance(value, str | bytes | Body | Type | Sparse | DType) or value is None:
        raise _OtherError
    return tensor_of(value)


def _take_sparse(value: Any) -> Sparse:
    if not isinstance(value, Sparse):
        raise _OtherError
    values, indices = tensor_of(value.values), tensor_of(value.indices)
    try:
        shape = tuple(index(axis) for axis in value.shape)
    except TypeError:
        raise ArgumentError(
            f"a sparse tensor cannot have the shape {value.shape!r}", cure="Give a list of sizes."
        ) from None
    count = values.size
    good = values.ndim == 1 and indices.dtype is dtypes.INT64
    if not good or indices.shape not in ((count,), (count, len(shape))):
        raise ArgumentError(
            f"a sparse tensor of shape {shape} with {values!r} cannot have indices {indices!r}",
            cure="Give values in a row and int64 indices, one or a row of them for each value.",
        )
    return Sparse(values, indices, shape)


def _expect(kind: type) -> Callable[[Any], Any]:
    def take(value: Any) -> Any:
        if not isinstance(value, kind):
            raise _OtherError
        return value

    return take


_TAKERS: dict[str, Callable[[Any], Any]] = {
    "int": _take_int,
    "float": _take_float,
    "string": _take_string,
    "tensor": _take_tensor,
    "graph": _expect(Body),
    "type_proto": _expect(Type),
    "sparse_tensor": _take_sparse,
}


def _write_tensor(given: Tensor, _: object = None) -> Message:
    from tensorkeep.graph.schema import TENSOR

    made = Message(TENSOR)
    fill_tensor(made, given)
    return made


def _write_sparse(given: Sparse, _: object = None) -> Message:
    made = Message(SPARSE, dims=list(given.shape))
    made["values"] = _write_tensor(given.values)
    made["indices"] = _write_tensor(given.indices)
    return made


_WRITERS: dict[str, Callable[[Any, Any], Any]] = {
    "tensor": _write_tensor,
    "sparse_tensor": _write_sparse,
    "graph": lambda given, graph_of: graph_of(given),
    "type_proto": lambda given, _: given.message(),
}


def _wrong(where: str, name: str, kind: str, found: str) -> ArgumentError:
    said = f"a list of {kind[:-1]}" if kind.endswith("s") else kind
    return ArgumentError(f"{where} attribute {name} is {said}, not {found}")


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return (
            f"a list of {', '.join(sorted({type(item).__name__ for item in value})) or 'nothing'}"
        )
    return type(value).__name__


__all__ = [
    "AttributeValue",
    "Body",
    "Formal",
    "Reference",
    "Sparse",
    "attribute",
    "take_attribute",
    "write_attribute",
]
