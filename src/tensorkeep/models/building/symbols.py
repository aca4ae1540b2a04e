"""Symbols: the values of a model that is being built, each with the node or array it comes from."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tensorkeep.dtypes import DType
from tensorkeep.graph.graph import Axis
from tensorkeep.models.building.types import DTypeLike, Type
from tensorkeep.models.building.types import tensor as tensor_type
from tensorkeep.tensor import Tensor

if TYPE_CHECKING:
    from tensorkeep.models.building.attributes import AttributeValue
    from tensorkeep.models.building.functions import Function
    from tensorkeep.models.ops.history import Version

_serials = itertools.count()


def _serial() -> int:
    return next(_serials)


@dataclass(frozen=True, slots=True, eq=False)
class Formal:
    """An input of a graph, a body or a function."""

    name: str
    serial: int = field(default_factory=_serial)


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """An array of the model; those of one identity become one initializer."""

    tensor: Tensor
    identity: Hashable
    name: str = ""
    keeps: Any = None  # what the identity is of, so that its memory is not used again


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A node; what was made earlier has a lower serial, so no node can come before its inputs."""

    op_type: str
    domain: str
    inputs: tuple[Symbol | None, ...]
    attributes: tuple[AttributeValue, ...]
    outputs: int
    name: str = ""
    output_names: tuple[str, ...] = ()
    doc: str = ""
    versions: tuple[Version, ...] = ()  # those of the operator that fit; none where not known
    function: Function | None = None
    serial: int = field(default_factory=_serial)

    def __str__(self) -> str:
        return f"{self.op_type} {self.name!r}" if self.name else self.op_type


@dataclass(frozen=True, slots=True, eq=False)
class Symbol:
    """A value of a model that is being built: where it comes from, and its type where known.

    Symbols add, subtract, multiply and divide, take powers and multiply as matrices.
    """

    origin: Node | Formal | Constant
    index: int = 0
    type: Type | None = None

    @property
    def dtype(self) -> DType | None:
        """The element type, where it is a tensor of a known one."""
        return self.type.dtype if self.type and self.type.kind == "tensor" else None

    @property
    def axes(self) -> tuple[Axis, ...] | None:
        """The axes, where they are known."""
        return self.type.axes if self.type else None

    def typed(self, dtype: DTypeLike | Type, axes: Iterable[Axis] | None = None) -> Symbol:
        """Give the same value, said to be of a type; for what cannot be inferred.

        >>> from tensorkeep.models.building import input, node
        >>> node("Relu", input("x", "float32")).typed("float32", ["N", 8])
        <Relu: float32[N, 8]>
        """
        return replace(self, type=dtype if isinstance(dtype, Type) else tensor_type(dtype, axes))

    def __add__(self, other: Any) -> Symbol:
        return _apply("Add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return _apply("Add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return _apply("Sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return _apply("Sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return _apply("Mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return _apply("Mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return _apply("Div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return _apply("Div", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return _apply("Pow", self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return _apply("Pow", other, self)

    def __matmul__(self, other: Any) -> Symbol:
        return _apply("MatMul", self, other)

    def __rmatmul__(self, other: Any) -> Symbol:
        return _apply("MatMul", other, self)

    def __neg__(self) -> Symbol:
        return _apply("Neg", self)

    # NumPy leaves `array + symbol` to the symbol.
    __array_ufunc__ = None

    def __bool__(self) -> bool:
        raise TypeError("a value that is not computed yet is neither true nor false")

    def __eq__(self, other: object) -> bool:
        if self is other or other is None:
            return self is other
        raise TypeError('values are compared by a node, such as node("Equal", x, 0.0)')

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        origin = self.origin
        match origin:
            case Node():
                name = origin.name or origin.op_type
                if origin.outputs > 1:
                    name = f"{name}[{self.index}]"
            case Formal():
                name = origin.name
            case Constant():
                name = origin.name or "initializer"
        return f"<{name}: {self.type or 'of a type that is not known'}>"


def _apply(op_type: str, *inputs: Any) -> Symbol:
    from tensorkeep.models.building.nodes import node

    return node(op_type, *inputs)
